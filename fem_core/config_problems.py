"""The section ``problems``: where (x, y*) come from, one class per kind of source.

Contract: ``source`` says which class a section is.
"""

from typing import Annotated, Literal

from pydantic import BaseModel, ConfigDict, Field, JsonValue, model_validator

PLACE: dict[str, JsonValue] = {"identity": False}
"""Marks a field that says where or how wide a run executes; it takes no part in digests and step keys."""

ADDED: dict[str, JsonValue] = {"identity": "unless default"}
"""Marks a field that came after the first runs. At its default it takes no part in digests and step keys, so those runs
keep theirs; therefore its default must mean what was done before, and must never change."""


class Section(BaseModel):
    """What every section of a configuration shares: frozen, no unknown keys, docstrings as descriptions."""

    model_config = ConfigDict(extra="forbid", frozen=True, use_attribute_docstrings=True, protected_namespaces=())


class ReasoningGymProblems(Section):
    """Problems made by one of reasoning-gym's generators, judged by its own scorer."""

    source: Literal["reasoning_gym"]
    """Which kind of source this is."""
    dataset: str
    """The generator's name, such as ``needle_haystack``."""
    params: dict[str, str | int | float | bool | list[str | int | float]] = {}
    """The generator's own parameters; an unknown one is refused by the generator."""
    train: int = Field(200, ge=1)
    """N, the number of training problems."""
    test: int = Field(200, ge=1)
    """The number of held-out problems."""
    threshold: float = Field(1.0, gt=0, le=1)
    """The scorer's value (0 to 1) from which an answer counts as correct."""
    time_limit: float = Field(5.0, gt=0)
    """Seconds that the scorer may take for one answer; after that the verdict is ``verifier_timeout``."""


class TableProblems(Section):
    """The user's own problems: JSONL, CSV or Parquet files, or a Hugging Face data set by name."""

    source: Literal["table"]
    """Which kind of source this is."""
    path: str | None = Field(None, json_schema_extra=PLACE)
    """A local file (``.jsonl``, ``.json``, ``.csv``, ``.parquet``, each also ``.gz`` where text). Either this or ``hub``."""
    test_path: str | None = Field(None, json_schema_extra=PLACE)
    """A second file that holds the test problems; without it, ``test`` problems are split off by group."""
    hub: str | None = None
    """A Hugging Face data set's name, such as ``openai/gsm8k``. Either this or ``path``."""
    hub_config: str | None = None
    """The data set's configuration, where it has several."""
    hub_revision: str | None = None
    """The data set's git revision; name one, so that the run can be repeated."""
    train_split: str = "train"
    """The hub data set's split to train on."""
    test_split: str | None = None
    """The hub data set's split to test on; without it, ``test`` problems are split off by group."""
    question: str = "question"
    """Column of the question; a dotted name reaches into a nested record."""
    answer: str = "answer"
    """Column of y*."""
    answer_pattern: str | None = None
    """A regular expression whose first group picks y* out of the answer column, such as ``####\\s*(.+)$``."""
    choices: str | None = None
    """Column of the answer choices: a list of texts, or of records with ``label`` and ``text``."""
    group: str | None = None
    """Column by which train and test are kept apart (all rows of a group fall on one side); the question by default."""
    rationale: str | None = None
    """Column of a gold rationale, where there is one."""
    answer_kind: Literal["text", "number", "choice", "label"] = "text"
    """How answers are compared: ``text`` without case and punctuation, ``number`` by value, ``choice`` by letter,
    ``label`` as ``text`` from a small fixed set (then a majority baseline is reported)."""
    train: int | None = Field(None, ge=1)
    """At most this many training problems, chosen by the seed; all by default."""
    test: int | None = Field(None, ge=1)
    """At most this many test problems, chosen by the seed. Needed when no test file or split is named."""

    @model_validator(mode="after")
    def _one_place(self) -> "TableProblems":
        if (self.path is None) == (self.hub is None):
            raise ValueError("name either problems.path (a local file) or problems.hub (a data set's name), not both")
        if self.test_path is None and self.test_split is None and self.test is None:
            raise ValueError(
                "say where the test problems come from: problems.test_path, problems.test_split or problems.test"
            )
        if self.answer_kind == "choice" and self.choices is None:
            raise ValueError("answer_kind 'choice' needs problems.choices, the column that holds the choices")
        return self


Problems = Annotated[ReasoningGymProblems | TableProblems, Field(discriminator="source")]
"""The section ``problems``; ``source`` chooses its class."""

SOURCES: dict[str, str] = {"reasoning_gym": "generated", "table": "table"}
"""The module of ``fem_core.problems`` that loads each source."""
