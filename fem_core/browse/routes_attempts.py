"""Pages for readers: the attempts of an iteration, one of them whole, one problem through time; and them as files."""

from itertools import chain
from threading import Lock
from typing import Annotated, Any

from fastapi import APIRouter, Form, Query
from fastapi.responses import HTMLResponse, RedirectResponse, StreamingResponse
from markupsafe import Markup

from fem_core import annotations
from fem_core.annotations import Annotation
from fem_core.browse import exporting, prompt
from fem_core.browse.asked import (
    AskedAttempts,
    AskedExport,
    AttemptIndex,
    Iteration,
    Kind,
    Place,
    ProblemId,
    RunName,
)
from fem_core.browse.figures import ordered_verdicts
from fem_core.browse.filters import words
from fem_core.browse.library import Library
from fem_core.browse.marks import difference, shortened
from fem_core.browse.pages import Pages
from fem_core.browse.rows import Attempt
from fem_core.browse.security import is_inside
from fem_core.errors import FemError
from fem_core.filter.verdict import ACCEPTED, NOT_RIGHT
from fem_core.model import default_cache
from fem_core.prompts import ChatTokens
from fem_core.store import layout

SIZE = 20
"""Attempts on a page."""

SORTS = (
    ("position", "as drawn"),
    ("-position", "as drawn, last first"),
    ("problem", "by problem"),
    ("length", "shortest first"),
    ("-length", "longest first"),
    ("logprob", "least likely first"),
    ("-logprob", "most likely first"),
    ("verdict", "by verdict"),
)
"""Orders of the library, in words."""

NAMES = {
    "attempts": ("attempt", "attempts"),
    "predictions": ("prediction", "predictions"),
    "predictions-exemplars": ("prediction with exemplars", "predictions with exemplars"),
}
"""One and several of a kind, in words."""


def router(library: Library, pages: Pages) -> APIRouter:
    """The routes."""
    routes = APIRouter(prefix="/runs/{run}")
    tokenizers = _Tokenizers(library)

    @routes.get("/iterations/{iteration}/attempts", response_class=HTMLResponse)
    def attempts(run: RunName, iteration: Iteration, asked: Annotated[AskedAttempts, Query()]) -> str:
        """The attempts that a filter lets through, to be read."""
        chosen = asked.filter()
        record = library.store.existing_run(run)
        found = library.attempts(run, iteration, chosen, asked.sort, asked.page, SIZE, asked.kind)
        values = asked.model_dump(exclude_none=True, exclude_defaults=True)

        def turned(by: int) -> str | None:
            page = min(found.page + by, found.pages)  # an address may name a page after the last
            there = page >= 1 and page != found.page
            return pages.links.attempts(run, iteration, **(values | {"page": page})) if there else None

        there = library.values(run, iteration, asked.kind)
        narrow = chosen.__dict__.items()
        return pages.render(
            "attempts.html",
            run=run,
            iteration=iteration,
            beside=[k for k in (iteration - 1, iteration + 1) if _is_there(library, run, k, asked.kind)],
            kind=asked.kind,
            named=NAMES[asked.kind],
            chosen=asked,
            sort=asked.sort,
            sorts=SORTS,
            verdicts=ordered_verdicts([*there["verdict"], *([asked.verdict] if asked.verdict else [])]),
            there=there,
            narrowed=any(value is not None for name, value in narrow if name not in ("text", "verdict", "prompt_kind")),
            found=found,
            words=words(chosen.text),
            here=pages.links.attempts(run, iteration, **values),
            prompts=prompts_of(record.config, found.rows),
            annotations=_annotations(library, run),
            previous_page=turned(-1),
            next_page=turned(1),
            exports={
                name: pages.links.export(run, iteration, **(values | {"format": name, "page": None, "sort": None}))
                for name in exporting.MEDIA
            },
        )

    @routes.get("/iterations/{iteration}/attempts/{problem_id}/{attempt}", response_class=HTMLResponse)
    def attempt(
        run: RunName, iteration: Iteration, problem_id: ProblemId, attempt: AttemptIndex, kind: Kind = "attempts"
    ) -> str:
        """One attempt, whole, with its prompt."""
        row = library.attempt(run, iteration, problem_id, attempt, kind)
        chat, trouble = _chat(library, run, row)
        exact: Markup | None = None
        count = 0
        if chat:
            tokens = tokenizers.of(run)
            if isinstance(tokens, ChatTokens):
                exact, count = prompt.rendered(tokens, chat)
            else:
                trouble = f"the tokenizer is not here ({tokens})"
        return pages.render(
            "attempt.html",
            run=run,
            row=row,
            exact=exact,
            count=count,
            chat=prompt.marked(chat) if chat else None,
            trouble=trouble,
            hinted=row.prompt_kind == "hinted",
            artifact=layout.iteration(run, iteration, kind),
            annotations=_annotations(library, run).get(row.id, ()),
        )

    @routes.get("/iterations/{iteration}/export")
    def export(run: RunName, iteration: Iteration, asked: Annotated[AskedExport, Query()]) -> StreamingResponse:
        """The attempts that a filter lets through, as a file."""
        batches = library.export(run, iteration, asked.filter(), asked.kind)
        first = next(batches)  # what does not hold is said before the file begins
        everything = chain([first], batches)
        body = exporting.jsonl(everything) if asked.format == "jsonl" else exporting.parquet(first.schema, everything)
        name = f"{run}-{iteration}-{asked.kind}.{asked.format}"
        return StreamingResponse(
            body,
            media_type=exporting.MEDIA[asked.format],
            headers={"Content-Disposition": f'attachment; filename="{name}"'},
        )

    @routes.get("/problems/{problem_id}", response_class=HTMLResponse)
    def problem(
        run: RunName,
        problem_id: ProblemId,
        old: Place | None = None,
        new: Place | None = None,
    ) -> str:
        """One problem through time, and two of its rationales with what has changed between them."""
        rows = library.problem(run, problem_id)
        left, right = _two(rows, old, new)
        pair: list[tuple[Attempt, Markup]] = []
        if left is not right:
            texts = difference(shortened(left.text), shortened(right.text))
            pair = list(zip((left, right), texts, strict=True))
        return pages.render(
            "problem.html",
            run=run,
            problem_id=problem_id,
            rows=rows,
            first=_first(rows),
            pair=pair,
            old=left.place,
            new=right.place,
        )

    @routes.post("/annotations", status_code=303, response_class=RedirectResponse)
    def annotate(
        run: RunName,
        attempt: Annotated[str, Form(max_length=200)],
        value: Annotated[str, Form(max_length=20)],
        author: Annotated[str, Form(max_length=100)],
        comment: Annotated[str, Form(max_length=annotations.MOST_COMMENT)] = "",
        back: Annotated[str, Form()] = "",
    ) -> str:
        """Keep what a reader says of an attempt, and lead back to where it was said."""
        said = library.annotate(run, attempt, value, comment, author)
        if is_inside(back):
            return back
        return str(pages.links.attempt(run, said.iteration, said.problem_id, said.attempt))

    return routes


def prompts_of(config: Any, rows: tuple[Attempt, ...]) -> dict[str, list[tuple[str, Markup]]]:
    """The messages that drew these attempts, by attempt id, where a page of many can say them."""
    found = {row.id: prompt.from_row(config, row) for row in rows}
    return {name: prompt.marked(chat) for name, chat in found.items() if chat is not None}


class _Tokenizers:
    """The runs' tokenizers, each loaded once; one that is not here is looked for again, as a checkpoint may bring it."""

    def __init__(self, library: Library) -> None:
        self._library = library
        self._found: dict[str, ChatTokens] = {}
        self._lock = Lock()

    def of(self, run: str) -> ChatTokens | str:
        """The run's, or why there is none."""
        model = self._library.store.manifest(layout.model(run))
        if model is None:
            return "the base model has no manifest here"
        with self._lock:
            if model.digest in self._found:
                return self._found[model.digest]
            loaded = prompt.tokenizer(self._library.store, model, run, default_cache())
            if isinstance(loaded, ChatTokens):
                self._found[model.digest] = loaded
            return loaded


def _chat(library: Library, run: str, row: Attempt) -> tuple[prompt.Chat | None, str]:
    """The messages, or why there are none."""
    if row.prompt_kind not in prompt.DRAWN:
        return None, "It was given, not drawn: no prompt was shown"
    config = library.store.existing_run(run).config
    problems = library.store.manifest(layout.problems(run, "train" if row.kind == "attempts" else "test"))
    if problems is None:
        return None, "Its problems are not in the store"
    try:
        return prompt.from_row(config, row) or prompt.from_store(library.store, config, row, problems), ""
    except FemError as error:
        return None, str(error).rstrip(".")


def _two(rows: list[Attempt], old: str | None, new: str | None) -> tuple[Attempt, Attempt]:
    """Which two to set side by side: the first and the last that were kept, where nobody says."""
    known = {row.place: row for row in rows}
    for place in (old, new):
        if place is not None and place not in known:
            raise FemError(f"There is no {place} at this problem. Choose two from its page.")
    kept = [row for row in rows if row.verdict == ACCEPTED]
    usual = (kept[0], kept[-1]) if len(kept) > 1 else (rows[0], rows[-1])
    return known[old] if old else usual[0], known[new] if new else usual[1]


def _first(rows: list[Attempt]) -> str:
    """When it was first solved, how, and when a filter first let a solution through."""
    drawn = [row for row in rows if row.prompt_kind in prompt.DRAWN]
    solved = next((row for row in drawn if row.verdict not in NOT_RIGHT), None)
    if not drawn:
        return "Its completions were given, not drawn."
    if solved is None:
        return f"Not solved in {len(drawn)} attempt{'s' if len(drawn) > 1 else ''}."
    shown = f" with {solved.exemplars} exemplar{'s' if solved.exemplars > 1 else ''}" if solved.exemplars else ""
    said = f"First solved in iteration {solved.iteration}, by a {solved.prompt_kind} prompt{shown}"
    if solved.verdict == ACCEPTED:
        return f"{said}."
    kept = next((row for row in drawn if row.verdict == ACCEPTED), None)
    then = "none was kept so far" if kept is None else f"first kept in iteration {kept.iteration}"
    return f"{said}, and dropped as {solved.verdict.replace('_', ' ')}; {then}."


def _annotations(library: Library, run: str) -> dict[str, list[Annotation]]:
    """What was said, in time, by the attempt's id."""
    found: dict[str, list[Annotation]] = {}
    for one in library.annotations(run):
        found.setdefault(f"{one.iteration}.{one.problem_id}.{one.attempt}", []).append(one)
    return found


def _is_there(library: Library, run: str, k: int, kind: str) -> bool:
    try:
        return k >= 0 and library.store.manifest(layout.iteration(run, k, kind)) is not None
    except FemError:  # its own page says why it cannot be read
        return False
