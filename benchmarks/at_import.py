"""Changes a module of the product when a process imports it: for measurements and crashes from the inside.

Used by the ``sitecustomize`` modules beside, which run before anything else in every Python process of a measured run.
"""

import importlib.abc
import importlib.machinery
import sys
from collections.abc import Callable
from typing import Any


def patch_at_import(name: str, patch: Callable[[Any], None]) -> None:
    """Call ``patch`` with the module once it is imported."""
    sys.meta_path.insert(0, _Finder(name, patch))


class _Finder(importlib.abc.MetaPathFinder):
    def __init__(self, name: str, patch: Callable[[Any], None]) -> None:
        self._name, self._patch = name, patch

    def find_spec(self, name: str, path: Any, target: Any = None) -> Any:
        if name != self._name:
            return None
        sys.meta_path.remove(self)
        spec = importlib.machinery.PathFinder.find_spec(name, path)
        if spec is None or spec.loader is None:
            return spec
        original = spec.loader.exec_module

        def exec_module(module: Any) -> None:
            original(module)
            self._patch(module)

        spec.loader.exec_module = exec_module  # type: ignore[method-assign]
        return spec
