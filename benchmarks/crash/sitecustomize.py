"""Kills the process that reaches a named point: read by every Python process that has this folder on PYTHONPATH.

``FEM_CRASH=POINT:N`` names the N-th time that POINT is reached, in any process of the run; the file ``FEM_CRASH_MARK``
is made just before, so that only one process dies and the harness knows that it did. The points lie around the store's
own calls and change nothing else. Part of benchmarks/crash_matrix.py; nothing of the product reads this.
"""

import os
import signal

from benchmarks.at_import import patch_at_import

POINTS = (
    "before-part",  # a part is drawn and judged, nothing of it is written
    "after-part",  # it is written, nobody was told
    "before-manifest",  # all files of an artifact are there
    "after-manifest",  # it exists, and the flow does not know yet
    "checkpoint-upload",  # one file of a checkpoint is written, others are not
    "before-run",  # everything is checked, run.json is not written
)


def _reached(point: str) -> None:
    wanted, _, count = os.environ.get("FEM_CRASH", "").partition(":")
    if wanted != point:
        return
    mark = os.environ["FEM_CRASH_MARK"]
    tally = f"{mark}.tally"
    with open(tally, "a") as file:
        file.write("x")
    if os.path.getsize(tally) == int(count) and not os.path.exists(mark):
        with open(mark, "w") as file:
            file.write(point)
        os.kill(os.getpid(), signal.SIGKILL)


def _patch(module) -> None:  # type: ignore[no-untyped-def]
    store = module.Store
    write_table, commit, put, create_run = store.write_table, store.commit, store.put_directory, store.create_run

    def patched_write_table(self, artifact, name, *args, **kwargs):  # type: ignore[no-untyped-def]
        part = artifact.endswith(("/attempts", "/predictions"))
        if part:
            _reached("before-part")
        record = write_table(self, artifact, name, *args, **kwargs)
        if part:
            _reached("after-part")
        return record

    def patched_commit(self, manifest):  # type: ignore[no-untyped-def]
        _reached("before-manifest")
        counts = commit(self, manifest)
        _reached("after-manifest")
        return counts

    def patched_put_directory(self, *args, **kwargs):  # type: ignore[no-untyped-def]
        root, original = self._root, self._root.put

        def one(path, source):  # type: ignore[no-untyped-def]
            original(path, source)
            _reached("checkpoint-upload")

        root.put = one
        try:
            return put(self, *args, **kwargs)
        finally:
            del root.put

    def patched_create_run(self, record):  # type: ignore[no-untyped-def]
        _reached("before-run")
        return create_run(self, record)

    store.write_table, store.commit, store.put_directory = patched_write_table, patched_commit, patched_put_directory
    store.create_run = patched_create_run


if os.environ.get("FEM_CRASH"):
    patch_at_import("fem_core.store.store", _patch)
