"""How far a running step is: bars or lines in the terminal, a progress artifact with rate and time left in the Prefect UI.

Contract: following never decides what becomes of the work; what cannot be shown is a warning in the run's log.
"""

import asyncio
import contextlib
import time
from collections.abc import AsyncIterator
from typing import Any
from uuid import UUID

from prefect import get_run_logger
from prefect.artifacts import acreate_progress_artifact, aupdate_progress_artifact

from tasks import announce, step

SECONDS = 2.0
"""How often a running step updates its progress artifact."""

AWAY_SECONDS = 30.0
"""How long it waits after the server did not answer."""


class Watch:
    """Progress of one running step."""

    def __init__(self, step: str, total: int | None, unit: str) -> None:
        self.step = step
        self.total = total
        self.unit = unit
        self.done = 0
        self.detail = ""
        self._began: tuple[float, int] | None = None

    def move(self, done: int, detail: str = "", total: int | None = None) -> None:
        """Report how far the step is."""
        if self._began is None:
            self._began = time.monotonic(), done
        self.done, self.detail = done, detail
        if total is not None:
            self.total = total
        step.LISTENER.get().moved(self.step, self.done, self.total, self.detail)

    @property
    def percent(self) -> float:
        """0 to 100."""
        return 100.0 * min(1.0, self.done / self.total) if self.total else 0.0

    def words(self) -> str:
        """One line: how much of what, how fast, and how long it takes from here."""
        parts = [f"{self.step}: {self.done} of {self.total if self.total is not None else '?'} {self.unit}"]
        if self._began is not None and self.total is not None:
            since, first = self._began
            parts += pace(self.done - first, self.total - self.done, time.monotonic() - since)
        return ", ".join(parts) + (f". {self.detail}" if self.detail else "")


def pace(done: int, left: int, seconds: float) -> list[str]:
    """Rate and time left in words; nothing where nothing is done yet.

    Args:
        seconds: that what is done has taken.
    """
    if done <= 0 or seconds <= 0:
        return []
    rate = done / seconds
    words = f"{rate:.1f} per second" if rate >= 1 else f"{60 * rate:.1f} per minute"
    return [words, f"about {span(left / rate)} left"] if left > 0 else [words]


def span(seconds: float) -> str:
    """A time in the unit that a person would use."""
    if seconds < 90:
        return f"{seconds:.0f} s"
    return f"{seconds / 60:.0f} min" if seconds < 5400 else f"{seconds / 3600:.1f} h"


@contextlib.asynccontextmanager
async def watch(label: str, total: int | None, unit: str) -> AsyncIterator[Watch]:
    """Follow a step from now to its end."""
    one = Watch(label, total, unit)
    step.LISTENER.get().began(label, total, unit)
    get_run_logger().info("%s: begins", label)
    artifact: UUID | None = None

    async def publish() -> None:
        nonlocal artifact
        shown: dict[str, Any] = {"progress": round(one.percent, 1), "description": one.words()}
        if artifact is None:
            artifact = await acreate_progress_artifact(**shown)
        else:
            await aupdate_progress_artifact(artifact, **shown)

    async def follow() -> None:
        shown = None
        while True:
            sent = True
            if (one.done, one.detail) != shown:
                shown = (one.done, one.detail)
                sent = await announce.tell(f"The progress of {label}", announce.SERVER, publish)
            await asyncio.sleep(SECONDS if sent else AWAY_SECONDS)

    follower = asyncio.create_task(follow())
    try:
        yield one
    finally:
        follower.cancel()
        with contextlib.suppress(asyncio.CancelledError):
            await follower
    await announce.tell(f"The progress of {label}", announce.SERVER, publish)
