"""`fem plan`: what a run will cost, before anything is spent on it."""

from pathlib import Path
from typing import TYPE_CHECKING

from flows.commands.options import RunName, Set, StoreUrl

if TYPE_CHECKING:
    from fem_core.config import RunConfig
    from fem_core.report.estimate import Estimate, StepEstimate

PROBLEMS = 64
"""With as many evaluations beside them they fill the engine's batch on CPU, so that its rate is the run's."""


def plan(
    config: Path,
    *,
    run: RunName = None,
    store: StoreUrl = None,
    set_: Set = (),
    problems: int = PROBLEMS,
) -> None:
    """Estimate tokens, time and bytes of each step of a run, from a calibration of a minute or two on the real engine.

    Parameters
    ----------
    config
        YAML file; docs/configuration.md lists its fields.
    run
        Name of the run; the file's name by default.
    store
        Folder or URL of the store, which is not written to; the configuration's by default.
    set_
        Override a field, such as ``--set scheme.name=rs``; may be repeated.
    problems
        How many of the training and of the test problems to draw on; more make the ranges narrower.
    """
    from fem_core.errors import FemError
    from flows.cli import resolve

    resolved = resolve(config, run, store, set_)
    if problems < 2:
        raise FemError(f"--problems is {problems}, and a range needs 2 at least. Leave it out for {PROBLEMS}.")
    if not resolved.iterations:
        raise FemError(
            "The scheme none draws and trains nothing, so there is nothing to calibrate. Run it: it scores the base model "
            "once, as every run does before its first iteration."
        )
    made, seconds = _estimated(resolved, problems)
    show_estimate(resolved, made)
    name = resolved.name or "fem"
    print(
        f"\nCalibrated in {seconds:.0f} s. The estimate is kept: a run of this configuration takes it along, and then "
        f"`fem show {name} --costs` puts it beside what the run did cost."
    )


def _estimated(config: "RunConfig", problems: int) -> tuple["Estimate", float]:
    """The estimate, kept where the run will find it, and how long it took, seconds."""
    import asyncio
    import json
    import os
    import time

    os.environ.setdefault("PREFECT_LOGGING_LEVEL", "CRITICAL")
    from fem_core.initial import looked_at
    from fem_core.model import default_cache
    from fem_core.report.estimate import estimate
    from fem_core.sample.client import EngineDied
    from fem_core.store import provenance
    from fem_core.train.launch import TrainerDied
    from flows.calibrate import calibrate
    from flows.commands.execute import keep_traceback
    from flows.ending import leave, sentence
    from flows.plan import problems_to_be
    from tasks import estimate as kept
    from tasks import prepare, step

    begun, cache, load = time.monotonic(), default_cache(), os.getloadavg()[0]

    def say(text: str) -> None:
        print(f"[{time.monotonic() - begun:6.1f} s] {text}", flush=True)

    model, init = looked_at(config, cache)
    loading = time.monotonic()
    found, lengths, shown = prepare.check(config, model)
    name = config.name or "fem"
    (_, train), (_, test) = problems_to_be(name, config, found)
    took = time.monotonic() - loading
    todo = prepare.model_work(name, config, init)
    base = todo.manifest(prepare.model_files(model), step.now(), stats={})
    say(f"{len(found.train)} training and {len(found.test)} test problems; starting the engine")
    size = sum(record.bytes for side in (train, test) for record in side.files) + len(
        json.dumps(shown, ensure_ascii=False).encode()
    )
    try:
        measured = asyncio.run(
            calibrate(config, model, found, lengths.longest_sequence, (took, size), problems, cache, say)
        )
    except KeyboardInterrupt:
        leave("Stopped. Nothing is kept.", 130)
    except (EngineDied, TrainerDied) as error:
        log = keep_traceback(f"{name}-plan")
        leave(f"The calibration failed, as the run would: {sentence(error)}\nThe traceback is in {log}.", 1)
    made = estimate(
        measured, config.iterations, config.train.epochs, step.now(), provenance.hardware() | {"load": load}
    )
    kept.keep(cache, kept.work(name, config, train, test, base), made)
    return made, time.monotonic() - begun


def show_estimate(config: "RunConfig", made: "Estimate") -> None:
    """Print the table, its sums, what was measured and assumed, and what may go wrong."""
    from rich.console import Console
    from rich.table import Table

    from fem_core.report.estimate import total
    from flows.ending import safe

    table = Table(box=None, pad_edge=False)
    for header in ("step", "draws", "prompt tokens", "tokens", "seconds", "95 % range", "bytes"):
        table.add_column(header, justify="left" if header == "step" else "right", no_wrap=True)
    for k in range(config.iterations + 1):
        steps = [one for one in made.steps if (one.iteration or 0) == k]
        for one in steps:
            table.add_row(*_cells(one))
        table.add_row(*_cells(total(steps, f"= iteration {k}" if k else "= before iteration 1")), style="bold")
    whole = total(made.steps, "= the run")
    table.add_row(*_cells(whole), style="bold")
    print()
    Console(width=max(Console().width, 120), highlight=False).print(table)
    print()
    for line in (*_sums(whole, config, made), *_basis(made), *_warnings(config, made, whole)):
        print(safe(line))


def _cells(one: "StepEstimate") -> tuple[str, ...]:
    from fem_core.report.costs import amount, name_of, size

    seconds = one.seconds
    return (
        name_of(one.step, one.iteration),
        *(amount(None if figure is None else figure.value) for figure in (one.draws, one.prompt_tokens, one.tokens)),
        f"{seconds.value:,.1f}",
        f"{seconds.low:,.0f} to {seconds.high:,.0f}" if seconds.low < seconds.high else "-",
        size(one.bytes.value),
    )


def _sums(whole: "StepEstimate", config: "RunConfig", made: "Estimate") -> list[str]:
    from fem_core.report.costs import amount, size

    found, seconds = made.calibration, whole.seconds
    trained = sum(one.tokens.value for one in made.steps if one.step == "train" and one.tokens)
    engine = f" and the engine {found.engine_gib:.1f}" if found.engine_gib is not None else ""
    return [
        f"The run: {_time(seconds.value)} ({_time(seconds.low)} to {_time(seconds.high)}), "
        f"{amount(whole.tokens.value if whole.tokens else None)} tokens drawn, {amount(trained)} trained on, "
        f"{size(whole.bytes.value)} in the store.",
        f"Peak memory: the trainer {found.training.peak_gib:.1f} GiB{engine}"
        + (
            f", together {found.training.peak_gib + found.engine_gib:.1f} GiB." if found.engine_gib else ", on the GPU."
        ),
    ]


def _basis(made: "Estimate") -> list[str]:
    """What was measured, and what is assumed."""
    found, rate = made.calibration, made.calibration.rates
    prompts = f"{rate.prompt_tokens:,.0f} prompt tokens/s" if rate.prompt_tokens else "prompts within that"
    lines = [
        f"Measured: {rate.completion_tokens:,.0f} tokens/s with {rate.in_flight} draws in flight, {prompts}; training "
        f"{found.training.tokens_per_second:,.0f} tokens/s; start-ups: engine {found.engine_start:.1f} s, new weights "
        f"{found.swap:.1f} s, trainer {found.training.startup:.1f} s."
    ]
    lines += [
        f"Drawn with the {kind.kind} prompt: {kind.draws}, accepted {kind.accepted} ({kind.accepted / kind.draws:.2f}); "
        f"{kind.prompt_tokens / kind.draws:.0f} prompt and {kind.completion_tokens / kind.draws:.0f} completion tokens each."
        for kind in found.kinds
    ]
    looks = [one.look_tokens.value for one in made.steps if one.look_tokens]
    if looks and rate.look_tokens:
        lines.append(
            f"Second looks at draws read {sum(looks):,.0f} tokens more, at {rate.look_tokens:,.0f} tokens/s; their seconds "
            "are in those of sample and evaluate."
        )
    share, most = made.utilization, found.accepted.most
    lines += [
        f"Utilization {share.value:.2f} ({share.low:.2f} to {share.high:.2f}), from {len(found.sample.draws)} of "
        f"{found.sample.of} training problems{'' if most is None else f' and at most {most} rationales an iteration'}.",
        "Assumed: acceptance and lengths stay those of the base model. Acceptance usually rises with training: then less is "
        "drawn by plans that stop at it, and more is trained on. Ranges are for the choice of problems; how busy the machine "
        "is, and sending files to a store elsewhere, are not in them. A run starts its trainer while it still draws, which "
        "hides a part of that start-up.",
    ]
    return lines


def _warnings(config: "RunConfig", made: "Estimate", whole: "StepEstimate") -> list[str]:
    import shutil

    import psutil

    from fem_core.report.costs import size
    from fem_core.report.signatures import NEAR_ZERO

    found, share, said = made.calibration, made.utilization, []
    if found.training.made_up:
        said.append(
            "Warning: no attempt was accepted, so the trainer was measured on rows written from the exemplars, and the run "
            "may end in iteration 1 with nothing to train on. See what the model is asked with fem preview."
        )
    elif share.high < NEAR_ZERO:
        said.append(
            f"Warning: utilization will be near zero ({share.high:.2f} at most). Try a hinted scheme (scheme.name pps or "
            "star), exemplars (prompts.sample_exemplars), or easier problems."
        )
    load, cores = made.hardware.get("load", 0.0), made.hardware.get("cores", 1)
    if load > cores / 2:
        said.append(
            f"Warning: the machine was busy (load {load:.1f} on {cores} cores) before this began, so all rates are what "
            "was left. Seconds will be fewer when it is quiet; tokens and bytes are the same."
        )
    sequences = config.sample.engine.max_num_seqs
    if sequences is not None and sequences > found.rates.in_flight and found.sample.of > len(found.sample.draws):
        said.append(
            f"The run may hold up to {sequences} draws in flight and so draw faster; a larger --problems shows it."
        )
    if config.filter.near_duplicate is not None and found.sample.of > len(found.sample.draws):
        said.append(
            "Near duplicates were looked for among the rationales of these few problems; among all of them there are more, so "
            "less is trained on."
        )
    memory = found.training.peak_gib + (found.engine_gib or 0.0)
    there = psutil.virtual_memory().total / 2**30
    if found.engine_gib is not None and memory > 0.9 * there:
        said.append(
            f"Warning: engine and trainer need {memory:.1f} GiB together, and this machine has {there:.1f}. Lower "
            "train.micro_batch_size or sample.engine.kv_cache_gib, or set train.method=lora."
        )
    folder = _local(config.store)
    if folder is not None and (free := shutil.disk_usage(folder).free) < whole.bytes.high:
        said.append(
            f"Warning: the store needs up to {size(whole.bytes.high)}, and its disk has {size(free)} free. Free some, or "
            "name another --store."
        )
    each = next(one.seconds.value for one in made.steps if one.step == "train")
    if config.train.save_minutes is not None and each > 60 * config.train.save_minutes:
        said.append(
            "While an M-step runs, its saved states take some three times the weights' size more, in the store."
        )
    return said


def _local(url: str) -> Path | None:
    """The nearest folder that is there on a local store's disk; None for a store elsewhere."""
    scheme, separator, rest = url.partition("://")
    if separator and scheme not in ("file", "local"):
        return None
    folder = Path(rest if separator else url).expanduser().absolute()
    return next(place for place in (folder, *folder.parents) if place.is_dir())


def _time(seconds: float) -> str:
    minutes, rest = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours} h {minutes:02d} min" if hours else f"{minutes} min {rest:02d} s"
