"""The stable addresses of the browser's pages; templates take every address from here.

Contract: an address is made of names that the store's references hold, each quoted. ``Links`` leads through the
application; ``NoLinks`` is for a page that stands alone, where nothing leads away.
"""

from collections.abc import Collection
from typing import Any
from urllib.parse import quote, urlencode


class Links:
    """Addresses in the application."""

    live = True
    """Whether there is an application behind the page."""

    def runs(self) -> str | None:
        """All runs."""
        return "/runs"

    def run(self, run: str) -> str | None:
        """One run."""
        return f"/runs/{_part(run)}"

    def attempts(self, run: str, iteration: int, **chosen: Any) -> str | None:
        """The attempts of an iteration that a filter lets through."""
        return f"{self.run(run)}/iterations/{iteration}/attempts{_query(chosen)}"

    def attempt(self, run: str, iteration: int, problem: str, attempt: int, **chosen: Any) -> str | None:
        """One attempt, whole."""
        return f"{self.run(run)}/iterations/{iteration}/attempts/{_part(problem)}/{attempt}{_query(chosen)}"

    def export(self, run: str, iteration: int, **chosen: Any) -> str | None:
        """The same attempts as a file."""
        return f"{self.run(run)}/iterations/{iteration}/export{_query(chosen)}"

    def problem(self, run: str, problem: str, **chosen: Any) -> str | None:
        """One problem through time."""
        return f"{self.run(run)}/problems/{_part(problem)}{_query(chosen)}"

    def artifact(self, path: str) -> str | None:
        """One artifact."""
        return f"/artifacts/{quote(path, safe='/=@')}"


class NoLinks(Links):
    """A page on its own: some iterations are below on it, and nothing else can be reached."""

    live = False

    def __init__(self, below: Collection[int]) -> None:
        """
        Args:
            below: iterations whose attempts are shown.
        """
        self._below = below

    def runs(self) -> str | None:
        """Nowhere."""
        return None

    def run(self, run: str) -> str | None:
        """Nowhere."""
        return None

    def attempts(self, run: str, iteration: int, **chosen: Any) -> str | None:
        """Further down."""
        return f"#iteration-{iteration}" if iteration in self._below else None

    def attempt(self, run: str, iteration: int, problem: str, attempt: int, **chosen: Any) -> str | None:
        """Nowhere."""
        return None

    def export(self, run: str, iteration: int, **chosen: Any) -> str | None:
        """Nowhere."""
        return None

    def problem(self, run: str, problem: str, **chosen: Any) -> str | None:
        """Nowhere."""
        return None

    def artifact(self, path: str) -> str | None:
        """Nowhere."""
        return None


_USUAL = ("kind", "attempts")
"""What an address says without saying it."""


def _part(name: str) -> str:
    return quote(name, safe="")


def _query(chosen: dict[str, Any]) -> str:
    values = {name: value for name, value in chosen.items() if value not in (None, "") and (name, value) != _USUAL}
    return f"?{urlencode(values)}" if values else ""
