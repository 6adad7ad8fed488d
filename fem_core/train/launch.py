"""Starts the M-step's process, follows it and never leaves it behind.

Contract: ``train`` returns when the checkpoint is complete, and by then (or after a failure or a cancellation) no
process of it is left. Everything that is not the checkpoint lies in ``<output_dir>.train`` beside it: the job, the log,
and ``progress.jsonl``, through which the trainer reports, as accelerate stands between it and us. The process may be
started before its job is known (``stand_by``): it imports what it needs, half of its start-up, and waits. Imports neither
torch nor trl.
"""

import asyncio
import contextlib
import importlib.util
import json
import math
import os
import re
import signal
import sys
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import psutil
import pyarrow.parquet as pq

import fem_core
from fem_core.config import TrainConfig
from fem_core.device import Device, find_device
from fem_core.errors import FemError

PARENT = "FEM_TRAIN_PARENT"
"""Environment variable that names the launching process by its id."""

JOB = "job.json"
"""The job's file; the trainer begins when it is there."""

_POLL_SECONDS = 0.2
_TAIL_LINES = 15
_CONTROL = re.compile(r"\x1b\[[0-?]*[ -/]*[@-~]|[\x00-\x08\x0b-\x1f\x7f-\x9f]")


class TrainerDied(RuntimeError):
    """The trainer ended without a result; the message carries the end of its log."""


class TrainerKilled(TrainerDied):
    """Somebody else ended it, such as the system for want of memory."""


@dataclass(frozen=True)
class TrainJob:
    """One M-step."""

    model_dir: Path
    """theta^(k-1): a folder of safetensors with tokenizer and chat template."""
    rationales: list[Path]
    """Local parquet files with the columns of ``schemas.RATIONALES``."""
    output_dir: Path
    """Where the checkpoint goes; must be empty or absent."""
    iteration: int
    """k, for messages."""
    learning_rate: float
    """eta^(k)."""
    seed: int
    """Seeds shuffling, dropout and adapters."""
    config: TrainConfig
    """The rest."""
    trust_remote_code: bool = False
    """Run Python code that comes with the model."""
    resume_from: Path | None = None
    """A saved state of this very job to go on from, its files verified; None begins at ``model_dir``."""

    @property
    def work_dir(self) -> Path:
        """Job, log and progress: beside the checkpoint, not in it."""
        return work_dir_of(self.output_dir)

    @property
    def states_dir(self) -> Path:
        """Where the trainer saves its states: a folder for each, whole or not there."""
        return self.work_dir / "states"

    def state_dir(self, step: int) -> Path:
        """The state after that many optimizer steps."""
        return self.states_dir / f"step-{step:07d}"

    def dump(self) -> dict[str, Any]:
        """As plain JSON values."""
        return {
            "model_dir": str(self.model_dir),
            "rationales": [str(file) for file in self.rationales],
            "output_dir": str(self.output_dir),
            "iteration": self.iteration,
            "learning_rate": self.learning_rate,
            "seed": self.seed,
            "config": self.config.model_dump(mode="json"),
            "trust_remote_code": self.trust_remote_code,
            "resume_from": None if self.resume_from is None else str(self.resume_from),
        }

    @classmethod
    def load(cls, file: Path) -> "TrainJob":
        """Read what ``dump`` gave."""
        data = json.loads(file.read_text(encoding="utf-8"))
        data["model_dir"], data["output_dir"] = Path(data["model_dir"]), Path(data["output_dir"])
        data["rationales"] = [Path(name) for name in data["rationales"]]
        data["config"] = TrainConfig.model_validate(data["config"])
        data["resume_from"] = None if data["resume_from"] is None else Path(data["resume_from"])
        return cls(**data)


@dataclass(frozen=True)
class TrainProgress:
    """One optimizer step that is done."""

    step: int
    """From 1."""
    steps: int
    """All of this job."""
    loss: float
    """Mean over the step's completion tokens, nats."""
    learning_rate: float
    """Of this step."""
    tokens: int
    """Seen so far, prompts included, padding not."""
    seconds: float
    """Of training so far; a resumed job counts on from its state."""


@dataclass(frozen=True)
class SavedState:
    """A state that the trainer has saved, whole and on the disk."""

    step: int
    """Optimizer steps that it holds."""
    steps: int
    """All of this job."""
    tokens: int
    """Seen so far, prompts included."""
    folder: Path
    """Whoever is told may move or delete it; the trainer saves no third one while two are there."""


@dataclass(frozen=True)
class TrainResult:
    """A finished job. Its figures cover the whole M-step, those of a resumed one also what its state had done."""

    steps: int
    """Optimizer steps."""
    tokens: int
    """Seen, prompts included."""
    seconds: float
    """Training alone, without loading models and writing the checkpoint."""
    first_loss: float
    """Of the first step."""
    last_loss: float
    """Of the last step."""
    peak_memory_gib: float
    """The largest process's resident memory on CPU, allocated device memory on GPU; since the last resume only."""


@dataclass
class Standby:
    """A trainer that waits for its job, with everything imported or about to be."""

    output_dir: Path
    """Where its checkpoint will go."""
    processes: int
    """How many ``accelerate launch`` starts."""
    process: asyncio.subprocess.Process
    """The launcher's."""

    def suits(self, job: TrainJob) -> bool:
        """Whether it is alive and can do this job."""
        wanted = (job.output_dir, job.config.num_processes)
        return self.process.returncode is None and (self.output_dir, self.processes) == wanted

    async def end(self) -> None:
        """End it, without a job or with one that is done."""
        await _kill(self.process)


def work_dir_of(output_dir: Path) -> Path:
    """Job, log and progress of a checkpoint's making: beside it, not in it."""
    return output_dir.with_name(output_dir.name + ".train")


def accelerate_config(processes: int, device: Device) -> dict[str, Any]:
    """accelerate's own settings, written out so that a ``default_config.yaml`` of the user's cannot leak into a run."""
    return {
        "compute_environment": "LOCAL_MACHINE",
        "distributed_type": "MULTI_GPU" if processes > 1 else "NO",
        "mixed_precision": "no",
        "num_processes": processes,
        "num_machines": 1,
        "machine_rank": 0,
        "use_cpu": device == "cpu",
        "debug": False,
    }


def refuse_untrainable(config: TrainConfig, device: Device) -> None:
    """Say before anything is drawn what no trainer on this device could do.

    Raises:
        FemError: more processes than one, or Liger, without a GPU; Liger without its package.
    """
    _refuse_processes(config.num_processes, device)
    if config.liger and device == "cpu":
        raise FemError("train.liger needs a GPU, and this machine has none that torch can use. Set it to false.")
    if config.liger and importlib.util.find_spec("liger_kernel") is None:
        raise FemError("train.liger needs the package liger-kernel, which is not installed: pip install liger-kernel.")


def _refuse_processes(processes: int, device: Device) -> None:
    if device == "cpu" and processes > 1:
        raise FemError(f"train.num_processes is {processes}, but this machine has no usable GPU. Set it to 1.")


def launch_command(work_dir: Path, processes: int, device: Device) -> list[str]:
    """``accelerate launch`` with everything said, so that it neither asks nor guesses.

    Mixed precision is "no" here because ``SFTConfig`` sets it inside, where the device can be asked.

    Raises:
        FemError: several processes are asked for where there is no GPU.
    """
    _refuse_processes(processes, device)
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    threads = os.environ.get("OMP_NUM_THREADS") or str(max(1, cores // processes))
    command = [sys.executable, "-m", "accelerate.commands.launch", "--config_file", str(work_dir / "accelerate.json")]
    command += ["--num_processes", str(processes), "--num_machines", "1", "--machine_rank", "0"]
    command += ["--mixed_precision", "no", "--dynamo_backend", "no", "--num_cpu_threads_per_process", threads]
    if device == "cpu":
        command += ["--cpu"]
    elif processes > 1:
        command += ["--multi_gpu", "--main_process_port", "0"]
    return [*command, "-m", "fem_core.train.sft", str(work_dir / JOB), device]


def environment(processes: int, device: Device) -> dict[str, str]:
    """The trainer's environment: offline (everything it reads is local), quiet, and tied to its parent.

    One process sees one GPU: of several it would make a data-parallel model, which TRL refuses.
    """
    one = (os.environ.get("CUDA_VISIBLE_DEVICES") or "0").partition(",")[0]
    seen = {"CUDA_VISIBLE_DEVICES": one} if device == "cuda" and processes == 1 else {}
    code = str(Path(fem_core.__file__).parent.parent)
    path = os.pathsep.join(filter(None, [code, os.environ.get("PYTHONPATH")]))
    return (
        os.environ
        | seen
        | {
            PARENT: str(os.getpid()),
            "PYTHONPATH": path,
            "PYTHONUNBUFFERED": "1",
            "HF_HUB_OFFLINE": "1",
            "HF_HUB_DISABLE_TELEMETRY": "1",
            "HF_HUB_DISABLE_PROGRESS_BARS": "1",
            "HF_DATASETS_DISABLE_PROGRESS_BARS": "1",
            "TOKENIZERS_PARALLELISM": "false",
        }
    )


async def stand_by(output_dir: Path, processes: int) -> Standby:
    """Start a trainer before its job is known; give it to ``train``, or end it.

    Args:
        output_dir: where its checkpoint will go.
        processes: ``TrainConfig.num_processes``.

    Raises:
        FemError: several processes are asked for where there is no GPU.
    """
    device = find_device()
    work = work_dir_of(output_dir)
    command = launch_command(work, processes, device)
    work.mkdir(parents=True, exist_ok=True)
    (work / JOB).unlink(missing_ok=True)
    (work / "accelerate.json").write_text(json.dumps(accelerate_config(processes, device), indent=1))
    with (work / "trainer.log").open("wb") as log:
        process = await asyncio.create_subprocess_exec(
            *command,
            env=environment(processes, device),
            stdin=asyncio.subprocess.DEVNULL,
            stdout=log,
            stderr=asyncio.subprocess.STDOUT,
            start_new_session=True,
        )
    return Standby(output_dir, processes, process)


async def train(
    job: TrainJob,
    on_progress: Callable[[TrainProgress], None],
    on_saved: Callable[[SavedState], None] = lambda saved: None,
    on_warning: Callable[[str], None] = lambda text: None,
    standby: Standby | None = None,
) -> TrainResult:
    """Run the job; on return ``job.output_dir`` is a whole model folder with ``training_log.parquet`` and the probe.

    Args:
        on_saved: takes each state over; without a taker there are two and no more.
        on_warning: hears what went wrong without ending the job, a sentence.
        standby: a trainer that waits for this job. It is ended in any case; where it does not suit, another is started.

    Raises:
        FemError: no rows to train on, a row is too long, the output folder is not empty, the model does not suit.
        TrainerDied: anything else that ended the trainer.
    """
    if standby is not None and not standby.suits(job):
        await standby.end()
        standby = None
    try:
        if not sum(pq.read_metadata(file).num_rows for file in job.rationales):
            raise FemError(
                f"Iteration {job.iteration} has no accepted rationales to train on. Draw more (scheme.budget), make the "
                "problems easier, or show exemplars when sampling (prompts.sample_exemplars)."
            )
        if job.output_dir.exists() and any(job.output_dir.iterdir()):
            raise FemError(f"The folder {str(job.output_dir)!r} is not empty. Name a new one for the checkpoint.")
        if standby is None:
            standby = await stand_by(job.output_dir, job.config.num_processes)
        return await _follow(job, standby.process, on_progress, on_saved, on_warning)
    finally:
        if standby is not None:
            await standby.end()


async def _follow(
    job: TrainJob,
    process: asyncio.subprocess.Process,
    on_progress: Callable[[TrainProgress], None],
    on_saved: Callable[[SavedState], None],
    on_warning: Callable[[str], None],
) -> TrainResult:
    """Give a waiting trainer its job and hear it to the end."""
    work = job.work_dir
    events = _Events(work / "progress.jsonl")
    unfinished = work / f".{JOB}"
    unfinished.write_text(json.dumps(job.dump(), indent=1))
    unfinished.replace(work / JOB)
    ended = asyncio.ensure_future(process.wait())
    while not ended.done():
        await asyncio.wait([ended], timeout=_POLL_SECONDS)
        for event in events.read():
            if event["event"] == "step":
                on_progress(TrainProgress(**event["progress"]))
            elif event["event"] == "saved":
                on_saved(SavedState(**event["state"], folder=job.state_dir(event["state"]["step"])))
            elif event["event"] == "warning":
                on_warning(_CONTROL.sub("", event["message"]))
    return _result(events, ended.result(), work / "trainer.log")


class _Events:
    """Follows a JSONL file that another process appends to; a line counts once its newline is there."""

    def __init__(self, file: Path) -> None:
        file.write_bytes(b"")
        self._file = file
        self._read = 0
        self.last: dict[str, Any] = {}
        """The last event seen."""

    def read(self) -> list[dict[str, Any]]:
        """The events since the last call."""
        with self._file.open("rb") as stream:
            stream.seek(self._read)
            whole, newline, _ = stream.read().rpartition(b"\n")
        self._read += len(whole) + len(newline)
        events: list[dict[str, Any]] = [json.loads(line) for line in whole.splitlines()]
        self.last = events[-1] if events else self.last
        return events


async def _kill(process: asyncio.subprocess.Process) -> None:
    """End the launcher and all that came from it. torch's elastic agent gives its workers sessions of their own, so the
    process group alone would leave those."""
    try:
        family = psutil.Process(process.pid).children(recursive=True)
    except psutil.NoSuchProcess:
        family = []
    with contextlib.suppress(ProcessLookupError):
        os.killpg(process.pid, signal.SIGKILL)
    for child in family:
        with contextlib.suppress(psutil.NoSuchProcess):
            child.kill()
    # Shielded: a second cancellation must not leave while a process that still holds memory is going down.
    await asyncio.shield(process.wait())
    await asyncio.shield(asyncio.to_thread(psutil.wait_procs, family, 10))


def _result(events: _Events, code: int, log: Path) -> TrainResult:
    event = events.last
    if code == 0 and event.get("event") == "done":
        return TrainResult(**event["result"])
    if event.get("event") == "refused":
        raise FemError(event["message"])
    text = _CONTROL.sub("", log.read_text(encoding="utf-8", errors="replace"))
    # The launcher adds a traceback of its own; all it tells is which signal ended its child.
    trainers, _, launchers = text.rpartition("Traceback (most recent call last):")
    if "accelerate/commands/launch.py" not in launchers:
        trainers, launchers = text, ""
    lines = [line[:300] for line in trainers.splitlines() if line.strip()]
    tail = "\n".join(lines[-_TAIL_LINES:]) or "(nothing)"
    if code == -signal.SIGKILL or "SIGKILL" in launchers:
        raise TrainerKilled(
            "The trainer was killed (out of memory?). Lower train.micro_batch_size, or set "
            f"train.gradient_checkpointing or train.method=lora. Its log is {str(log)!r} and ends with:\n{tail}"
        )
    raise TrainerDied(f"The trainer ended with exit code {code}. Its log is {str(log)!r} and ends with:\n{tail}")


def optimizer_steps(rows: int, config: TrainConfig) -> int:
    """How many optimizer steps a job takes."""
    return math.ceil(config.epochs * math.ceil(rows / config.batch_size))
