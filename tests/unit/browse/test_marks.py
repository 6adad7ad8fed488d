"""Untrusted text as HTML, differences, and charts: what is marked, what is escaped, what is made visible."""

from xml.etree import ElementTree

from hypothesis import given
from hypothesis import strategies as st
from markupsafe import Markup

from fem_core.browse import charts, marks


def text_of(html: Markup) -> str:
    return html.striptags()


def test_markup_is_escaped_and_hidden_characters_are_named() -> None:
    shown = marks.plain("<b>\x1b[31m \u202eabc\u200b\x00</b>\n\tend")
    assert shown.startswith("&lt;b&gt;<span") and shown.endswith("&lt;/b&gt;\n\tend")
    assert "\x1b" not in shown and "\u202e" not in shown and "\x00" not in shown and "\u200b" not in shown
    assert "right-to-left override" in shown and ">␛</span>[31m" in shown and ">␀</span>" in shown
    for hidden in ("\u3164", "\ufe01", "\U000e0155", "\u2066"):
        assert hidden not in marks.plain(f"a{hidden}b"), "selectors can carry a text that nobody sees"
    assert marks.plain("✔\ufe0f é 한글") == "✔\ufe0f é 한글"


def test_words_are_marked_whatever_their_case_and_never_as_a_pattern() -> None:
    assert marks.found("The Sum (of) <two>", ("sum", "<TWO>")) == ("The <mark>Sum</mark> (of) <mark>&lt;two&gt;</mark>")
    assert marks.found("a.c abc (", (".", "(")) == "a<mark>.</mark>c abc <mark>(</mark>"
    assert marks.found("<x>", ()) == "&lt;x&gt;"
    far = "so " * 10_000 + "the Needle <lies>" + " on" * 500
    later = marks.beyond(far, ("so", "needle"))
    assert "the Needle <lies>" in later and len(later) < 1000 and marks.beyond(far, ("so",)) == ""


def test_a_difference_marks_what_only_one_side_has() -> None:
    old, new = marks.difference("3 apples and <4> pears", "3 apples and 5 pears")
    assert old == "3 apples and <del>&lt;4&gt;</del> pears"
    assert new == "3 apples and <ins>5</ins> pears"
    same, again = marks.difference("x\n" * 9000, "x\n" * 9000 + "y")
    assert "<del>" not in same and "y" in again, "what is too long is shown unmarked"


@given(st.text(), st.lists(st.text(min_size=1), max_size=3))
def test_only_our_tags_come_out(text: str, words: list[str]) -> None:
    for html in (
        marks.plain(text),
        marks.found(text, words),
        marks.hinted(text, "()"),
        *marks.difference(text, " ".join(words)),
    ):
        rest = html
        for tag in (
            "<mark>",
            "</mark>",
            '<mark class="hint" title="the hint">',
            "<del>",
            "</del>",
            "<ins>",
            "</ins>",
            "</span>",
        ):
            rest = rest.replace(Markup(tag), Markup(""))
        assert all(piece.startswith('span class="hidden" title="U+') for piece in rest.split("<")[1:])


def test_charts_are_whole_xml_with_their_values_said_and_texts_escaped() -> None:
    line = charts.Series("<script>\x00", [charts.Point(0, 0.25, 0.1, 0.4), charts.Point(1, 0.5)])
    level = charts.Level("base & more", 0.3, 0.2, 0.4)
    drawn = [
        charts.curves("Accuracy", [line], [level], most=1),
        charts.stacked("Verdicts", [("1", {"accepted": 3, "leaked": 1})], {("1", "leaked"): "/x?a=1&b=2"}),
        charts.sparkline("accuracy", [None, 0.1, 0.2]),
        charts.graph(
            "Lineage",
            [charts.Box("a", ("a<b", "f"), 0, 0, "/a"), charts.Box("b", ("b" * 60, "f"), 1, 0)],
            [("a", "b")],
        ),
        charts.curves("nothing", []),
    ]
    roots = [ElementTree.fromstring(one) for one in drawn]
    assert all(root.get("aria-label") for root in roots) and not any("style=" in one for one in drawn)
    heights = {p.get("cy") for p in roots[0].iter("circle")}
    assert len(heights) == 2 and "0.25 (0.1 to 0.4)" in drawn[0] and "base &amp; more 0.3" in drawn[0]
    widths = [float(p.get("width", 0)) for p in roots[1].iter("rect")]
    assert widths[0] == 3 * widths[1] and [a.get("href") for a in roots[1].iter("a")] == ["/x?a=1&b=2"]
    assert [a.get("href") for a in roots[3].iter("a")] == ["/a"]
    assert charts.sparkline("one", [0.5]) == ""
