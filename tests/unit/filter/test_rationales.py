"""From attempts to rationales: one verdict each, and no trace of the hint in what is trained on."""

from typing import Any

import pyarrow as pa
import pytest

from fem_core.config import Exemplar, FilterConfig, PromptsConfig, SchemeConfig
from fem_core.filter import rationales
from fem_core.filter.rationales import filter_attempts
from fem_core.filter.verdict import judge
from fem_core.problems.problem import Problem, make_problem
from fem_core.problems.verifier import Verifier
from fem_core.prompts import messages
from fem_core.sample.draw import DrawLoop, DrawSettings
from fem_core.sample.schemes import plan_of
from fem_core.sample.vllm_engine import Finished, Sampling
from fem_core.schemas import ATTEMPTS

HINT = "HINT-MARK-7c1"
PROMPTS = PromptsConfig(
    plain="{question}",
    hinted="{question} " + HINT + " {answer}",
    exemplars=tuple(Exemplar(question=f"{n}?", rationale="So.", answer=str(n)) for n in range(2)),
    sample_exemplars=2,
    train_exemplars=1,
)
PROBLEMS = [make_problem(question=f"What is {n} plus {n}?", answer=str(2 * n), answer_kind="number") for n in range(40)]


def attempt(problem: Problem, n: int, text: str, verdict: str, kind: str = "plain") -> dict[str, Any]:
    return {
        "problem_id": problem.problem_id, "attempt": n, "prompt_kind": kind, "exemplars": 0, "text": text,
        "answer": "7", "verdict": verdict, "finish_reason": "stop", "prompt_tokens": 3, "completion_tokens": 9,
        "logprob": -1.0, "seed": n,
    }  # fmt: skip


def filtered(
    rows: list[dict[str, Any]], config: FilterConfig | None = None, problems: list[Problem] | None = None
) -> Any:
    table = pa.Table.from_pylist(rows, schema=ATTEMPTS)
    return filter_attempts(problems or PROBLEMS, [table], config or FilterConfig(), PROMPTS)


def test_every_attempt_has_one_verdict_with_its_reason() -> None:
    a, b, c, d = PROBLEMS[1:5]
    result = filtered(
        [
            attempt(a, 0, "Double it.\nAnswer: 2", "accepted"),
            attempt(b, 0, "Answer: 7", "wrong_answer"),
            attempt(c, 0, "hm", "unparsable"),
            attempt(d, 0, "on and on", "truncated"),
        ]
    )
    reasons = {row["verdict"]: row["reason"] for row in result.verdicts.to_pylist()}
    assert reasons == {
        "accepted": "answered '2'",
        "wrong_answer": "answered '7', wanted '4'",
        "unparsable": "no answer line that can be parsed",
        "truncated": "cut after 9 tokens, before the answer line was complete",
    }
    assert result.stats["utilization"] == pytest.approx(1 / 40)
    assert result.stats["mean_rationale_tokens"] == 9


def test_what_follows_the_answer_line_is_not_trained_on() -> None:
    text = " Double it.\nAnswer: 2\nQuestion: what next?"
    (row,) = filtered([attempt(PROBLEMS[1], 0, text, "accepted")]).rationales.to_pylist()
    assert row["completion"] == [{"role": "assistant", "content": "Double it.\nAnswer: 2"}]


def test_the_filters_have_verdicts_of_their_own() -> None:
    a = PROBLEMS[1]
    rows = [attempt(a, n, "It is so because of this.\nAnswer: 2", "accepted") for n in range(3)]
    rows.append(attempt(PROBLEMS[2], 0, "Answer: 4", "accepted"))
    result = filtered(rows, FilterConfig(min_rationale_words=2, max_per_problem=2))
    assert result.stats["verdicts"] == {"accepted": 2, "over_cap": 1, "too_short": 1}
    assert result.rationales.column("attempt").to_pylist() == [0, 1]


def test_every_filter_has_its_verdict_and_a_reason_in_words() -> None:
    a, b, c, d, e = sorted(PROBLEMS[1:6], key=lambda problem: problem.problem_id)
    said = [
        (a, 0, "Doubling one number gives two."),
        (a, 1, "One and one more is two."),
        (b, 0, "Since we are told that the correct answer is this we only have to show it."),
        (c, 0, "It is six."),
        (d, 0, "Twice the number is the sum of it and itself because doubling means just that and nothing else here."),
        (e, 0, "doubling one number gives two!"),
    ]
    config = FilterConfig(
        min_rationale_words=4, max_rationale_words=18, leak="reject", near_duplicate=0.9, max_per_problem=1
    )
    result = filtered([attempt(p, n, f"{text}\nAnswer: {p.answer}", "accepted") for p, n, text in said], config)
    assert [(row["verdict"], row["reason"]) for row in result.verdicts.to_pylist()] == [
        ("accepted", f"answered {a.answer!r}"),
        ("over_cap", "the problem already has 1 rationales"),
        ("leaked", "speaks of a given answer: 'told that the correct answer'"),
        ("too_short", "3 words before the answer line, at least 4 wanted"),
        ("too_long", "19 words before the answer line, at most 18 wanted"),
        ("near_duplicate", f"repeats attempt 0 of problem {a.problem_id} (similarity 1.00)"),
    ]
    assert sum(result.stats["verdicts"].values()) == result.verdicts.num_rows == len(said)
    assert "marked_leaks" not in result.stats


def test_a_marked_leak_stays_and_says_so() -> None:
    told = "Since we are told that the correct answer is 4 we only have to show it.\nAnswer: 4"
    rows = [attempt(PROBLEMS[2], 0, told, "accepted"), attempt(PROBLEMS[1], 0, "One more.\nAnswer: 2", "accepted")]
    kept, marked = filtered(rows), filtered(rows, FilterConfig(leak="mark"))
    assert kept.rationales.equals(marked.rationales) and marked.stats["marked_leaks"] == 1
    assert kept.stats["kept_leaks"] == 1 and "marked_leaks" not in kept.stats
    assert {row["reason"] for row in kept.verdicts.to_pylist()} == {"answered '4'", "answered '2'"}
    reasons = [row["reason"] for row in marked.verdicts.to_pylist() if row["problem_id"] == PROBLEMS[2].problem_id]
    assert reasons == ["answered '4', and speaks of a given answer: 'told that the correct answer'"]


def test_given_completions_saw_no_hint_and_are_not_called_leaks() -> None:
    told = "Since we are told that the correct answer is 4 we only have to show it.\nAnswer: 4"
    row = attempt(PROBLEMS[2], 0, told, "accepted")
    for kind, verdict in (("hinted", "leaked"), ("given", "accepted")):
        decided = filtered([row | {"prompt_kind": kind}], FilterConfig(leak="reject")).verdicts
        assert decided.column("verdict").to_pylist() == [verdict]


def test_what_a_cap_rejects_is_repeated_by_nothing() -> None:
    """A rationale that is not kept leaves room for another problem's that says the same."""
    first, second = sorted(PROBLEMS[1:3], key=lambda problem: problem.problem_id)
    rows = [
        attempt(first, 0, f"Here we count on our fingers.\nAnswer: {first.answer}", "accepted"),
        attempt(first, 1, f"Twice a number is an even number.\nAnswer: {first.answer}", "accepted"),
        attempt(second, 0, f"Twice a number is an even number.\nAnswer: {second.answer}", "accepted"),
    ]
    result = filtered(rows, FilterConfig(near_duplicate=0.8, max_per_problem=1))
    assert result.verdicts.column("verdict").to_pylist() == ["accepted", "over_cap", "accepted"]


def test_frequent_answers_are_cut_to_their_share_and_both_tables_agree() -> None:
    problems = [make_problem(f"Rate {n}.", "4" if n < 30 else "1", "number") for n in range(40)]
    rows = [attempt(p, 0, f"Because of {n}.\nAnswer: {p.answer}", "accepted") for n, p in enumerate(problems)]
    rows.append(attempt(problems[0], 1, "hm", "unparsable"))
    result = filtered(rows, FilterConfig(label_balance=1.5), problems)
    assert result.stats["verdicts"] == {"accepted": 25, "over_label_share": 15, "unparsable": 1}
    assert result.stats["problems_accepted"] == 25
    accepted = [(r["problem_id"], r["attempt"]) for r in result.verdicts.to_pylist() if r["verdict"] == "accepted"]
    assert accepted == [(r["problem_id"], r["attempt"]) for r in result.rationales.to_pylist()]
    reasons = {row["reason"] for row in result.verdicts.to_pylist() if row["verdict"] == "over_label_share"}
    assert reasons == {"one of 30 rationales with the answer '4', of which 15 are kept: 1.5 times the 10 with '1'"}
    again = filtered(rows[::-1], FilterConfig(label_balance=1.5), problems)
    assert again.verdicts.equals(result.verdicts) and again.rationales.equals(result.rationales)
    assert {column.num_chunks for table in (again.verdicts, again.rationales) for column in table.columns} == {1}
    assert filtered([], FilterConfig(label_balance=1.5, near_duplicate=0.5)).verdicts.num_rows == 0


def test_the_order_of_parts_changes_nothing() -> None:
    rows = [attempt(p, n, f"r{n}\nAnswer: 2", "accepted") for p in PROBLEMS[:9] for n in range(2)]
    one = filtered(rows)
    other = filtered(rows[::-1])
    assert one.rationales.equals(other.rationales)
    assert one.verdicts.equals(other.verdicts)


def test_an_iteration_keeps_at_most_so_many_rationales_chosen_by_the_draws_own_seeds() -> None:
    rows = [
        attempt(p, n, f"r\nAnswer: {p.answer}", "accepted") | {"seed": 100 * i + n}
        for i, p in enumerate(PROBLEMS[1:31])
        for n in range(2)
    ]
    rows.append(attempt(PROBLEMS[31], 0, "hm", "unparsable"))
    result = filtered(rows, FilterConfig(max_rationales=20))
    assert result.stats["verdicts"] == {"accepted": 20, "over_size": 40, "unparsable": 1}
    trained = result.rationales.select(["problem_id", "attempt"]).to_pylist()
    accepted = [row for row in result.verdicts.to_pylist() if row["verdict"] == "accepted"]
    assert trained == [{name: row[name] for name in ("problem_id", "attempt")} for row in accepted]
    assert result.stats["problems_accepted"] == len({row["problem_id"] for row in trained})
    assert result.stats["utilization"] == result.stats["problems_accepted"] / 40
    assert {column.num_chunks for table in (result.verdicts, result.rationales) for column in table.columns} == {1}
    over = next(row for row in result.verdicts.to_pylist() if row["verdict"] == "over_size")
    assert over["reason"] == "the iteration has 20 other rationales, and may have no more"
    again = filtered(rows[::-1], FilterConfig(max_rationales=20))
    assert again.rationales.equals(result.rationales)
    later = filtered([row | {"seed": row["seed"] + 7} for row in rows], FilterConfig(max_rationales=20))
    assert not later.rationales.equals(result.rationales), "another iteration has other seeds and another subset"
    assert filtered(rows, FilterConfig(max_rationales=60)).verdicts.equals(filtered(rows).verdicts)


def test_of_given_completions_a_random_subset_stays_and_always_the_same() -> None:
    rows = [
        attempt(p, 0, f"Answer: {p.answer}", "accepted") | {"prompt_kind": "given", "seed": 0} for p in PROBLEMS[1:31]
    ]
    kept = filtered(rows, FilterConfig(max_rationales=10)).rationales
    ids = kept["problem_id"].to_pylist()
    in_order = sorted(row["problem_id"] for row in rows)
    assert len(ids) == 10 and ids != in_order[:10], "not the first by problem id"
    assert set(ids) & set(in_order[15:])
    assert filtered(rows[::-1], FilterConfig(max_rationales=10)).rationales.equals(kept)
    fewer = filtered(rows, FilterConfig(max_rationales=4)).rationales["problem_id"].to_pylist()
    assert set(fewer) < set(ids)


def test_an_empty_iteration_is_counted_not_crashed_on() -> None:
    result = filtered([attempt(PROBLEMS[1], 0, "hm", "unparsable")])
    assert (result.rationales.num_rows, result.stats["utilization"]) == (0, 0.0)


class Repeater:
    """An engine that answers right when it is hinted, and every third time when it is not; it keeps its prompts."""

    def __init__(self) -> None:
        self.waiting: list[Finished] = []
        self.prompts: list[str] = []

    @property
    def unfinished(self) -> int:
        return len(self.waiting)

    def add(self, request_id: str, prompt_ids: list[int], sampling: Sampling) -> None:
        prompt = "".join(map(chr, prompt_ids))
        self.prompts.append(prompt)
        knows = HINT in prompt
        index, attempt_ = map(int, request_id.split("/")[1:3])
        right = knows or (index + attempt_) % 3 == 0
        self.waiting.append(Finished(request_id, f"Thinking.\nAnswer: {2 * index if right else -1}", "stop", 1, 1, 0.0))


@pytest.mark.parametrize("scheme", ["rs", "star", "pps"])
def test_no_training_prompt_holds_a_trace_of_the_hint(scheme: str) -> None:
    """For every accepted attempt of every scheme the training prompt is the plain one with the training exemplars."""
    engine, tables = Repeater(), []
    with Verifier() as verifier:
        loop = DrawLoop(
            "job",
            PROBLEMS,
            plan_of(SchemeConfig(name=scheme)),
            DrawSettings(0, 1, 0, 1.0, 1.0, 8),
            part_size=16,
            done_parts=set(),
            render=lambda problem, kind: [ord(c) for c in str(messages(PROMPTS, problem, kind, 2))],
            judge=lambda text, reason, problem: judge(text, reason, problem, verifier),
            write_part=lambda _, table: tables.append(table),
        )
        while not loop.done:
            loop.fill(engine, 8)
            loop.receive(engine.waiting.pop(0), engine)
    assert (scheme != "rs") == any(HINT in prompt for prompt in engine.prompts), "the scheme must have been exercised"
    result = filter_attempts(PROBLEMS, tables, FilterConfig(), PROMPTS)
    accepted = sum(row["verdict"] == "accepted" for table in tables for row in table.to_pylist())
    assert result.rationales.num_rows == accepted > 0
    by_id = {problem.problem_id: problem for problem in PROBLEMS}
    for row in result.rationales.to_pylist():
        assert row["prompt"] == messages(PROMPTS, by_id[row["problem_id"]], "plain", 1)
        assert HINT not in str(row["prompt"]) + str(row["completion"])


def test_how_many_rows_are_decided_on_at_a_time_changes_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    rows = [
        attempt(problem, n, f"Double it.\nAnswer: {problem.answer}", "accepted" if (i + n) % 3 else "wrong_answer")
        for i, problem in enumerate(PROBLEMS)
        for n in range(3)
    ]
    config = FilterConfig(max_per_problem=1, near_duplicate=0.9, label_balance=1.2, leak="mark")
    whole = filtered(rows, config)
    monkeypatch.setattr(rationales, "_BATCH", 7)
    pieces = filtered(rows[::-1], config)
    assert whole.verdicts.equals(pieces.verdicts) and whole.rationales.equals(pieces.rationales)
    assert whole.stats == pieces.stats
    assert {column.num_chunks for table in (pieces.verdicts, pieces.rationales) for column in table.columns} == {1}
    assert filtered([]).verdicts.num_rows == 0
