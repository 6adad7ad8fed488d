"""What a page is asked with: names, numbers and filters of an address, checked before anything is read.

Contract: an empty field of a form is a field that was not given; what is none of these forms is refused with 422.
"""

from typing import Annotated, Any, Literal

from fastapi import Path, Query
from pydantic import BaseModel, BeforeValidator, ConfigDict, Field

from fem_core.browse.filters import Filter

MOST_TEXT = 500
"""Characters of a search."""

RunName = Annotated[str, Path(pattern=r"^[A-Za-z0-9][A-Za-z0-9._-]{0,99}$")]
"""As ``store.layout`` allows it."""
Iteration = Annotated[int, Path(ge=0, le=999_999)]
ProblemId = Annotated[str, Path(pattern=r"^[A-Za-z0-9][A-Za-z0-9._-]{0,99}$")]
AttemptIndex = Annotated[int, Path(ge=0, le=2**31 - 1)]
Kind = Literal["attempts", "predictions", "predictions-exemplars"]
Place = Annotated[str, Query(pattern=r"^[0-9]{1,6}\.(attempts|predictions|predictions-exemplars)\.[0-9]{1,10}$")]
"""``Attempt.place``."""
Format = Literal["parquet", "jsonl"]
Sort = Literal["position", "-position", "problem", "length", "-length", "logprob", "-logprob", "verdict"]
"""``filters.SORTS``."""
Said = Literal["good", "bad", "leaked", "any", "none"]
"""``filters.ANNOTATIONS``."""


def _none(value: Any) -> Any:
    return None if value == "" else value


_Empty = BeforeValidator(_none)
_Text = Annotated[Annotated[str, Field(max_length=MOST_TEXT)] | None, _Empty]
_Name = Annotated[Annotated[str, Field(max_length=100)] | None, _Empty]
_Count = Annotated[Annotated[int, Field(ge=0, le=2**31 - 1)] | None, _Empty]
_Value = Annotated[Annotated[float, Field(allow_inf_nan=False)] | None, _Empty]


class Asked(BaseModel):
    """A filter as a form sends it."""

    model_config = ConfigDict(extra="ignore")

    verdict: _Name = None
    prompt_kind: _Name = None
    label: _Text = None
    problem_id: _Name = None
    min_length: _Count = None
    max_length: _Count = None
    min_logprob: _Value = None
    max_logprob: _Value = None
    min_leak: _Value = None
    max_leak: _Value = None
    text: _Text = None
    annotation: Annotated[Said | None, _Empty] = None

    def filter(self) -> Filter:
        """The same for the library."""
        names = set(Asked.model_fields)
        return Filter(**{name: value for name, value in self.model_dump().items() if name in names})


class AskedAttempts(Asked):
    """A page of attempts."""

    kind: Kind = "attempts"
    sort: Sort = "position"
    page: Annotated[int, Field(ge=1, le=10_000_000)] = 1


class AskedExport(Asked):
    """A file of attempts."""

    kind: Kind = "attempts"
    format: Format = "parquet"


class AskedRuns(BaseModel):
    """The table of runs."""

    model_config = ConfigDict(extra="ignore")

    text: _Text = None
    state: _Name = None
    scheme: _Name = None
    sort: Annotated[str, Field(max_length=30)] = "name"
