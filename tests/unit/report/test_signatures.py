"""Failure signatures: each fires on figures that show it, stays silent beside them, and names real fields."""

import re
from dataclasses import replace
from pathlib import Path
from typing import Any

import pyarrow as pa
import pytest
from made_run import made_config

from fem_core.config import FilterConfig, PromptsConfig, RunConfig
from fem_core.config_files import sections_at
from fem_core.evaluate.diagnostics import Row as Measured
from fem_core.evaluate.score import wilson
from fem_core.filter.rationales import filter_attempts
from fem_core.problems.problem import make_problem
from fem_core.report.signatures import _KINDS, Signature, below_rs, lines, signatures
from fem_core.report.summary import Row, Summary, markdown
from fem_core.schemas import ATTEMPTS
from tasks.prepare import run_record


def scored(correct: int, n: int = 200, **counts: int) -> dict[str, Any]:
    low, high = wilson(correct, n)
    figures = {"n": n, "accuracy": correct / n, "low": low, "high": high, "majority_baseline": None}
    return figures | {"unparsable": 0, "truncated": 0, **counts}


def filtered(utilization: float = 0.6, tokens: float = 40.0, attempts: int = 200, **verdicts: int) -> dict[str, Any]:
    return {
        "problems": 200,
        "attempts": attempts,
        "accepted": round(200 * utilization),
        "utilization": utilization,
        "mean_rationale_tokens": tokens,
        "verdicts": verdicts,
    }


def run(
    *iterations: tuple[dict[str, Any], dict[str, Any]], base: int = 60, scheme: str = "pps", **drawn: int
) -> Summary:
    """A run with (filter, scores) per iteration."""
    rows = [Row(0, 0, scored(base, unparsable=150, truncated=40))]
    rows += [
        Row(k, 0, scores, stats, {"draws": stats["attempts"], "completion_tokens": 1, **drawn})
        for k, (stats, scores) in enumerate(iterations, 1)
    ]
    return Summary(
        run_record("made", made_config(scheme={"name": scheme}, iterations=max(1, len(iterations)))), rows, None
    )


GOOD = filtered(wrong_answer=60, unparsable=20, truncated=10), scored(90)


def names(summary: Summary, answers: list[Measured] = []) -> dict[str, tuple[int, ...]]:  # noqa: B006 (not changed)
    return {one.name: one.iterations for one in signatures(summary, answers)}


def test_a_run_that_learns_shows_none() -> None:
    assert names(run(GOOD, GOOD, GOOD), spread(1, yes=(60, 50), no=(40, 50))) == {}
    assert signatures(run()) == [] and signatures(Summary(run().record, [Row(0, 0)], None)) == []


def test_utilization_near_zero() -> None:
    assert names(run((filtered(0.049), scored(90)), GOOD)) == {"utilization near zero": (1,)}
    assert names(run((filtered(0.05), scored(90)))) == {}
    capped = filtered(0.04, accepted=8, over_size=120), scored(90)
    assert names(run(capped)) == {}, "filter.max_rationales asks for so few"
    (one,) = signatures(run((filtered(0.01), scored(90)), (filtered(0.02), scored(90))))
    assert one.iterations == (1, 2) and "utilization is 0.020 of 200 problems" in one.meaning


def test_accuracy_that_falls_beyond_its_interval() -> None:
    down = filtered(), scored(55)
    assert names(run(GOOD, GOOD, down)) == {"accuracy falls": (3,)}
    assert names(run(GOOD, (filtered(), scored(80)), (filtered(), scored(75)))) == {}, "the intervals overlap"
    assert names(run((filtered(), scored(55)), base=120)) == {"accuracy falls": (1,)}, "below the base model"
    (one,) = signatures(run(GOOD, GOOD, down))
    assert "accuracy is 0.275 (0.218 to 0.341) after 0.450" in one.meaning


def spread(k: int, **labels: tuple[int, int]) -> list[Measured]:
    """(answers, test problems) by label."""
    from fem_core.evaluate.diagnostics import entropy

    said, gold = (sum(pair[i] for pair in labels.values()) for i in (0, 1))
    rows = [("answer_entropy", "", entropy(a for a, _ in labels.values()), said)]
    rows += [("label_entropy", "", entropy(g for _, g in labels.values()), gold)]
    for label, (a, g) in labels.items():
        rows += [("label_share", label, g / gold, gold), ("answer_share", label, a / said, said)]
    return [{"iteration": k, "measure": m, "part": p, "value": v, "over": o} for m, p, v, o in rows]


def test_one_label_that_swallows_the_rest() -> None:
    one_left = spread(2, yes=(190, 100), no=(10, 100))
    assert names(run(GOOD, GOOD), one_left) == {"one label swallows the rest": (2,)}
    (one,) = signatures(run(GOOD, GOOD), one_left)
    assert "0.95 of the answers are 'yes', the right one for 0.50 of the problems" in one.meaning
    assert names(run(GOOD), spread(1, yes=(170, 100), no=(30, 100))) == {}, "more than half the entropy is left"
    assert names(run(GOOD), spread(1, yes=(190, 185), no=(10, 15))) == {}, "the labels are as uneven"
    assert names(run(GOOD), spread(1, yes=(3, 2), no=(0, 1))) == {}, "three answers say nothing"
    assert names(run(GOOD), spread(0, yes=(190, 100), no=(10, 100))) == {}, "the base model is not what EM made"


def test_rationales_that_get_short() -> None:
    short = filtered(tokens=19.9), scored(90)
    assert names(run(GOOD, GOOD, short)) == {"rationales get short": (3,)}
    assert names(run(GOOD, (filtered(tokens=20.0), scored(90)))) == {}
    assert names(run(short, GOOD)) == {}
    assert names(run(GOOD, short, given=200)) == {}, "given completions have no length"


def test_draws_and_predictions_that_run_into_the_limit() -> None:
    assert names(run((filtered(truncated=40), scored(90)))) == {"draws are truncated": (1,)}
    assert names(run((filtered(truncated=39), scored(90)))) == {}
    (one,) = signatures(run((filtered(truncated=50), scored(90, truncated=60))))
    assert "0.25 of the draws and 0.30 of the predictions end at the token limit" in one.meaning


def test_answers_that_cannot_be_parsed() -> None:
    assert names(run((filtered(unparsable=40), scored(90)), GOOD)) == {"answers cannot be parsed": (1,)}
    assert names(run((filtered(), scored(90, unparsable=40)))) == {"answers cannot be parsed": (1,)}
    assert names(run(GOOD)) == {}, "the untrained model's 150 unparsable predictions are no failure of EM"


def test_leaks_that_increase() -> None:
    leaking = filtered(leaked=30), scored(90)
    assert names(run(GOOD, leaking)) == {"leaks increase": (2,)}
    assert names(run((filtered(leaked=20), scored(90)), leaking)) == {}, "within the intervals"
    assert names(run(leaking, GOOD)) == {}
    assert names(run(GOOD, (filtered(leaked=3), scored(90)))) == {}


def test_more_right_draws_are_no_more_leaks() -> None:
    """A third of the right draws leaks both times; three times as many are right."""
    few = filtered(leaked=18, wrong_answer=120, unparsable=20, accepted=42), scored(90)
    many = filtered(leaked=54, wrong_answer=20, too_short=15, accepted=111), scored(90)
    assert names(run(few, many)) == {}
    more = filtered(leaked=100, wrong_answer=20, accepted=80), scored(90)
    (found,) = signatures(run(few, more))
    assert found.name == "leaks increase" and "0.56 of the draws that the leak filter looked at" in found.meaning
    assert "after 0.30 in iteration 1" in found.meaning


def test_leaks_that_are_marked_and_kept_count_as_well() -> None:
    def marked(leaks: int, **verdicts: int) -> tuple[dict[str, Any], dict[str, Any]]:
        return filtered(**verdicts) | {"marked_leaks": leaks}, scored(90)

    few, many = marked(2, accepted=80, wrong_answer=120), marked(40, accepted=60, over_size=40, wrong_answer=100)
    assert names(run(few, many)) == {"leaks increase": (2,)}
    assert names(run(marked(16, accepted=40), marked(40, accepted=60, over_size=40))) == {}, "0.4 both times"
    assert names(run(marked(0, wrong_answer=200), marked(40, accepted=80))) == {}, "nothing was looked at before"


def test_leaks_that_the_default_keeps_are_noticed_when_they_increase() -> None:
    """From the draws to the words: the filter as no configuration has set it."""
    problems = [make_problem(f"What is {n} + 1?", str(n + 1), "number") for n in range(40)]

    def kept(leaking: int) -> dict[str, Any]:
        told = ["Since we are told that the answer is right, we show it." if n < leaking else "Add." for n in range(40)]
        rows = [
            {
                "problem_id": problem.problem_id, "attempt": 0, "prompt_kind": "hinted", "exemplars": 0,
                "text": f"{said}\nAnswer: {problem.answer}", "answer": problem.answer, "verdict": "accepted",
                "finish_reason": "stop", "prompt_tokens": 9, "completion_tokens": 40, "logprob": -1.0, "seed": n,
            }
            for n, (problem, said) in enumerate(zip(problems, told, strict=True))
        ]  # fmt: skip
        table = pa.Table.from_pylist(rows, schema=ATTEMPTS)
        return filter_attempts(problems, [table], FilterConfig(), PromptsConfig()).stats

    first, later, older = kept(1), kept(30), filtered(accepted=40)
    found = names(run((first, scored(90)), (later, scored(90))))
    assert found == {"leaks increase": (2,)}
    assert names(run((later, scored(90)), (later, scored(90)))) == {}
    assert names(run((older, scored(90)), (later, scored(90)))) == {}, "an older version did not count"


def test_an_iteration_without_an_attempt_divides_by_nothing() -> None:
    nothing = filtered(0.0, 0.0, attempts=0), scored(60)
    assert names(run(nothing, nothing)) == {"utilization near zero": (1, 2)}


def test_pps_below_rs_at_the_last_iteration_that_both_have() -> None:
    low, high = (filtered(), scored(50)), (filtered(), scored(110))
    rs = run(low, high, scheme="rs")
    one = below_rs(run(high, low, high), rs)
    assert (
        one is not None and one.iterations == (2,) and "PPS scores 0.250" in one.meaning and "RS 0.550" in one.meaning
    )
    assert below_rs(run(low, high), rs) is None and below_rs(run(low, (filtered(), scored(100))), rs) is None
    assert below_rs(run(low), replace(rs, rows=rs.rows[:1])) is None, "nothing to compare"
    with pytest.raises(ValueError, match="rs and pps are not pps and rs"):
        below_rs(rs, run(low))


def test_a_label_is_text_and_no_markup() -> None:
    label = "<img src=x> | [a](javascript:b) `c`"
    found = signatures(run(GOOD), spread(1, **{label: (200, 100), "no": (0, 100)}))
    page = markdown(run(GOOD), lines(found))
    assert "Reasons to look closer:" in page and "one label swallows the rest" in page
    line = next(line for line in page.splitlines() if "swallows" in line)
    assert line.startswith("- one label") and r"\<img src=x\> \| \[a\](javascript:b) \`c\`" in line
    assert len(signatures(run(GOOD), spread(1, **{"x" * 500: (200, 100), "no": (0, 100)}))[0].meaning) < 300


def test_without_signatures_the_page_says_nothing_of_them() -> None:
    assert "Reasons" not in markdown(run(GOOD), lines(signatures(run(GOOD))))


def fields() -> set[str]:
    def inside(path: list[str]) -> set[str]:
        found = set()
        for model in sections_at(RunConfig, path):
            for name in model.model_fields:
                found |= {".".join([*path, name])} | inside([*path, name])
        return found

    return inside([])


def test_advice_names_fields_that_exist() -> None:
    both = below_rs(run((filtered(), scored(20))), run((filtered(), scored(150)), scheme="rs"))
    assert both is not None
    sections = "|".join(RunConfig.model_fields)
    known = fields()
    for text in [*(kind.advice for kind in _KINDS), both.advice]:
        named = re.findall(rf"\b(?:{sections})\.[a-z_]+", text)
        assert named and set(named) <= known, text


def test_the_page_of_the_method_lists_all_of_them_in_this_order() -> None:
    page = Path(__file__).parents[3].joinpath("docs/method.md").read_text(encoding="utf-8")
    table = page.partition("## Failure signatures")[2].partition("\n\n| signature")[2].partition("\n\n")[0]
    assert re.findall(r"^\| ([a-z ]+?) \|", table, re.MULTILINE) == [kind.name for kind in _KINDS]


def test_a_sentence_says_where_what_and_what_to_try() -> None:
    assert Signature("name", (2,), "It is so.", "Try that.").sentence == "name (iteration 2): It is so. Try that."
    assert Signature("name", (1, 3), "It is so.", "Try.").sentence.startswith("name (iterations 1, 3): ")
