"""A finished run that a test may spoil, and the audit of it."""

import shutil
from collections.abc import Callable
from pathlib import Path

import pytest

from fem_core.audit.audit import audit
from fem_core.audit.findings import Audit
from fem_core.store.store import Store

Examine = Callable[..., Audit]


@pytest.fixture
def made(made_folder: Path, tmp_path: Path) -> Store:
    """A store of one's own with the run ``made``."""
    return Store.open(str(shutil.copytree(made_folder, tmp_path / "store")), check=False)


@pytest.fixture
def examine(tmp_path: Path) -> Examine:
    """``examine(store, run="made", deep=False)``, with an empty cache."""

    def run_audit(store: Store, run: str = "made", deep: bool = False) -> Audit:
        return audit(store, run, deep=deep, cache=tmp_path / "cache")

    return run_audit
