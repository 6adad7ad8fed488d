"""Summaries of posts judged by people (Summarize from Feedback): the better of two, or a rating 1 to 7.

Contract: the group is the post's text. Rows about news articles, which the set mixes in, are left out and counted. A table
of posts with a reference, a model's summary and the column ``preferred`` is taken too; its judge is a language model,
which a note says.
"""

import re
from typing import Any

from fem_core.config_problems import TldrProblems
from fem_core.errors import FemError
from fem_core.problems.pairs import ask
from fem_core.problems.problem import Problem, group_of, make_problem
from fem_core.problems.published import Unfit, text_in
from fem_core.problems.published import load as load_published
from fem_core.problems.ratings import parse_rating, scale_record
from fem_core.problems.registry import ProblemSet
from fem_core.problems.rows import Row, reach, shown

LOW, HIGH = 1, 7

MEANINGS = {
    "overall": "Overall quality is how well the summary, taken as a whole, stands for the post.",
    "accuracy": "Accuracy is whether everything that the summary says is in the post.",
    "coverage": "Coverage is how much of what matters in the post is in the summary.",
    "coherence": "Coherence is whether the summary is clear and reads well by itself, without the post.",
}
"""What each axis means, in this project's words."""

_QUERY = re.compile(r"SUBREDDIT: r/(?P<subreddit>[^\n]*)\n\nTITLE: (?P<title>[^\n]*)\n\nPOST: (?P<post>.*)", re.DOTALL)
_JUDGED = {"reference": 0, "ours": 1}


def load(config: TldrProblems, seed: int) -> ProblemSet:
    """See ``published.load``."""
    by_model = False

    def problems_of(row: Row) -> list[Problem]:
        nonlocal by_model
        by_model = by_model or "preferred" in row.record
        return [_rating(row, config.axis)] if config.form == "axis" else _comparison(row, config, seed)

    found = load_published(config, seed, problems_of)
    if by_model:
        found.notes.append("The column 'preferred' holds the choice of a language model, not of people.")
    return found


def _comparison(row: Row, config: TldrProblems, seed: int) -> list[Problem]:
    if "preferred" in row.record:
        subreddit, title, post = _from_query(row)
        better = _judged(row)
        texts = (_line(text_in(row, "reference_responses")), _line(text_in(row, "postprocessed_response")))
    else:
        subreddit, title, post = _post(row)
        summaries, better = reach(row, "summaries"), reach(row, "choice")
        if not isinstance(summaries, list) or len(summaries) != 2 or better not in (0, 1):
            raise FemError(
                f"{row.place}: 'summaries' and 'choice' are not two summaries and 0 or 1, but {shown(better)} of "
                f"{shown(summaries)}. Mend or remove the row."
            )
        texts = (_summary(row, summaries[0]), _summary(row, summaries[1]))
    shown_post = _shown_post(subreddit, title, post)

    def problem(first: str, second: str, answer: str) -> Problem:
        question = f"Which of two summaries stands better for the post below?\n\n{shown_post}\n\nThe two summaries:"
        return make_problem(question, answer, "choice", choices=(first, second), group=group_of(post))

    return ask(texts, better, shown_post, seed, config.both_orders, problem)


def _rating(row: Row, axis: str) -> Problem:
    subreddit, title, post = _post(row)
    summary = reach(row, "summary")
    axes = summary.get("axes") if isinstance(summary, dict) else None
    if not isinstance(axes, dict):
        raise FemError(f"{row.place}: 'summary' has no 'axes', but is {shown(summary)}. Mend or remove the row.")
    if axes.get(axis) is None:
        raise Unfit(f"it has no rating of {axis}")
    rating = parse_rating(str(axes[axis]), LOW, HIGH)
    if rating is None:
        raise FemError(
            f"{row.place}: the {axis} {shown(axes[axis])} is no whole number from {LOW} to {HIGH}. Mend or remove the row."
        )
    name = "overall quality" if axis == "overall" else axis
    question = (
        f"How would a careful reader rate the {name} of the summary below? {MEANINGS[axis]} {LOW} is the worst, {HIGH} the "
        f"best.\n\n{_shown_post(subreddit, title, post)}\n\nSummary:\n{_summary(row, summary)}\n\n"
        f"Rate the {name} of the summary as a whole number from {LOW} to {HIGH}."
    )
    return make_problem(question, str(rating), "rating", group=group_of(post), verifier=scale_record(LOW, HIGH))


def _post(row: Row) -> tuple[str, str, str]:
    """Subreddit, title and post of a record of the set's own form."""
    info = reach(row, "info")
    if not isinstance(info, dict):
        raise FemError(f"{row.place}: 'info' is no record, but {shown(info)}. Mend or remove the row.")
    if not str(info.get("post") or "").strip():
        raise Unfit("they hold no post")
    post = text_in(row, "info.post")
    subreddit, title = (str(info.get(name) or "").strip() for name in ("subreddit", "title"))
    return subreddit, title, post


def _from_query(row: Row) -> tuple[str, str, str]:
    match = _QUERY.fullmatch(text_in(row, "query").removesuffix("TL;DR:").strip())
    if match is None:
        raise FemError(
            f"{row.place}: 'query' is not of the form 'SUBREDDIT: … TITLE: … POST: …'. Mend or remove the row."
        )
    return match["subreddit"].strip(), match["title"].strip(), match["post"].strip()


def _judged(row: Row) -> int:
    preferred = text_in(row, "preferred")
    if preferred not in _JUDGED:
        raise FemError(f"{row.place}: 'preferred' is {shown(preferred)}, not 'reference' or 'ours'. Mend the row.")
    return _JUDGED[preferred]


def _summary(row: Row, summary: Any) -> str:
    """The text of a summary, as one line, which a choice is."""
    text = summary.get("text") if isinstance(summary, dict) else None
    if not isinstance(text, str):
        raise FemError(f"{row.place}: a summary has no text, but is {shown(summary)}. Mend or remove the row.")
    if not text.strip():
        raise Unfit("a summary is empty")
    return _line(text)


def _line(text: str) -> str:
    return " ".join(text.split())


def _shown_post(subreddit: str, title: str, post: str) -> str:
    lines = [f"Subreddit: r/{subreddit}"] * bool(subreddit) + [f"Title: {title}"] * bool(title)
    return "\n".join([*lines, "Post:", post])
