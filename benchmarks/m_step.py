"""How fast is the M-step, beside TRL's defaults and beside a bare PyTorch loop, on the same batches?

``python -m benchmarks.m_step [--rows 96] [--steps 8] [--repeats 3] [--model FOLDER]`` fine-tunes on rationales of the
demo's problems, each way in a process of its own, in turn: ``default`` is ``SFTTrainer`` with TRL's own settings (its
gradient checkpointing and mixed precision included) and the run's learning rate and batch; ``fem`` is what a run starts;
``bare`` is a loop without any trainer that computes nothing that the loss does not need, the ceiling. All see the same
rows in the same order from the same weights. Prints tokens per second (prompts included, padding not), the ratio of
paired repeats, peak memory, the share of what a matrix product reaches here, and how far the loss curves lie apart.
"""

import argparse
import json
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from statistics import median
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from benchmarks.flops import Model, peak
from fem_core.config import RunConfig
from fem_core.config_files import load_config
from fem_core.model import default_cache
from fem_core.packaged_model import packaged_model
from fem_core.problems.registry import load
from fem_core.prompts import completion, messages
from fem_core.schemas import RATIONALES
from fem_core.train.launch import TrainJob

ROOT = Path(__file__).resolve().parents[1]
WAYS = ("default", "fem", "bare")


def rationales(config: RunConfig, rows: int, file: Path) -> None:
    """Rows like a run's, with a made-up rationale of the demo's kind."""
    problems = config.problems.model_copy(update={"train": rows, "test": 1})
    table = [
        {
            "prompt": messages(config.prompts, problem, "plain", config.prompts.train_exemplars),
            "completion": completion(
                f"The statement about it is: {problem.question.split('. ')[n % 3]}. So it is {problem.answer}.\n"
                f"Answer: {problem.answer}"
            ),
            "problem_id": problem.problem_id,
            "attempt": 0,
            "prompt_kind": "plain",
            "completion_tokens": 0,
        }
        for n, problem in enumerate(load(problems, 0).train)
    ]
    pq.write_table(pa.Table.from_pylist(table, schema=RATIONALES), file)


class Clock:
    """Times of the steps after the first, which pays for what happens once."""

    def __init__(self) -> None:
        self.times: list[float] = []

    def tick(self) -> None:
        """A step has ended."""
        self.times.append(time.perf_counter())

    @property
    def seconds(self) -> float:
        """From the end of the first step to the end of the last."""
        return self.times[-1] - self.times[0]


def work(way: str, job: TrainJob, steps: int) -> dict[str, Any]:
    """One way, in this process."""
    import resource

    import torch
    from transformers import TrainerCallback
    from trl import SFTConfig, SFTTrainer

    from fem_core.train import sft

    made = sft.make_trainer(job, "cpu")
    made.args.max_steps = steps
    order = list(made.get_train_dataloader())[:steps]  # the batches that the sampler's seed gives
    clock, losses = Clock(), []
    if way == "bare":
        optimizer = torch.optim.AdamW(made.model.parameters(), lr=job.learning_rate, weight_decay=0.0, fused=True)
        head = made.model.get_output_embeddings()
        for batch in order:
            labels = batch["labels"][:, 1:]
            scored = labels != -100
            with torch.autocast("cpu", torch.bfloat16, enabled=made.args.bf16):
                hidden = made.model.model(
                    input_ids=batch["input_ids"], attention_mask=batch["attention_mask"], use_cache=False
                ).last_hidden_state[:, :-1][scored]
                loss = torch.nn.functional.cross_entropy(head(hidden).float(), labels[scored])
            loss.backward()
            torch.nn.utils.clip_grad_norm_(made.model.parameters(), 1.0)
            optimizer.step()
            optimizer.zero_grad()
            losses.append(float(loss.detach()))
            clock.tick()
    else:
        if way == "default":
            settings = SFTConfig(
                output_dir=str(job.work_dir),
                per_device_train_batch_size=job.config.batch_size,
                use_cpu=True,  # TRL refuses to start on this machine otherwise
                learning_rate=job.learning_rate,
                lr_scheduler_type=made.args.lr_scheduler_type,
                max_steps=steps,
                seed=job.seed,
                logging_steps=1,
                save_strategy="no",
                report_to="none",
                disable_tqdm=True,
            )
            rows, tokenizer, model = made.train_dataset, made.processing_class, made.model
            made = SFTTrainer(model=model, args=settings, train_dataset=rows, processing_class=tokenizer)

        class Ticks(TrainerCallback):  # type: ignore[misc]
            def on_step_end(self, *_: Any, **__: Any) -> None:
                clock.tick()

        made.add_callback(Ticks())
        made.train()
        losses = [row["loss"] for row in made.state.log_history if "loss" in row]
    lengths = [[int(n) for n in batch["attention_mask"].sum(dim=1)] for batch in order]
    scored = [[int(n) for n in (batch["labels"] != -100).sum(dim=1)] for batch in order]
    later = [n for batch in lengths[1:] for n in batch]
    return {
        "tokens": sum(later),
        "padded": sum(len(batch) * max(batch) for batch in lengths[1:]),
        "flops": Model.of(job.model_dir).train(later, [n for batch in scored[1:] for n in batch]),
        "seconds": clock.seconds,
        "losses": [float(loss) for loss in losses],
        "gib": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20,
    }


def main(arguments: list[str] | None = None) -> None:
    """Measure and print the table."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rows", type=int, default=96)
    parser.add_argument("--steps", type=int, default=8)
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--ways", nargs="+", choices=WAYS, default=list(WAYS))
    parser.add_argument("--model", type=Path, help="a model folder; the packaged model by default")
    parser.add_argument("--work", nargs=2, metavar=("WAY", "JOB"), help=argparse.SUPPRESS)
    chosen = parser.parse_args(arguments)
    if chosen.work:
        print(json.dumps(work(chosen.work[0], TrainJob.load(Path(chosen.work[1])), chosen.steps)))
        return
    config = load_config(ROOT / "configs" / "demo.yaml")
    model = chosen.model or packaged_model(default_cache())
    found: dict[str, list[dict[str, Any]]] = {way: [] for way in chosen.ways}
    reached = []
    with tempfile.TemporaryDirectory(prefix="fem-m-step-") as name:
        folder = Path(name)
        rationales(config, chosen.rows, folder / "rationales.parquet")
        for repeat in range(chosen.repeats):
            reached.append(peak())
            for way in chosen.ways:
                place = folder / f"{way}-{repeat}"
                place.mkdir()
                job = TrainJob(model, [folder / "rationales.parquet"], place / "checkpoint", 1, 1e-4, 3, config.train)
                job.work_dir.mkdir()
                (place / "job.json").write_text(json.dumps(job.dump()))
                command = [sys.executable, "-m", "benchmarks.m_step", "--steps", str(chosen.steps)]
                command += ["--work", way, str(place / "job.json")]
                said = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
                if said.returncode:
                    raise SystemExit(f"{way} failed:\n{said.stderr[-3000:]}")
                found[way].append(json.loads(said.stdout.splitlines()[-1]))
    _print(found, median(reached))


def _print(found: dict[str, list[dict[str, Any]]], reached: float) -> None:
    first = next(iter(found))
    one = found[first][0]
    print(
        f"{one['tokens']} tokens after the first step, {one['padded'] - one['tokens']} of padding; a matrix product "
        f"reaches {reached / 1e9:.0f} GFLOP/s in bfloat16 here."
    )
    print(f"| way | tokens/s | of {first} | of a matrix product | peak GiB | largest difference in loss |")
    print("|---|---|---|---|---|---|")
    for way, runs in found.items():
        ratios = [
            mine["tokens"] / mine["seconds"] / (other["tokens"] / other["seconds"])
            for mine, other in zip(runs, found[first], strict=True)
        ]
        apart = max(abs(a - b) for a, b in zip(runs[0]["losses"], one["losses"], strict=True))
        print(
            f"| {way} | {median(run['tokens'] / run['seconds'] for run in runs):.0f} | {median(ratios):.2f} "
            f"({min(ratios):.2f} to {max(ratios):.2f}) | {median(r['flops'] / r['seconds'] for r in runs) / reached:.2f} "
            f"| {max(run['gib'] for run in runs):.1f} | {apart:.3f} |"
        )


if __name__ == "__main__":
    main()
