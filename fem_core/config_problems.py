"""The section ``problems``: where (x, y*) come from, one class per kind of source.

Contract: ``source`` says which class a section is. The published sets are read from the hub unless a local copy is named,
and what the hub calls them is filled in only then: a run on a local copy does not claim to have read the hub.
"""

from typing import Annotated, Any, ClassVar, Literal

from pydantic import BaseModel, ConfigDict, Field, JsonValue, model_validator

PLACE: dict[str, JsonValue] = {"identity": False}
"""Marks a field that says where or how wide a run executes; it takes no part in digests and step keys."""

ADDED: dict[str, JsonValue] = {"identity": "unless default"}
"""Marks a field that came after the first runs. At its default it takes no part in digests and step keys, so those runs
keep theirs; therefore its default must mean what was done before, and must never change."""


LIMITS = {
    "minimum": "at least",
    "exclusiveMinimum": "more than",
    "maximum": "at most",
    "exclusiveMaximum": "less than",
}
"""What a JSON schema calls a number's limits, in words."""


def _for_the_form(schema: dict[str, Any]) -> None:
    """The form of the Prefect UI is made from the schema: it shows no limits, so descriptions say them, and it lets nobody
    type what can have one value only, so that has it from the start."""
    for field in schema.get("properties", {}).values():
        if "const" in field:
            field["default"] = field["const"]
        kinds = (field, *field.get("anyOf", ()))
        said = ", ".join(f"{words} {kind[name]:g}" for kind in kinds for name, words in LIMITS.items() if name in kind)
        if said:
            field["description"] = f"{field['description']} {said.capitalize()}."


class Section(BaseModel):
    """What every section of a configuration shares: frozen, no unknown keys, docstrings as descriptions."""

    model_config = ConfigDict(
        extra="forbid",
        frozen=True,
        use_attribute_docstrings=True,
        protected_namespaces=(),
        json_schema_extra=_for_the_form,
    )


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

    @property
    def answer_kind(self) -> str:
        """How answers are compared."""
        return "reasoning_gym"


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
    """Column of a gold rationale; a row may leave it empty."""
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
        if self.test_path is not None and self.path is None:
            raise ValueError("problems.test_path is a file beside problems.path; with problems.hub name a test_split")
        if self.test_split is not None and self.hub is None:
            raise ValueError("problems.test_split is a split of problems.hub; with problems.path name a test_path")
        if self.test_path is None and self.test_split is None and self.test is None:
            raise ValueError(
                "say where the test problems come from: problems.test_path, problems.test_split or problems.test"
            )
        if self.answer_kind == "choice" and self.choices is None:
            raise ValueError("answer_kind 'choice' needs problems.choices, the column that holds the choices")
        return self


class PublishedProblems(Section):
    """What the published sets share."""

    HUB: ClassVar[dict[str, Any]] = {}
    """Name, configuration and splits on the hub."""
    ANSWERS: ClassVar[str] = "choice"
    """See ``answer_kind``."""
    CONVERTED: ClassVar[bool] = False
    """Whether the set is a script on the hub: of every revision the hub's converted Parquet files are read."""

    source: str
    """Which problem set this is."""
    path: str | None = Field(None, json_schema_extra=PLACE)
    """A local copy (``.jsonl``, ``.json``, ``.csv``, ``.parquet``, each also ``.gz`` where text), read instead of the hub."""
    test_path: str | None = Field(None, json_schema_extra=PLACE)
    """A second file that holds the test problems; without it, ``test`` problems are split off by group."""
    hub: str | None = None
    """The data set's name on the hub; that of the set by default, where no ``path`` is named."""
    hub_config: str | None = None
    """The data set's configuration on the hub; that of the set by default."""
    hub_revision: str | None = None
    """The data set's git revision; name one, so that the run can be repeated."""
    train_split: str | None = None
    """The hub's split to train on; that of the set by default."""
    test_split: str | None = None
    """The hub's split to test on; that of the set by default. With null, ``test`` problems are split off by group."""
    train: int | None = Field(None, ge=1)
    """At most this many training problems, chosen by the seed; all by default."""
    test: int | None = Field(None, ge=1)
    """At most this many test problems, chosen by the seed. Needed when no test file or split is named."""
    max_characters: int | None = Field(None, ge=1)
    """Leave out problems whose question, with its choices, has more characters; a note counts them."""

    @property
    def answer_kind(self) -> str:
        """How answers are compared; that of every problem of the set."""
        return self.ANSWERS

    @classmethod
    def on_the_hub(cls, data: dict[str, Any]) -> dict[str, Any]:
        """The fields that say where on the hub the set is, for a section with these values."""
        return cls.HUB

    @model_validator(mode="before")
    @classmethod
    def _from_the_hub_by_default(cls, data: Any) -> Any:
        if not isinstance(data, dict) or data.get("path") is not None:
            return data
        named = {name: value for name, value in data.items() if not (name == "hub" and value is None)}
        return cls.on_the_hub(data) | named

    @model_validator(mode="after")
    def _one_place(self) -> "PublishedProblems":
        if (self.path is None) == (self.hub is None):
            raise ValueError("name either problems.path (a local file) or problems.hub (a data set's name), not both")
        if self.path is None and self.test_path is not None:
            raise ValueError("problems.test_path goes with problems.path, which is not named")
        if self.hub is not None and self.train_split is None:
            raise ValueError("name problems.train_split, the hub's split to train on")
        if self.test_path is None and (self.path is not None or self.test_split is None) and self.test is None:
            raise ValueError(
                "say where the test problems come from: problems.test_path beside problems.path, problems.test_split on "
                "the hub, or problems.test, how many to split off"
            )
        return self


class HelpSteer2Problems(PublishedProblems):
    """Human ratings of responses (``nvidia/HelpSteer2``, or HelpSteer in the same form): predict one rating, 0 to 4.
    All responses to a prompt are on one side."""

    HUB = {"hub": "nvidia/HelpSteer2", "train_split": "train", "test_split": "validation"}
    ANSWERS = "rating"

    source: Literal["helpsteer2"]
    """Which problem set this is."""
    attribute: Literal["helpfulness", "correctness", "coherence", "complexity", "verbosity"] = "helpfulness"
    """Which of the five ratings is y*."""


class TldrProblems(PublishedProblems):
    """Human judgements of summaries of posts (``openai/summarize_from_feedback``): which of two is better, or a rating 1
    to 7. All summaries of a post are on one side."""

    HUB = {"hub": "openai/summarize_from_feedback", "hub_revision": "refs/convert/parquet"}
    CONVERTED = True

    source: Literal["tldr"]
    """Which problem set this is."""
    form: Literal["comparisons", "axis"] = "comparisons"
    """``comparisons``: which of two summaries is better, A or B. ``axis``: the rating of one summary, 1 to 7."""
    axis: Literal["overall", "accuracy", "coverage", "coherence"] = "overall"
    """Which rating is y*; read with ``form: axis``."""
    both_orders: bool = False
    """Ask every pair twice, the second time with the summaries exchanged; read with ``form: comparisons``.
    ``train`` and ``test`` count both: half as many pairs are taken, one at least."""

    @property
    def answer_kind(self) -> str:
        """How answers are compared."""
        return "rating" if self.form == "axis" else "choice"

    @classmethod
    def on_the_hub(cls, data: dict[str, Any]) -> dict[str, Any]:
        """The two forms are two configurations with splits of their own."""
        if data.get("form", "comparisons") == "axis":
            return {**cls.HUB, "hub_config": "axis", "train_split": "validation", "test_split": "test"}
        return {**cls.HUB, "hub_config": "comparisons", "train_split": "train", "test_split": "validation"}


class ChoiceProblems(PublishedProblems):
    """What the multiple-choice sets share."""

    shuffle: bool = False
    """Put the choices of each problem in an order that follows from the seed and the problem's content. Choices such as
    *all of the above* may then stand before others."""


class OpenBookQaProblems(ChoiceProblems):
    """Elementary science, four choices (``allenai/openbookqa``)."""

    HUB = {"hub": "allenai/openbookqa", "hub_config": "main", "train_split": "train", "test_split": "test"}

    source: Literal["openbookqa"]
    """Which problem set this is."""


class ArcProblems(ChoiceProblems):
    """School science, three to five choices (``allenai/ai2_arc``). On the hub ``hub_config`` chooses between
    ``ARC-Challenge`` (the default) and ``ARC-Easy``."""

    HUB = {"hub": "allenai/ai2_arc", "hub_config": "ARC-Challenge", "train_split": "train", "test_split": "test"}

    source: Literal["arc"]
    """Which problem set this is."""


class MmluProblems(ChoiceProblems):
    """Exams in 57 subjects, four choices (``cais/mmlu``). On the hub ``hub_config`` may name one subject, which has no
    training split: its small ``validation`` split is then trained on."""

    HUB = {"hub": "cais/mmlu", "hub_config": "all", "train_split": "auxiliary_train", "test_split": "test"}

    source: Literal["mmlu"]
    """Which problem set this is."""

    @classmethod
    def on_the_hub(cls, data: dict[str, Any]) -> dict[str, Any]:
        """Only all subjects together have a split to train on."""
        if data.get("hub_config", "all") in (None, "all"):
            return cls.HUB
        return {**cls.HUB, "train_split": "validation"}


class CommonsenseQaProblems(ChoiceProblems):
    """Everyday knowledge, five choices (``tau/commonsense_qa``, whose test split has no answers)."""

    HUB = {"hub": "tau/commonsense_qa", "train_split": "train", "test_split": "validation"}

    source: Literal["commonsenseqa"]
    """Which problem set this is."""


class Gsm8kProblems(PublishedProblems):
    """Word problems of school arithmetic with a number as y* and gold rationales (``openai/gsm8k``)."""

    HUB = {"hub": "openai/gsm8k", "hub_config": "main", "train_split": "train", "test_split": "test"}
    ANSWERS = "number"

    source: Literal["gsm8k"]
    """Which problem set this is."""


class Math500Problems(PublishedProblems):
    """Competition mathematics with a formula as y*, compared by math-verify (``HuggingFaceH4/MATH-500``, which has one
    split: say with ``test`` how many problems to hold out)."""

    HUB = {"hub": "HuggingFaceH4/MATH-500", "train_split": "test"}
    ANSWERS = "math"

    source: Literal["math500"]
    """Which problem set this is."""
    time_limit: float = Field(5.0, gt=0)
    """Seconds that a comparison may take; after that the verdict is ``verifier_timeout``."""


class PairProblems(PublishedProblems):
    """Which of two responses is better, from a local file of Auto-J's or LLMBar's form. All responses to a prompt are on
    one side."""

    source: Literal["pairs"]
    """Which problem set this is."""
    ties: Literal["drop", "keep"] = "drop"
    """Pairs judged equally good: ``drop`` leaves them out, ``keep`` makes a tie the third choice of every problem."""
    both_orders: bool = False
    """Ask every pair twice, the second time with the responses exchanged. ``train`` and ``test`` count both:
    half as many pairs are taken, one at least."""


def _any_of(schema: dict[str, Any]) -> None:
    """``oneOf`` as ``anyOf``, which means the same here: the form of the Prefect UI offers the sources of an ``anyOf`` only."""
    schema["anyOf"] = schema.pop("oneOf")


Problems = Annotated[
    ReasoningGymProblems
    | TableProblems
    | HelpSteer2Problems
    | TldrProblems
    | OpenBookQaProblems
    | ArcProblems
    | MmluProblems
    | CommonsenseQaProblems
    | Gsm8kProblems
    | Math500Problems
    | PairProblems,
    Field(discriminator="source", json_schema_extra=_any_of),
]
"""The section ``problems``; ``source`` chooses its class."""

SOURCES: dict[str, str] = {
    "reasoning_gym": "generated",
    "table": "table",
    "helpsteer2": "helpsteer2",
    "tldr": "tldr",
    "openbookqa": "multiple_choice",
    "arc": "multiple_choice",
    "mmlu": "multiple_choice",
    "commonsenseqa": "multiple_choice",
    "gsm8k": "gsm8k",
    "math500": "math500",
    "pairs": "pairs",
}
"""The module of ``fem_core.problems`` that loads each source."""
