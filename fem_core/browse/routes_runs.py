"""Pages of runs: all of them in a table, one of them, and several side by side."""

from collections.abc import Callable
from typing import Annotated, Any
from urllib.parse import urlencode

import yaml
from fastapi import APIRouter, Query
from fastapi.responses import HTMLResponse, RedirectResponse

from fem_core.browse import figures, side_by_side
from fem_core.browse.asked import AskedRuns, RunName
from fem_core.browse.charts import sparkline
from fem_core.browse.library import Library
from fem_core.browse.links import Links
from fem_core.browse.pages import Pages
from fem_core.browse.rows import RunRow
from fem_core.errors import FemError
from fem_core.report.summary import HEADERS, cells, further, notes, title

_SORTS: dict[str, Callable[[RunRow], Any]] = {
    "name": lambda row: row.name,
    "state": lambda row: row.line.state,
    "scheme": lambda row: row.scheme or "",
    "model": lambda row: row.model or "",
    "problems": lambda row: row.problems or "",
    "iterations": lambda row: row.line.scored or 0,
    "accuracy": lambda row: row.accuracy.value if row.accuracy else -1.0,
    "utilization": lambda row: -1.0 if row.utilization is None else row.utilization,
    "created": lambda row: row.line.created,
}


def router(library: Library, pages: Pages) -> APIRouter:
    """The routes."""
    routes = APIRouter()

    @routes.get("/", include_in_schema=False)
    def start() -> RedirectResponse:
        return RedirectResponse("/runs")

    @routes.get("/runs", response_class=HTMLResponse)
    def runs(asked: Annotated[AskedRuns, Query()]) -> str:
        """The table of runs."""
        everything = library.runs()
        name, down = asked.sort.removeprefix("-"), asked.sort.startswith("-")
        if name not in _SORTS:
            raise FemError(f"Runs cannot be sorted by {name!r}. Choose one of {', '.join(_SORTS)}.")

        def sorted_by(column: str) -> str:
            turned = f"-{column}" if asked.sort == column else column
            values = {**asked.model_dump(exclude_none=True), "sort": turned}
            return f"/runs?{urlencode(values)}"

        return pages.render(
            "runs.html",
            rows=sorted((row for row in everything if _fits(row, asked)), key=_SORTS[name], reverse=down),
            total=len(everything),
            states=sorted({row.line.state.split(",")[0] for row in everything}),
            schemes=sorted({row.scheme for row in everything if row.scheme}),
            chosen=asked,
            sort=asked.sort,
            sorted_by=sorted_by,
            sparkline=sparkline,
        )

    @routes.get("/runs/{run}", response_class=HTMLResponse)
    def run(run: RunName) -> str:
        """One run."""
        return pages.render("run.html", samples=[], prompts={}, **run_values(library, run, pages.links))

    @routes.get("/compare", response_class=HTMLResponse)
    def compare(run: Annotated[list[str], Query(min_length=1, max_length=side_by_side.MOST)]) -> str:
        """Several runs side by side."""
        names = list(dict.fromkeys(run))
        if len(names) < 2:
            raise FemError("One run alone compares with nothing. Select at least two in the table of runs.")
        found = [library.run(name) for name in names]
        return pages.render(
            "compare.html",
            names=names,
            charts=figures.overlaid({page.record.name: page.summary for page in found}),
            pairs=side_by_side.paired(library.store, found),
            fields=side_by_side.fields(found),
        )

    return routes


def run_values(library: Library, run: str, links: Links) -> dict[str, Any]:
    """What run.html shows of a run.

    Raises:
        FemError: there is no such run.
    """
    page = library.run(run)
    bars, names = figures.verdicts(page.summary, links)
    return {
        "page": page,
        "annotated": library.annotated(run),
        "title": title(page.summary),
        "notes": notes(page.summary),
        "headers": HEADERS,
        "further": further(page.summary),
        "rows": list(zip(page.summary.rows, cells(page.summary), strict=True)),
        "readable": {row.iteration for row in page.summary.rows if row.drawn},
        "charts": figures.charts(page.summary),
        "verdicts": bars,
        "verdict_names": names,
        "levels": [
            f"{'dashed' if i % 2 == 0 else 'dotted'} line: {one.name}"
            for i, one in enumerate(figures.levels(page.summary))
        ],
        "graph": figures.lineage(page.artifacts, links),
        "model": str(page.record.places.get("model.source", "")),
        "config": yaml.safe_dump(page.record.config, sort_keys=False, allow_unicode=True),
        "places": yaml.safe_dump(page.record.places, sort_keys=False, allow_unicode=True),
    }


def _fits(row: RunRow, asked: AskedRuns) -> bool:
    text = " ".join((row.name, row.model or "", row.problems or "")).casefold()
    return (
        all(word in text for word in (asked.text or "").casefold().split())
        and asked.state in (None, row.line.state.split(",")[0])
        and asked.scheme in (None, row.scheme)
    )
