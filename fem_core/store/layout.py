"""Where everything lies in the store: paths relative to its root, for people and for ``*.parquet`` globs.

Contract: these functions are the only place that spells a store path, and no name can lead out of the root. An artifact
is a folder; it exists when ``_manifest.json`` lies in it.
"""

import re

from fem_core.errors import FemError

MANIFEST = "_manifest.json"
"""Written last; the underscore keeps it out of parquet and datasets globs."""

COLLECTED = "_collected.json"
"""Beside the manifest of an artifact whose files ``fem gc`` removed: when and why."""

DELETED = "deleted.json"
"""The mark of a deleted run, beside its run.json."""

RUNS = "runs"
"""The folder of all runs."""

ANNOTATIONS = "annotations"
"""The folder of what people say of a run's attempts."""

COMPARISONS = "compare"
"""The folder of all reports of comparisons."""

AUDITS = "audits"
"""The folder of what recurring audits remember."""

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


def deleted_json(run: str) -> str:
    """The mark of a deleted run: ``fem gc`` removes its data, and keeps its records."""
    return f"{run_dir(run)}/{DELETED}"


def comparison(name: str) -> str:
    """The folder of a comparison's report. It holds no artifact: what lies there is made anew from the runs."""
    return f"{COMPARISONS}/{_name('comparison', name)}"


def audited(run: str) -> str:
    """What a recurring audit remembers of the run. It is no artifact: without it the run is audited again."""
    return f"{AUDITS}/{_name('run', run)}.json"


def lease(run: str) -> str:
    """The folder of the run's lease: who works on it now."""
    return f"{run_dir(run)}/lease"


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


def estimate(run: str) -> str:
    """The artifact of what the run was estimated to cost before it began, where somebody asked."""
    return f"{run_dir(run)}/estimate"


def annotations(run: str, version: int) -> str:
    """The artifact of one batch of annotations, from 1: ``runs/demo/annotations/0000007``."""
    if version < 1:
        raise ValueError(f"annotations have no version {version}")
    return f"{run_dir(run)}/{ANNOTATIONS}/{version:07d}"


def iteration(run: str, k: int, kind: str) -> str:
    """An artifact of iteration k, such as ``runs/demo/iteration=003/attempts``; k = 0 is the base model."""
    if k < 0:
        raise ValueError(f"iteration {k} is negative")
    return f"{run_dir(run)}/iteration={k:03d}/{_name('artifact', kind)}"


def moved(artifact: str, run: str) -> str:
    """The same place in another run: ``runs/a/iteration=001/attempts`` to ``runs/b/iteration=001/attempts``."""
    return f"{run_dir(run)}/{artifact.split('/', 2)[2]}"


def run_of(artifact: str) -> str:
    """The run that an artifact is in: ``a`` for ``runs/a/iteration=001/attempts``."""
    return artifact.split("/", 2)[1]


def trainer_state(run: str, k: int, step: int) -> str:
    """The artifact of a half-done M-step, after that many optimizer steps; it goes once the checkpoint is there."""
    return f"{iteration(run, k, 'trainer')}/step-{step:07d}"


def iteration_of(artifact: str) -> str:
    """The folder of the iteration that an artifact is in: ``runs/a/iteration=001``."""
    return "/".join(artifact.split("/")[:3])


def is_run_name(name: str) -> bool:
    """Whether a folder below ``runs`` can be a run's."""
    return _NAME.fullmatch(name) is not None


def is_in_artifact(path: str) -> bool:
    """Whether a file of a run lies in an artifact's folder, finished or not, rather than beside them: run.json, leases.
    Annotations count as records: they are small, and other runs stand on them."""
    inner = path.split("/")[2:]
    if inner[0] == ANNOTATIONS:
        return False
    beside = 2 if inner[0].startswith("iteration=") else 1
    return len(inner) > beside and not path.startswith(f"{lease(run_of(path))}/")


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
