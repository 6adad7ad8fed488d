"""Old manifests in today's form: one numbered step per version, applied when a manifest is read.

Contract: files in the store are never rewritten; a manifest of any earlier version reads as one of today's, one of a
later version is refused. Whoever changes the record's form raises ``SCHEMA_VERSION``, adds a step here, and keeps a
store of the old version under tests/golden.
"""

from collections.abc import Callable
from typing import Any

from fem_core.errors import FemError
from fem_core.schemas import SCHEMA_VERSION


def _to_2(values: dict[str, Any]) -> dict[str, Any]:
    """Version 2 knows artifacts whose files another run holds (``source``); version 1 has none."""
    return {**values, "source": None}


STEPS: dict[int, Callable[[dict[str, Any]], dict[str, Any]]] = {1: _to_2}
"""From each version to the next."""


def migrate(values: dict[str, Any], where: str) -> dict[str, Any]:
    """The values of a manifest in today's form; what is no manifest at all is returned as it is, to be refused later.

    Raises:
        FemError: it was written by a newer version of this program.
    """
    version = values.get("schema_version")
    if not isinstance(version, int) or version < 1:
        return values
    if version > SCHEMA_VERSION:
        raise FemError(
            f"{where} has schema version {version}, and this program reads versions up to {SCHEMA_VERSION}. "
            "Read it with the newer version of this program that wrote it."
        )
    for step in range(version, SCHEMA_VERSION):
        values = STEPS[step](values)
    return {**values, "schema_version": SCHEMA_VERSION}
