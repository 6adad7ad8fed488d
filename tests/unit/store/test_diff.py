from fem_core.store.diff import differences


def test_each_differing_field_is_one_line_by_its_dotted_name() -> None:
    old = {"sample": {"temperature": 1.0, "top_p": 1.0}, "seed": 0, "gone": "x"}
    new = {"sample": {"temperature": 0.7, "top_p": 1.0}, "seed": 0, "added": None}
    assert differences(old, new) == [
        "added: (absent) -> null",
        'gone: "x" -> (absent)',
        "sample.temperature: 1.0 -> 0.7",
    ]


def test_equal_values_have_no_lines_whatever_their_order() -> None:
    assert differences({"a": 1, "b": [1, 2]}, {"b": (1, 2), "a": 1}) == []


def test_a_difference_beyond_the_shown_length_is_still_found() -> None:
    assert len(differences({"a": "x" * 500 + "y"}, {"a": "x" * 500 + "z"})) == 1


def test_lists_of_records_are_compared_record_by_record() -> None:
    old = {"exemplars": [{"q": 1}, {"q": 2}]}
    assert differences(old, {"exemplars": [{"q": 1}, {"q": 3}]}) == ["exemplars.1.q: 2 -> 3"]
