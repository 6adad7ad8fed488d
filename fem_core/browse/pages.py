"""Templates to HTML. Everything is escaped unless it is ``Markup`` of ours, and a name that is missing is an error."""

from pathlib import Path
from typing import Any

from jinja2 import Environment, PackageLoader, StrictUndefined

from fem_core.browse import marks
from fem_core.browse.links import Links

STATIC = Path(__file__).parent / "static"
"""The style sheet and the script."""


class Pages:
    """The templates of this package."""

    def __init__(self, store_url: str, links: Links) -> None:
        self.links = links
        self._templates = Environment(
            loader=PackageLoader("fem_core.browse"),
            autoescape=True,
            undefined=StrictUndefined,
            trim_blocks=True,
            lstrip_blocks=True,
        )
        self._templates.globals.update(links=links, store_url=store_url)
        self._templates.filters.update(
            plain=marks.plain,
            found=marks.found,
            short=marks.shortened,
            beyond=marks.beyond,
            bytes=_bytes,
            when=when,
            figure=_figure,
        )

    def render(self, template: str, **values: Any) -> str:
        """One page."""
        return self._templates.get_template(template).render(**values)


def _bytes(size: int) -> str:
    from rich.filesize import decimal

    return decimal(size)


def when(moment: str) -> str:
    """ISO 8601, UTC, without what people do not read."""
    return f"{moment[:16].replace('T', ' ')} UTC" if moment else "at an unknown time"


def _figure(value: float | None, digits: int = 3) -> str:
    return "–" if value is None else f"{value:,.{digits}f}"
