"""The Arrow schema of every table in the store. Each column carries its description in the field's metadata.

Contract: writers build tables with these schemas and nothing else; a change that old readers cannot take raises
``SCHEMA_VERSION`` and gets a step in ``fem_core.store.migrations``.
"""

from collections.abc import Mapping
from typing import Any

import pyarrow as pa

SCHEMA_VERSION = 2


def _column(name: str, type_: pa.DataType, description: str, nullable: bool = False) -> pa.Field:
    return pa.field(name, type_, nullable=nullable, metadata={"description": description})


MESSAGES = pa.list_(pa.struct([pa.field("role", pa.string()), pa.field("content", pa.string())]))
"""A chat: one record per message, as TRL and chat templates take it."""

PROBLEMS = pa.schema(
    [
        _column("problem_id", pa.string(), "Digest of the problem's content: 16 hex digits."),
        _column("question", pa.string(), "x, without the choices."),
        _column(
            "choices", pa.list_(pa.string()), "Texts of the choices A, B, C …; null where the answer is free.", True
        ),
        _column("answer", pa.string(), "y*: a letter where there are choices."),
        _column(
            "answer_kind",
            pa.string(),
            "text, number, choice, label, rating, math or reasoning_gym: how answers are compared.",
        ),
        _column("rationale", pa.string(), "A gold rationale, where the source has one.", True),
        _column("group", pa.string(), "Rows of one group are never on both sides of the split."),
        _column(
            "verifier",
            pa.string(),
            "JSON that scoring an answer needs: the scorer's record, or a rating's scale.",
            True,
        ),
    ]
)

ATTEMPTS = pa.schema(
    [
        _column("problem_id", pa.string(), "The problem that was attempted."),
        _column("attempt", pa.int32(), "Index of the draw within its problem and iteration, from 0."),
        _column("prompt_kind", pa.string(), "plain or hinted; given where the completion was not drawn."),
        _column("exemplars", pa.int32(), "How many exemplars the prompt showed."),
        _column("text", pa.string(), "The completion as it was drawn, or given."),
        _column("answer", pa.string(), "The parsed answer; null where none could be parsed.", True),
        _column("verdict", pa.string(), "accepted, wrong_answer, unparsable, truncated or verifier_timeout."),
        _column("finish_reason", pa.string(), "stop, length, answer (ended after the answer line), or given."),
        _column("prompt_tokens", pa.int32(), "Tokens of the prompt; 0 where nothing was drawn."),
        _column("completion_tokens", pa.int32(), "Tokens of the completion; 0 where it was not drawn."),
        _column(
            "logprob",
            pa.float64(),
            "Sum of the completion tokens' log-probabilities at temperature 1, nats; at the draw's own where importance weights "
            "need those of the proposal; 0 where it was not drawn.",
        ),
        _column("seed", pa.int64(), "The draw's own seed; 0 where there is none."),
    ]
)
"""Attempts of the E-step, and the predictions of an evaluation."""

LOOKED = pa.schema(
    [
        *ATTEMPTS,
        _column(
            "plain_logprob",
            pa.float64(),
            "Sum of the same tokens' log-probabilities under the plain prompt at temperature 1, nats; null where not asked.",
            True,
        ),
        _column(
            "blind_answer",
            pa.string(),
            "The answer that the plain prompt and the rationale before its answer line lead to, greedily; null where not "
            "asked, or where none could be parsed.",
            True,
        ),
        _column("blind_verdict", pa.string(), "The verdict on that answer; null where not asked.", True),
    ]
)
"""Attempts of an E-step whose filter needs a second look at accepted draws. Only such parts have these columns."""

PROBES = pa.schema(
    [
        *ATTEMPTS,
        _column(
            "plain_logprob",
            pa.float64(),
            "The same sum given the plain prompt in place of the one that drew it; null where the answer is not y*.",
            True,
        ),
        _column(
            "direct_logprob",
            pa.float64(),
            "Log-probability of the answer line with y* alone and the end of the turn, given the plain prompt, nats; on the "
            "first draw of each problem, null on the others.",
            True,
        ),
    ]
)
"""Hinted draws for the problems of the probe set, wrong ones included, from which EM's bound is made."""

VERDICTS = pa.schema(
    [
        _column("problem_id", pa.string(), "The problem."),
        _column("attempt", pa.int32(), "Index of the draw."),
        _column("prompt_kind", pa.string(), "plain, hinted, or given (not drawn)."),
        _column("verdict", pa.string(), "The final verdict: that of the draw, or of the filter that rejected it."),
        _column("reason", pa.string(), "The verdict in words, with the values that decided it."),
    ]
)

RATIONALES = pa.schema(
    [
        _column("prompt", MESSAGES, "The plain prompt, as messages: what TRL trains on."),
        _column("completion", MESSAGES, "Rationale and answer line, as one assistant message."),
        _column("problem_id", pa.string(), "The problem."),
        _column("attempt", pa.int32(), "Index of the draw."),
        _column("prompt_kind", pa.string(), "The kind of prompt that drew it; given where nothing did."),
        _column("completion_tokens", pa.int32(), "Tokens of the completion as drawn; 0 where it was given."),
    ]
)

ANNOTATIONS = pa.schema(
    [
        _column("iteration", pa.int32(), "The iteration whose attempt it is, from 1."),
        _column("problem_id", pa.string(), "The problem."),
        _column("attempt", pa.int32(), "Index of the draw."),
        _column(
            "text_sha256", pa.string(), "SHA-256 of the attempt's text, by which it is known again: 64 hex digits."
        ),
        _column("value", pa.string(), "good, bad, leaked, or none, which takes back what was said."),
        _column("comment", pa.string(), "Why; may be empty."),
        _column("author", pa.string(), "Who says so, as they call themselves."),
        _column("time", pa.string(), "When, ISO 8601, UTC."),
    ]
)
"""What people say of attempts; the last row of an attempt counts."""

TRAINING_LOG = pa.schema(
    [
        _column("step", pa.int32(), "Optimizer step within the iteration, from 1."),
        _column("epoch", pa.float64(), "Passes over the rationales so far."),
        _column("loss", pa.float64(), "Mean completion-token loss since the last row, nats."),
        _column("learning_rate", pa.float64(), "Learning rate of this step."),
        _column("grad_norm", pa.float64(), "Norm of the gradient before clipping.", True),
        _column("mean_token_accuracy", pa.float64(), "Share of completion tokens predicted right.", True),
        _column("tokens", pa.int64(), "Tokens seen so far, prompts included.", True),
        _column("seconds", pa.float64(), "Since training began."),
    ]
)

COMPARISON = pa.schema(
    [
        _column("comparison", pa.string(), "The comparison's name."),
        _column("run", pa.string(), "The run."),
        _column("arm", pa.string(), "What its runs over seeds have in common."),
        _column("seed", pa.int64(), "The run's seed."),
        _column("iteration", pa.int32(), "k; 0 is the base model."),
        _column("exemplars", pa.int32(), "How many exemplars the evaluation's prompt showed."),
        _column("n", pa.int32(), "Test problems; null where the iteration is not scored yet.", True),
        _column("correct", pa.int32(), "Of them, answered right.", True),
        _column("accuracy", pa.float64(), "correct / n.", True),
        _column("low", pa.float64(), "Lower end of its 95 % interval.", True),
        _column("high", pa.float64(), "Its upper end.", True),
        _column("unparsable", pa.int32(), "Predictions without an answer.", True),
        _column("truncated", pa.int32(), "Predictions cut by the token limit.", True),
        _column("calibration_error", pa.float64(), "Expected calibration error; null without repeated draws.", True),
        _column("bound", pa.float64(), "EM's bound on the probe set, nats per problem; null where not asked.", True),
        _column("draws", pa.int64(), "Draws of this iteration's E-step; null for the base model.", True),
        _column("drawn_tokens", pa.int64(), "Completion tokens of these draws.", True),
        _column("draws_so_far", pa.int64(), "Draws of all iterations up to this one."),
        _column("drawn_tokens_so_far", pa.int64(), "Completion tokens of all iterations up to this one."),
        _column("rationales", pa.int32(), "Rationales that this iteration trained on.", True),
        _column("utilization", pa.float64(), "Share of training problems with a rationale.", True),
        _column(
            "mean_rationale_tokens", pa.float64(), "Mean tokens of these rationales; null where they were given.", True
        ),
    ]
)
"""The results of a comparison: one row for each run and iteration. It lies beside the runs and is made from them."""

DIAGNOSTICS = pa.schema(
    [
        _column("iteration", pa.int32(), "k; 0 is the base model."),
        _column(
            "measure",
            pa.string(),
            "acceptance_by_label and acceptance_by_difficulty (share of problems with a rationale), rationale_tokens "
            "(quantiles), again_problems and again_texts (share of this iteration's accepted set that the last one's "
            "held), logprob_per_token (nats, of accepted attempts), entropy_per_token (nats, of all draws), answer_entropy "
            "and label_entropy (nats, of test predictions and of test labels), answer_share and label_share.",
        ),
        _column(
            "part", pa.string(), "A label, a difficulty, a quantile or a prompt kind; empty where there is one value."
        ),
        _column("value", pa.float64(), "The value."),
        _column("over", pa.int64(), "How many problems, rationales, tokens or predictions it is over."),
    ]
)

TABLES = {
    "problems": PROBLEMS,
    "attempts": ATTEMPTS,
    "predictions": ATTEMPTS,
    "probes": PROBES,
    "verdicts": VERDICTS,
    "rationales": RATIONALES,
    "annotations": ANNOTATIONS,
    "training_log": TRAINING_LOG,
    "diagnostics": DIAGNOSTICS,
}


def schema_of(kind: str, step_config: Mapping[str, Any]) -> pa.Schema | None:
    """The schema of an artifact's tables; None where the kind is no table.

    Args:
        step_config: what the step that wrote it read of the configuration; with ``looks`` its attempts have more columns.
    """
    return LOOKED if kind == "attempts" and step_config.get("looks") else TABLES.get(kind)
