"""The base model's tokenizer for an audit, from files that the model's manifest vouches for.

Contract: a file counts by its name and SHA-256, wherever it lies: with the base model, or in a checkpoint, as training
leaves these files as they are. Downloads nothing, and runs no code that comes with a model.
"""

import hashlib
import tempfile
from collections.abc import Iterator
from fnmatch import fnmatchcase
from pathlib import Path

from fem_core.audit import files
from fem_core.audit.ledger import Ledger
from fem_core.errors import FemError
from fem_core.model import TOKENIZER_FILES
from fem_core.prompts import ChatTokens
from fem_core.store.manifest import FileRecord, Manifest
from fem_core.store.root import Root


class NoTokenizer(Exception):
    """There is none here that can be loaded; says why."""


def load(ledger: Ledger, model: Manifest, cache: Path) -> ChatTokens:
    """The tokenizer of a base model.

    Args:
        cache: where the packaged model may be.

    Raises:
        NoTokenizer: a file of it is nowhere, or what is there cannot be loaded.
    """
    needed = [one for one in model.files if any(fnmatchcase(one.path, name) for name in TOKENIZER_FILES)]
    if not any(one.path.startswith("tokenizer") for one in needed):
        raise NoTokenizer("the base model's manifest lists none")
    optional = [one for one in model.files if one.path == "config.json"]  # training writes another one
    with tempfile.TemporaryDirectory(prefix="fem-tokenizer-") as folder:
        for record in (*needed, *optional):
            data = next(_copies(ledger, model, record, cache), None)
            if data is not None:
                (Path(folder) / Path(record.path).name).write_bytes(data)
            elif record in needed:
                raise NoTokenizer(f"{record.path} is neither with the base model nor in a checkpoint")
        try:
            return ChatTokens(Path(folder))
        except Exception as error:  # whatever a file from a store makes of the loader is a finding
            raise NoTokenizer(f"it cannot be loaded ({type(error).__name__})") from error


def _copies(ledger: Ledger, model: Manifest, record: FileRecord, cache: Path) -> Iterator[bytes]:
    """The content of a file, from each place that has it."""
    for manifest in (model, *ledger.known("checkpoint")):
        place = files.place(ledger.store.root, manifest, cache)
        if place is not None and any((one.path, one.sha256) == (record.path, record.sha256) for one in manifest.files):
            data = _read(*place, record)
            if data is not None:
                yield data


def _read(root: Root, before: str, record: FileRecord) -> bytes | None:
    try:
        data = root.read(before + record.path)
    except (OSError, FemError):
        return None
    return data if hashlib.sha256(data).hexdigest() == record.sha256 else None
