"""A comparison: one base configuration, and what differs between the runs that are compared.

Contract: like a run's configuration, unknown keys are refused with the nearest known name and every mistake is a
sentence. Importing this loads neither torch, vllm nor prefect.
"""

import typing
from pathlib import Path
from typing import Any, Literal

from pydantic import Field, JsonValue, ValidationError, model_validator

from fem_core.config import Section
from fem_core.config_files import explain, override, read_settings
from fem_core.errors import FemError

NAME = r"^[A-Za-z0-9][A-Za-z0-9._-]{0,59}$"
"""Shorter than a run's name, which begins with it."""


class Arm(Section):
    """Settings that belong together under a name of their own."""

    name: str = Field(pattern=NAME)
    """The arm's name in tables and in the names of its runs."""
    set: dict[str, JsonValue] = Field(default_factory=dict)
    """Value by dotted field, such as ``scheme.budget: 4``."""


class Comparison(Section):
    """Runs that differ in a few fields: every arm with every combination of the axes' values."""

    name: str = Field(pattern=NAME)
    """The comparison's name; the file's name by default. Every run's name begins with it."""
    base: dict[str, Any]
    """The configuration that all runs share, as a mapping, or the path of a configuration file, relative to this one.
    Its ``name`` is not used."""
    arms: tuple[Arm, ...] = ()
    """Named settings; without any, the axes alone make the runs."""
    axes: dict[str, tuple[JsonValue, ...]] = Field(default_factory=dict)
    """Values by dotted field, such as ``scheme.name: [rs, star, pps]``. ``seed`` is the axis over which is averaged."""
    exclude: tuple[dict[str, JsonValue], ...] = ()
    """Combinations to leave out: values by axis, or by ``arm``; a run that matches all of them is left out."""
    fair: Literal["none", "draws", "accepted"] = "none"
    """``draws`` reads every arm at the last iteration that all arms' draws pay for; ``accepted`` trains every iteration of
    every arm on at most ``accepted`` rationales."""
    accepted: int | None = Field(None, ge=1)
    """With ``fair: accepted``, the most rationales of an iteration."""
    concurrency: int = Field(1, ge=1)
    """Runs at a time."""
    deployment: str | None = None
    """A Prefect deployment of the flow ``fem``, as ``flow/deployment``, that does the runs; by default this process."""

    @model_validator(mode="after")
    def _accepted_is_a_number(self) -> "Comparison":
        if (self.fair == "accepted") != (self.accepted is not None):
            raise ValueError("fair: accepted and accepted: N go together; write both or neither")
        return self


def load_comparison(path: str | Path, overrides: typing.Sequence[str] = (), store: str | None = None) -> Comparison:
    """Read a comparison's YAML file, and the file that its ``base`` names.

    Args:
        overrides: ``a.b=c`` changes of the base.
        store: of all runs; the base's by default.

    Raises:
        FemError: a file is missing or no YAML mapping, a key is unknown, a value is wrong.
    """
    data = read_settings(path)
    base = data.get("base", {})
    if isinstance(base, str):
        base = read_settings(Path(path).parent / base)
    if not isinstance(base, dict):
        raise FemError(
            f"base in {path} is neither a mapping of settings nor the path of a configuration file. Write one."
        )
    for text in overrides:
        override(base, text)
    if store is not None:
        base["store"] = store
    if "base" in data:
        data["base"] = base
    data.setdefault("name", Path(path).stem)
    try:
        return Comparison.model_validate(data)
    except ValidationError as error:
        raise FemError(explain(error, Comparison)) from error
