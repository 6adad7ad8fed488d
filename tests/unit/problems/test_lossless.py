import enum
from decimal import Decimal
from fractions import Fraction

import numpy
import pytest

from fem_core.problems import lossless


class Colour(enum.Enum):
    RED = "red"


def test_tuples_integer_keys_and_exact_numbers_survive() -> None:
    value = {
        "a": (1, (2, [3])),
        "b": {0: "x", 1: {2: ()}},
        "c": {"__tuple__": 1},
        "d": Fraction(1, 3),
        "e": Decimal("0.10"),
    }
    assert lossless.loads(lossless.dumps(value)) == value


def test_numpy_and_enums_become_plain() -> None:
    value = {"a": numpy.array([[1, 2]]), "b": numpy.float64(0.5), "c": numpy.int64(3), "d": Colour.RED}
    assert lossless.loads(lossless.dumps(value)) == {"a": [[1, 2]], "b": 0.5, "c": 3, "d": "red"}


@pytest.mark.parametrize("value", [{1, 2}, object(), float("nan"), b"x"])
def test_what_has_no_json_form_raises_with_its_place(value: object) -> None:
    with pytest.raises(TypeError, match=r"entry\.a\[1\]"):
        lossless.dumps({"a": [0, value]})
