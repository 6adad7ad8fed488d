"""The check at start: can this store be written, and does it honour create-if-absent?

Contract: either the root passes or a FemError says in one sentence what is wrong and in one what to do. The probe
object is removed again. A backend that ignores the condition would let two runs overwrite each other unnoticed.
"""

from contextlib import suppress
from pathlib import Path
from uuid import uuid4

from fem_core.errors import FemError
from fem_core.store.local import LocalRoot
from fem_core.store.patience import sentences
from fem_core.store.root import Root

FOLDER = ".fem-probe"


def probe(root: Root) -> None:
    """Create an object twice: the second try must be refused and must leave the first one's content."""
    path = f"{FOLDER}/{uuid4().hex}"
    made = _missing_folders(root)
    try:
        root.create(path, b"first")
        refused = not root.create(path, b"second")
        kept = root.read(path) == b"first"
        root.remove(path)
    except FemError:
        raise
    except Exception as error:  # every filesystem has its own exceptions; all of them mean that the store is unusable
        raise FemError(sentences(root.url, error)) from error
    if isinstance(root, LocalRoot):
        with suppress(OSError):  # another process is probing
            root.at(FOLDER).rmdir()
            for folder in made:
                folder.rmdir()
    if not (refused and kept):
        raise FemError(
            f"The store {root.url} ignores create-if-absent, so two runs could overwrite each other. "
            "Use a local folder, or an S3 server that honours If-None-Match."
        )


def _missing_folders(root: Root) -> list[Path]:
    """Folders of a local root that the probe will make and should not leave, innermost first."""
    if not isinstance(root, LocalRoot):
        return []
    return [folder for folder in (root.folder, *root.folder.parents) if not folder.exists()]
