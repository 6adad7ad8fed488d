"""Identity of values: order never matters, content always does, what has no stable form raises."""

from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from fem_core.digest import canonical_json, derive_seed, digest, digest_file, step_key

_values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False, allow_infinity=False) | st.text(),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(), inner, max_size=4),
    max_leaves=12,
)


def _reversed(value: Any) -> Any:
    if isinstance(value, dict):
        return {key: _reversed(item) for key, item in reversed(value.items())}
    if isinstance(value, list):
        return [_reversed(item) for item in value]
    return value


@given(st.dictionaries(st.text(), _values, max_size=5))
def test_the_order_of_keys_does_not_matter_at_any_depth(value: dict[str, Any]) -> None:
    assert digest(value) == digest(_reversed(value))


@given(st.lists(st.integers(), min_size=2, unique=True))
def test_the_order_of_a_list_does(value: list[int]) -> None:
    assert digest(value) != digest(value[::-1])


@pytest.mark.parametrize(
    ("value", "said"),
    [
        ({"a": float("nan")}, "value.a is nan"),
        ({"a": [1.0, float("-inf")]}, r"value.a\[1\] is -inf"),
        ({"a": {"b": {1, 2}}}, "value.a.b is a set"),
        ([Path("/tmp")], r"value\[0\] is a \w*Path"),
        ({1: "a"}, "has the key 1; keys must be strings"),
        (b"bytes", "value is a bytes"),
        (object(), "value is a object"),
    ],
)
def test_a_value_with_no_stable_form_raises_and_is_named(value: Any, said: str) -> None:
    with pytest.raises(TypeError, match=said):
        digest(value)


def test_the_canonical_form_never_changes() -> None:
    assert canonical_json({"b": [1, 0.1, True, None], "a": "é"}) == '{"a":"é","b":[1,0.1,true,null]}'
    assert digest({}) == "44136fa355b3678a1146ad16f7e8649e94fb4fc21fe77e8310c060f61caaff8a"


def test_a_step_key_depends_on_each_of_its_parts() -> None:
    keys = {
        step_key("sample", 1, {"t": 1.0}, {"problems": "x"}),
        step_key("filter", 1, {"t": 1.0}, {"problems": "x"}),
        step_key("sample", 2, {"t": 1.0}, {"problems": "x"}),
        step_key("sample", 1, {"t": 0.5}, {"problems": "x"}),
        step_key("sample", 1, {"t": 1.0}, {"problems": "y"}),
        step_key("sample", 1, {"t": 1.0}, {"model": "x"}),
    }
    assert len(keys) == 6


def test_seeds_fit_31_bits_and_differ_by_every_part() -> None:
    seeds = {derive_seed(0, 1, "p", attempt) for attempt in range(100)} | {derive_seed(1, 1, "p", 0)}
    assert len(seeds) == 101 and all(0 <= seed < 2**31 for seed in seeds)
    assert derive_seed(1, "1") != derive_seed("1", 1)


def test_a_files_digest_is_that_of_its_bytes(tmp_path: Path) -> None:
    (tmp_path / "empty").write_bytes(b"")
    assert digest_file(tmp_path / "empty") == "e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855"
