"""Draws that a person is shown: which ones, and that nothing in them is obeyed."""

import re

import pyarrow as pa
from made_run import make_run
from markdown_it import MarkdownIt

from fem_core.report.samples import ACCEPTED_SHOWN, REJECTED_SHOWN, Sample, choose, markdown, samples, short
from fem_core.store.store import Store


def verdicts(*rows: tuple[str, int, str]) -> pa.Table:
    names = ("problem_id", "attempt", "verdict")
    return pa.Table.from_pylist([dict(zip(names, row, strict=True)) for row in rows])


def test_the_same_few_draws_are_shown_however_the_rows_lie() -> None:
    rows = [(f"{n:02}", 0, "accepted" if n % 2 else "wrong_answer") for n in range(20)]
    rows += [("50", 1, "truncated"), ("51", 0, "leaked")]
    chosen = choose([verdicts(*rows)])
    assert list(chosen.items())[:ACCEPTED_SHOWN] == [((f"{n:02}", 0), "accepted") for n in (1, 3, 5, 7)]
    rejected = list(chosen.items())[ACCEPTED_SHOWN:]
    assert len(rejected) == REJECTED_SHOWN
    assert {verdict for _, verdict in rejected} == {"wrong_answer", "truncated", "leaked"}, "each kind before a second"
    assert choose([verdicts(*rows[11:]), verdicts(*rows[:11])]) == chosen
    assert choose([]) == {}


def test_the_draws_of_a_run_come_with_their_question_and_answer(real_store: Store) -> None:
    make_run(real_store)
    found = samples(real_store, "made", 1)
    assert [one.verdict for one in found[:2]] == ["accepted", "accepted"] and found[-1].verdict != "accepted"
    for one in found:
        n = int(one.question.split()[2])
        assert one.answer == str(2 * n + 1) and (one.answer in one.text) == (one.verdict == "accepted")
    assert samples(real_store, "made", 3) == [], "an iteration that is not there"


def test_nothing_in_a_draw_is_obeyed() -> None:
    hostile = (
        "<script>alert(1)</script> <img src=x onerror=alert(1)> [a](javascript:alert(1)) ![b](http://evil/x.png) "
        "https://evil.example www.evil.example me@evil.example `code` **bold** | cell |\n\n# head\n- list\x1b[31m\u202e\0 {{ x }}"
    )
    table = markdown([Sample(hostile, 0, "plain", "accepted", hostile, hostile, hostile)])
    assert len(table.splitlines()) == 3 and table.isprintable() is False
    html = MarkdownIt("commonmark", {"html": True}).enable("table").render(table)
    assert set(re.findall("</?([a-z0-9]+)", html)) == {"table", "thead", "tbody", "tr", "th", "td", "br"}
    assert not {"\x1b", "\u202e", "\0"} & set(html)
    assert html.count("<td>") == 5 and "&lt;script&gt;alert(1)&lt;/script&gt;" in html
    for bare in ("https:", "http:", "www.", "me@"):
        assert bare not in table, "renderers make links of bare addresses"


def test_a_long_text_keeps_its_beginning_and_its_end() -> None:
    text = "First, " + "so it goes on and on. " * 60_000 + "\nAnswer: A"
    shown = short(text, 100)
    assert len(shown) <= 100 and shown.startswith("First, so") and shown.endswith("Answer: A") and "…" in shown
    assert short(" one\n two ", 100) == "one two"
