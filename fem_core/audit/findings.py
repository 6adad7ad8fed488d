"""What an audit says: one row per artifact, and a finding for each thing that does not hold or could not be looked at.

Contract: a finding names the artifact, the file, what was recorded and what was found, so that nobody has to search.
"""

from dataclasses import dataclass
from typing import Literal

Level = Literal["broken", "unchecked", "note"]
"""``broken``: the record does not hold. ``unchecked``: what it would take is not here. ``note``: worth knowing."""

AWAY = ("not here", "collected")
"""What a finding says of files that are away for a reason: the base model's folder is on another machine, or ``fem gc``
removed them and left its mark."""


@dataclass(frozen=True)
class Finding:
    """One thing that an audit found."""

    level: Level
    artifact: str
    """Path of the artifact, or of the run."""
    file: str | None
    """The file inside it, where one is concerned."""
    what: str
    """What was looked at, such as ``sha256`` or ``input attempts``."""
    recorded: str = ""
    """What the record says."""
    found: str = ""
    """What is there."""

    def sentence(self) -> str:
        """The finding in one line."""
        place = self.artifact if self.file is None else f"{self.artifact}/{self.file}"
        values = [
            f"{name} {value}" for name, value in (("recorded", self.recorded), ("found", self.found)) if value != ""
        ]
        return f"{place}: {self.what}" + (f": {', '.join(values)}" if values else "")


@dataclass(frozen=True)
class Checked:
    """One artifact, with what was looked at."""

    artifact: str
    kind: str
    files: int
    bytes: int
    rows: int | None
    """Rows of all its tables as recorded; None where it has none."""
    inputs: int
    """Inputs whose producer is in the store."""
    external: int
    """Inputs from outside, which have no producer."""
    rederived: bool
    """Whether its step was done again and compared."""
    findings: tuple[Finding, ...]

    @property
    def state(self) -> str:
        """``broken``, ``not here`` or ``collected`` (see ``AWAY``), ``unchecked`` in part, or ``ok``."""
        levels = {finding.level for finding in self.findings}
        if "broken" in levels:
            return "broken"
        for finding in self.findings:
            if finding.what in AWAY:
                return finding.what
        return "unchecked" if "unchecked" in levels else "ok"


@dataclass(frozen=True)
class Audit:
    """All of an audit."""

    run: str
    url: str
    deep: bool
    checked: tuple[Checked, ...]
    """Artifacts in the order of their making, those of earlier runs that this one stands on first."""
    general: tuple[Finding, ...]
    """What concerns the run as a whole: run.json, missing artifacts, files that belong to none."""
    missing: tuple[str, ...]
    """What an unfinished run has still to make."""

    @property
    def findings(self) -> tuple[Finding, ...]:
        """All findings, upstream first."""
        return self.general + tuple(finding for row in self.checked for finding in row.findings)

    @property
    def broken(self) -> tuple[Finding, ...]:
        """What does not hold, upstream first: the first one is where to look."""
        return tuple(finding for finding in self.findings if finding.level == "broken")

    @property
    def holds(self) -> bool:
        """Whether nothing is broken."""
        return not self.broken
