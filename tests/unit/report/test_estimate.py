"""What a calibration and an estimate say, on cases that can be worked out by hand."""

import dataclasses
import json

import pyarrow as pa
import pytest

from fem_core.errors import Corrupt
from fem_core.evaluate.score import wilson
from fem_core.report.calibration import (
    Accepted,
    Calibration,
    Drawn,
    Kind,
    Moment,
    Rates,
    Training,
    drawn,
    kinds,
    rates,
    training,
)
from fem_core.report.estimate import BASELINE, Figure, StepEstimate, dump, estimate, fixed, load, scaled, total
from fem_core.schemas import ATTEMPTS
from fem_core.train.launch import TrainProgress

# 40 problems, of which four were drawn on: two accepted at once, two on the second draw.
CALIBRATION = Calibration(
    sample=Drawn(40, (1, 1, 2, 2), (100, 100, 100, 100), (100, 100, 200, 200), (20, 20, 50, 50), 1400),
    kinds=(Kind("plain", 4, 2, 400, 100), Kind("hinted", 2, 1, 200, 40)),
    evaluate=Drawn(10, (1, 1), (50, 50), (50, 50), (30, 30), 600),
    baseline=None,
    rates=Rates(completion_tokens=10.0, prompt_tokens=100.0, tail=3.0, in_flight=6),
    accepted=Accepted(problems=2, rationales=3, tokens=360, seconds=0.2, bytes=800),
    training=Training(50.0, 7.0, 5000, 1.5, 120.0, False),
    prepare_seconds=4.0,
    prepare_bytes=900,
    engine_start=11.0,
    swap=2.0,
    engine_gib=3.0,
)


def by_name(calibration: Calibration, **changes: object) -> dict[str, StepEstimate]:
    made = estimate(dataclasses.replace(calibration, **changes), 2, 2.0, "2026-01-01", {})  # type: ignore[arg-type]
    return {f"{one.step} {one.iteration}": one for one in made.steps}


def test_a_few_problems_stand_for_all_with_an_interval() -> None:
    figure = scaled([1, 1, 2, 2], 40)
    # mean 1.5, standard deviation sqrt(1/3), so the margin of the mean is 1.96 * 0.5774 / 2
    assert figure.value == 60
    assert (figure.low, figure.high) == pytest.approx((60 - 40 * 0.56580, 60 + 40 * 0.56580), abs=1e-2)
    assert scaled([3, 3], 10) == Figure(30, 30, 30)
    assert scaled([0, 10], 10).low == 0, "no amount is negative"
    with pytest.raises(ValueError, match="no problem"):
        scaled([], 10)


def test_sampling_follows_the_draws_that_the_plan_took_on_each_problem() -> None:
    steps = by_name(CALIBRATION)
    first, second = steps["sample 1"], steps["sample 2"]
    assert first.draws and first.prompt_tokens and first.tokens
    assert first.draws.value == 60 and first.prompt_tokens.value == 6000 and first.tokens.value == 1400
    # 40 first prompts of 100 tokens at 100/s, 1400 tokens at 10/s, and the engine's start
    assert first.seconds.value == pytest.approx(40 + 140 + 11)
    assert second.seconds.value == pytest.approx(40 + 140 + 2), "later iterations wait for new weights instead"
    assert first.bytes.value == 14_000


def test_where_nothing_is_sampled_the_engine_starts_and_waits_for_the_evaluations() -> None:
    nothing = dict.fromkeys(("draws", "first_prompt_tokens", "prompt_tokens", "completion_tokens"), (0,) * 4)
    steps = by_name(CALIBRATION, sample=dataclasses.replace(CALIBRATION.sample, **nothing))  # type: ignore[arg-type]
    sample = steps["sample 1"]
    assert sample.draws and sample.tokens and sample.draws.value == sample.tokens.value == sample.seconds.value == 0
    assert steps["evaluate 0"].seconds.value == pytest.approx(5 + 30 + 3 + 11)
    assert steps["evaluate 1"].seconds.value == pytest.approx(5 + 30 + 3 + 2)


def test_the_emptying_batch_counts_once_with_each_evaluation() -> None:
    steps = by_name(CALIBRATION)
    # 10 prompts of 50 tokens at 100/s, 300 tokens at 10/s, and the tail; the last one waits for new weights
    assert steps["evaluate 0"].seconds.value == pytest.approx(5 + 30 + 3)
    assert steps["evaluate 1"].seconds.value == pytest.approx(5 + 30 + 3)
    assert steps["evaluate 2"].seconds.value == pytest.approx(5 + 30 + 3 + 2)
    shown = by_name(CALIBRATION, baseline=CALIBRATION.evaluate)
    assert shown[f"{BASELINE} 0"].seconds.value == pytest.approx(5 + 30)
    assert [name for name in shown if name.startswith(BASELINE)] == [f"{BASELINE} 0"]


def test_second_looks_take_their_time_with_the_draws_that_they_look_at() -> None:
    looked = dataclasses.replace(CALIBRATION.sample, look_tokens=700)
    steps = by_name(CALIBRATION, sample=looked, rates=dataclasses.replace(CALIBRATION.rates, look_tokens=250.0))
    first = steps["sample 1"]
    # 700 tokens for four of 40 problems, and 7000 at 250/s
    assert first.look_tokens and first.look_tokens.value == pytest.approx(7000)
    assert first.look_tokens.low < 7000 < first.look_tokens.high
    assert first.seconds.value == pytest.approx(40 + 140 + 11 + 28)
    assert steps["evaluate 1"].look_tokens is None and by_name(CALIBRATION)["sample 1"].look_tokens is None


def test_the_bounds_draws_and_looks_stand_with_every_evaluation() -> None:
    # 6 probe problems, of which two had two draws each
    bound = Drawn(6, (2, 2), (50, 50), (100, 100), (40, 60), 500, look_tokens=300)
    steps = by_name(CALIBRATION, bound=bound, rates=dataclasses.replace(CALIBRATION.rates, look_tokens=90.0))
    for k in (0, 1, 2):
        one = steps[f"evaluate {k}"]
        assert one.draws and one.prompt_tokens and one.tokens and one.look_tokens
        assert one.draws.value == 10 + 12
        assert one.prompt_tokens.value == 10 * 50 + 6 * 100
        assert one.tokens.value == 300 + 6 * 50
        assert one.look_tokens.value == pytest.approx(900)
        assert one.bytes.value == pytest.approx(3_000 + 1_500)
        # the bound's 6 prompts of 50 tokens at 100/s, 300 tokens at 10/s, 900 looked at at 90/s
        assert one.seconds.value == pytest.approx(5 + 30 + 3 + (2 if k == 2 else 0) + 3 + 30 + 10)
    made = estimate(dataclasses.replace(CALIBRATION, bound=bound), 2, 1.0, "2026-01-01", {})
    assert load(dump(made), "here") == made


def test_the_most_rationales_of_an_iteration_bound_the_run_and_not_the_few_problems() -> None:
    # 3 rationales on two of four problems: 30 on 20 of 40, with 120 tokens each
    capped = dataclasses.replace(CALIBRATION.accepted, most=6, rationale_bytes=300)
    train = by_name(CALIBRATION, accepted=capped)["train 1"]
    assert train.tokens == fixed(6 * 120 * 2), "even the lower end of the range has more than six"
    # verdicts 5000 bytes, and a fifth of the rationales' 3000
    assert by_name(CALIBRATION, accepted=capped)["filter 1"].bytes.value == 5_600
    made = estimate(dataclasses.replace(CALIBRATION, accepted=capped), 2, 2.0, "2026-01-01", {})
    # each of a problem's 1.5 rationales stays with a chance of 6 / 30
    assert made.utilization.value == pytest.approx(0.5 * (1 - 0.8**1.5))
    assert made.utilization.value * 40 <= 6

    loose = dataclasses.replace(capped, most=1000)
    assert by_name(CALIBRATION, accepted=loose)["train 1"].tokens == by_name(CALIBRATION)["train 1"].tokens
    assert by_name(CALIBRATION, accepted=loose)["filter 1"].bytes.value == 8_000
    unbound = estimate(CALIBRATION, 2, 2.0, "2026-01-01", {})
    assert (
        estimate(dataclasses.replace(CALIBRATION, accepted=loose), 2, 2.0, "x", {}).utilization == unbound.utilization
    )


def test_training_follows_utilization_within_its_interval() -> None:
    train = by_name(CALIBRATION)["train 1"]
    assert train.tokens is not None
    # half of 40 problems, 180 tokens each, two epochs
    low, high = wilson(2, 4)
    assert train.tokens.value == pytest.approx(7200)
    assert (train.tokens.low, train.tokens.high) == pytest.approx((40 * 360 * low, 40 * 360 * high))
    assert train.seconds.value == pytest.approx(7200 / 50 + 7)
    assert train.bytes == fixed(5000)


def test_without_an_accepted_attempt_training_may_be_nothing_and_has_an_upper_end() -> None:
    none = Accepted(problems=0, rationales=0, tokens=0, seconds=0.2, bytes=800)
    train = by_name(CALIBRATION, accepted=none)["train 1"]
    assert train.tokens is not None and train.tokens.value == train.tokens.low == 0
    assert train.tokens.high == pytest.approx(40 * 120 * 2 * wilson(0, 4)[1])
    assert train.seconds.value == 7


def test_the_whole_is_the_sum_of_the_steps_without_the_tokens_trained_on() -> None:
    made = estimate(CALIBRATION, 2, 2.0, "2026-01-01", {})
    whole = total(made.steps)
    assert whole.tokens is not None and whole.draws is not None
    assert whole.tokens.value == 2 * 1400 + 3 * 300
    assert whole.draws.value == 2 * 60 + 3 * 10
    # prepare; three evaluations with a tail each; start and swap; two filters, two M-steps; the last swap
    expected = 4 + 3 * 38 + 2 * 180 + 11 + 2 + 2 * 2 + 2 * (144 + 7) + 2
    assert whole.seconds.value == pytest.approx(expected)
    assert whole.bytes.value == 900 + 2 * 14_000 + 3 * 3_000 + 2 * 8_000 + 2 * 5_000
    assert whole.seconds.low < whole.seconds.value < whole.seconds.high
    assert [f"{one.step} {one.iteration}" for one in made.steps][:3] == ["prepare None", "evaluate 0", "sample 1"]


def test_prompts_that_could_not_be_told_apart_cost_nothing_more() -> None:
    slow = dataclasses.replace(CALIBRATION.rates, prompt_tokens=None)
    assert by_name(CALIBRATION, rates=slow)["sample 1"].seconds.value == pytest.approx(140 + 11)


def test_an_estimate_comes_back_from_its_file() -> None:
    made = estimate(dataclasses.replace(CALIBRATION, baseline=CALIBRATION.evaluate), 2, 1.5, "2026-01-01", {"cores": 2})
    assert load(dump(made), "here") == made
    for text in (b"{", b"[]", b'{"version": 0}', b'{"version": 1, "steps": []}'):
        with pytest.raises(Corrupt, match=r"^here holds no estimate.*fem plan"):
            load(text, "here")


def test_an_estimate_from_before_looks_were_measured_is_read() -> None:
    made = estimate(CALIBRATION, 2, 1.5, "2026-01-01", {})
    values = json.loads(dump(made))
    old = values["calibration"]
    for where, names in (
        (old, ["bound"]), (old["sample"], ["look_tokens"]), (old["evaluate"], ["look_tokens"]),
        (old["rates"], ["look_tokens"]), (old["accepted"], ["rationale_bytes", "most"]),
        *((one, ["look_tokens"]) for one in values["steps"]),
    ):  # fmt: skip
        for name in names:
            del where[name]
    assert load(json.dumps(values).encode(), "here") == made


def test_rates_leave_out_the_beginning_and_the_end_of_a_small_job() -> None:
    moments = [
        Moment(0, 0, 0, 8),
        Moment(0.5, 1, 1, 0),  # the first draw goes ahead alone
        Moment(4, 20, 5, 3),
        Moment(8, 60, 8, 0),  # all prompts are read: 60 tokens took 6 of these 8 seconds, so reading took 2
        Moment(10, 80, 8, 0),
        Moment(12, 100, 4, 0),  # the last with half of the batch
        Moment(16, 110, 1, 0),
        Moment(18, 120, 0, 0),  # 20 tokens in 6 seconds, which the full batch draws in 2
    ]
    assert rates(moments, 800) == Rates(completion_tokens=10.0, prompt_tokens=400.0, tail=4.0, in_flight=8)
    assert 120 / 18 < 10, "all tokens by all seconds would call it slower"


def test_the_rates_of_draws_do_not_have_the_time_that_looks_took_between_them() -> None:
    still = [
        Moment(0, 0, 0, 8),
        Moment(8, 60, 8, 0),
        Moment(10, 80, 8, 0),
        Moment(12, 100, 4, 0),
        Moment(18, 120, 0, 0),
    ]
    looked = [0, 0, 500, 1000, 1500]  # at 250 a second
    moments = [
        dataclasses.replace(one, seconds=one.seconds + tokens / 250, looked=tokens)
        for one, tokens in zip(still, looked, strict=True)
    ]
    assert rates(moments, 800, 250.0) == dataclasses.replace(rates(still, 800), look_tokens=250.0)
    assert rates(moments, 800).completion_tokens == 5.0, "40 tokens in 8 seconds"
    # Looks that are said to have taken all the time there was tell nothing of the draws.
    assert rates(moments, 800, 10.0).completion_tokens == 5.0


def test_a_job_of_a_second_gives_its_mean_rate() -> None:
    moments = [Moment(0, 0, 0, 1), Moment(0.2, 10, 4, 0), Moment(0.5, 50, 0, 0)]
    assert rates(moments, 800) == Rates(100.0, None, 0.0, 4)
    with pytest.raises(ValueError, match="no rate"):
        rates([Moment(0, 0, 0, 1)], 800)


def attempts(*rows: tuple[str, int, str, str, int, int]) -> pa.Table:
    names = ("problem_id", "attempt", "prompt_kind", "verdict", "prompt_tokens", "completion_tokens")
    other = {"exemplars": 0, "text": "", "answer": None, "finish_reason": "stop", "logprob": 0.0, "seed": 0}
    return pa.Table.from_pylist([dict(zip(names, row, strict=True)) | other for row in rows], schema=ATTEMPTS)


def test_attempts_are_counted_per_problem_and_per_prompt_kind() -> None:
    tables = [
        attempts(("b", 1, "hinted", "accepted", 40, 7), ("b", 0, "plain", "wrong_answer", 30, 5)),
        attempts(("a", 0, "plain", "accepted", 31, 6)),
    ]
    found = drawn(tables, ["a", "b"], 20, 900)
    assert found == Drawn(20, (1, 2), (31, 30), (31, 70), (6, 12), 900)
    assert kinds(tables) == (Kind("plain", 2, 1, 61, 11), Kind("hinted", 1, 1, 40, 7))


def test_a_problem_without_a_gold_rationale_counts_as_one_that_nothing_is_given_for() -> None:
    given = attempts(("b", 0, "given", "accepted", 0, 0), ("d", 0, "given", "accepted", 0, 0))
    nothing = (0, 0, 0, 0)
    sample = drawn([given], ["a", "b", "c", "d"], 40, 800)
    assert sample == Drawn(40, nothing, nothing, nothing, nothing, 800), "given completions are no draws"
    two = Accepted(problems=2, rationales=2, tokens=360, seconds=0.2, bytes=800)
    made = estimate(dataclasses.replace(CALIBRATION, sample=sample, accepted=two), 2, 2.0, "2026-01-01", {})
    assert made.utilization == Figure(0.5, *wilson(2, 4))
    steps = {f"{one.step} {one.iteration}": one for one in made.steps}
    assert steps["train 1"].tokens and steps["train 1"].tokens.value == pytest.approx(0.5 * 40 * 180 * 2)
    assert steps["filter 1"].bytes.value == 8_000
    assert steps["sample 1"].bytes.value == 8_000, "what is given lies in the store, too"


def test_a_subset_without_any_gold_rationale_gives_an_estimate() -> None:
    sample = drawn([attempts()], ["a", "b"], 40, 700)
    none = Accepted(problems=0, rationales=0, tokens=0, seconds=0.2, bytes=800)
    made = estimate(dataclasses.replace(CALIBRATION, sample=sample, accepted=none), 2, 2.0, "2026-01-01", {})
    assert made.utilization.value == 0 and made.utilization.high == wilson(0, 2)[1]
    assert load(dump(made), "here") == made


def test_the_first_optimizer_step_counts_as_start_up() -> None:
    progress = [
        TrainProgress(step=n, steps=3, loss=1.0, learning_rate=1e-5, tokens=tokens, seconds=seconds)
        for n, tokens, seconds in ((1, 100, 9.0), (2, 200, 11.0), (3, 300, 13.0))
    ]
    found = training(progress, wall=40.0, rows=12, size=5, peak_gib=1.0, made_up=False)
    assert found.tokens_per_second == 50
    assert found.startup == 40 - 300 / 50
    assert found.tokens_per_row == 25
    assert training(progress[:1], 40.0, 4, 5, 1.0, False).tokens_per_second == pytest.approx(100 / 9)
    with pytest.raises(ValueError, match="no optimizer step"):
        training([], 40.0, 4, 5, 1.0, False)
