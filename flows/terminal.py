"""What `fem run` shows while it works: bars in a terminal, one plain line per event otherwise.

Contract: every step says when it begins and what it came to; in between a plain line at most every ten seconds, so
that a log file stays readable. What the run names is its own or the user's text, so control characters are dropped.
"""

import time
from typing import Any

from rich.console import Console
from rich.markup import escape
from rich.progress import BarColumn, Progress, SpinnerColumn, TaskID, TextColumn, TimeElapsedColumn

LINE_SECONDS = 10.0


class PlainLines:
    """For files and pipes."""

    def __init__(self) -> None:
        self._began: dict[str, float] = {}
        self._last: dict[str, float] = {}
        self._zero = time.monotonic()

    def _say(self, step: str, text: str) -> None:
        clean = "".join(c for c in text if c.isprintable())
        print(f"[{time.monotonic() - self._zero:7.1f} s] {step}: {clean}", flush=True)

    def began(self, step: str, total: int | None, unit: str) -> None:
        """Say that a step began."""
        self._began[step] = self._last[step] = time.monotonic()
        self._say(step, "begins" + (f", {total} {unit}" if total else ""))

    def moved(self, step: str, done: int, total: int | None, detail: str) -> None:
        """Say how far it is, now and then."""
        if time.monotonic() - self._last.get(step, 0.0) >= LINE_SECONDS:
            self._last[step] = time.monotonic()
            self._say(step, f"{done} of {total if total is not None else '?'}" + (f", {detail}" if detail else ""))

    def noted(self, step: str, text: str) -> None:
        """Say what a person should know."""
        self._say(step, text)

    def ended(self, step: str, note: str) -> None:
        """Say what it came to."""
        took = f" in {time.monotonic() - self._began[step]:.1f} s" if step in self._began else ""
        self._say(step, f"{note}{took}")

    def __enter__(self) -> "PlainLines":
        return self

    def __exit__(self, *_: object) -> None:
        return None


class Bars:
    """For people in front of a terminal: one bar per running step, one line per finished one."""

    def __init__(self, console: Console) -> None:
        self._progress = Progress(
            SpinnerColumn(),
            TextColumn("{task.description}"),
            BarColumn(bar_width=28),
            TextColumn("{task.completed:.0f}/{task.total}"),
            TimeElapsedColumn(),
            TextColumn("[dim]{task.fields[detail]}"),
            console=console,
        )
        self._bars: dict[str, TaskID] = {}

    def began(self, step: str, total: int | None, unit: str) -> None:
        """Open a bar."""
        if step not in self._bars:
            self._bars[step] = self._progress.add_task(escape(step), total=total, detail=unit)

    def moved(self, step: str, done: int, total: int | None, detail: str) -> None:
        """Move it."""
        if step in self._bars:
            fields: dict[str, Any] = {"detail": escape(detail)} if detail else {}
            self._progress.update(self._bars[step], completed=done, total=total, **fields)

    def noted(self, step: str, text: str) -> None:
        """A line above the bars."""
        self._progress.console.print(f"[yellow]note[/] {escape(step)}: {escape(text)}", highlight=False)

    def ended(self, step: str, note: str) -> None:
        """Turn the bar into a line."""
        took = ""
        if (bar := self._bars.pop(step, None)) is not None:
            elapsed = self._progress.tasks[self._progress.task_ids.index(bar)].elapsed or 0.0
            took = f" [dim]in {elapsed:.1f} s[/]"
            self._progress.remove_task(bar)
        self._progress.console.print(f"[green]done[/] {escape(step)}: {escape(note)}{took}", highlight=False)

    def __enter__(self) -> "Bars":
        self._progress.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._progress.stop()


def follower(console: Console) -> PlainLines | Bars:
    """What fits the place where the output goes."""
    return Bars(console) if console.is_terminal else PlainLines()
