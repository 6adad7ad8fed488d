"""Where everything lies in the store: paths relative to its root, for people and for ``*.parquet`` globs.

Contract: these functions are the only place that spells a store path, and no name can lead out of the root. An artifact
is a folder; it exists when ``_manifest.json`` lies in it.
"""

import re

from fem_core.errors import FemError

MANIFEST = "_manifest.json"
"""Written last; the underscore keeps it out of parquet and datasets globs."""

RUNS = "runs"
"""The folder of all runs."""

_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,99}")


def run_dir(run: str) -> str:
    """``runs/<run>``: everything of a run.

    Raises:
        FemError: the name is not 1 to 100 letters, digits, ``.``, ``_`` and ``-``, beginning with a letter or digit.
    """
    return f"{RUNS}/{_name('run', run)}"


def run_json(run: str) -> str:
    """The run's record."""
    return f"{run_dir(run)}/run.json"


def problems(run: str, split: str) -> str:
    """The artifact of one split, ``train`` or ``test``: each has its own digest, since each feeds other steps."""
    return f"{run_dir(run)}/problems/{_name('split', split)}"


def model(run: str) -> str:
    """The artifact of the base model, theta^(0)."""
    return f"{run_dir(run)}/model"


def prompts(run: str) -> str:
    """The artifact of rendered examples and measured prompt lengths."""
    return f"{run_dir(run)}/prompts"


def report(run: str) -> str:
    """The artifact of a finished run's table and curves."""
    return f"{run_dir(run)}/report"


def iteration(run: str, k: int, kind: str) -> str:
    """An artifact of iteration k, such as ``runs/demo/iteration=003/attempts``; k = 0 is the base model."""
    if k < 0:
        raise ValueError(f"iteration {k} is negative")
    return f"{run_dir(run)}/iteration={k:03d}/{_name('artifact', kind)}"


def part_name(n: int) -> str:
    """The n-th part file of an artifact, from 0: ``part-00007.parquet``."""
    return f"part-{n:05d}.parquet"


def _name(what: str, name: str) -> str:
    if not _NAME.fullmatch(name):
        raise FemError(
            f"{name!r} cannot be the name of a {what}. "
            "Use up to 100 letters, digits, '.', '_' and '-', beginning with a letter or a digit."
        )
    return name
