"""Saves the trainer's state while it trains, in the trainer's own process, and reads its log back after a resume.

Contract: a state is a folder ``step-NNNNNNN`` that appears, by a rename, once all of it is on the disk; only then the
launcher is told. A state that cannot be saved is a warning, never the end of a job that works. Saving changes nothing
that is computed: it draws no random number and leaves weights, optimizer and data order alone.

The files are those that transformers' ``Trainer.train(resume_from_checkpoint=...)`` reads, and its log beside them:

- ``model.safetensors`` (or shards), with LoRA ``adapter_model.safetensors``: float32, no pickle.
- ``optimizer.pt``, ``scheduler.pt``, ``rng_state.pth``: written by ``torch.save``. transformers 5.19 reads all three
  with ``torch.load(weights_only=True)``, torch's restricted unpickler, which builds tensors and plain containers; for
  the random state it also allows numpy's array constructors. It refuses to do so with a torch older than 2.6.
- ``trainer_state.json`` and our ``fem_log.json``: JSON.

transformers' own way of saving would add ``training_args.bin``, an unrestricted pickle; that is why it is not used.
Whoever hands a state to torch has checked its files against the store's manifest first (``tasks/train.py``).
"""

import json
import os
import shutil
import time
from pathlib import Path
from typing import Any

from accelerate.utils import broadcast_object_list, gather_object
from transformers import TrainerCallback
from trl import SFTTrainer

from fem_core.train.launch import TrainJob
from fem_core.train.report import report

LOG_FILE = "fem_log.json"
"""The rows of ``schemas.TRAINING_LOG`` up to the state, as a JSON list."""

MOST = 2
"""States on the local disk at a time; while so many wait to be taken over, none is saved."""


class StateSaver(TrainerCallback):  # type: ignore[misc]
    """Saves a state whenever ``train.save_minutes`` have passed; must come after the callback that writes the log."""

    def __init__(self, trainer: SFTTrainer, job: TrainJob, log: list[dict[str, Any]]) -> None:
        self._trainer = trainer
        self._job = job
        self._log = log
        self._last = time.monotonic()

    def on_train_begin(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        """Loading the model does not count."""
        self._last = time.monotonic()

    def on_log(self, args: Any, state: Any, control: Any, logs: dict[str, Any] | None = None, **kwargs: Any) -> None:
        """After each optimizer step but the last, when its row is in the log."""
        if self._job.config.save_minutes is None or logs is None or "loss" not in logs:
            return
        if state.global_step < state.max_steps and self._due():
            self._save(state)

    def _due(self) -> bool:
        """One answer for all processes, since each saves its part."""
        waiting = len(list(self._job.states_dir.glob("step-*")))
        due = [time.monotonic() - self._last >= 60 * (self._job.config.save_minutes or 0) and waiting < MOST]
        if self._trainer.accelerator.num_processes > 1:
            broadcast_object_list(due)
        return bool(due[0])

    def _save(self, state: Any) -> None:
        folder = self._job.state_dir(state.global_step)
        unfinished = folder.with_name(f".{folder.name}")
        problems = [text for text in gather_object([self._written(unfinished, state)]) if text]
        if self._trainer.accelerator.is_main_process:
            problems += [] if problems else filter(None, [_finished(unfinished, folder)])
            if problems:
                shutil.rmtree(unfinished, ignore_errors=True)
                message = f"The trainer's state after step {state.global_step} could not be saved ({problems[0]})."
                report(self._job, {"event": "warning", "message": f"{message} Training goes on."})
            else:
                tokens = self._log[-1]["tokens"]
                saved = {"step": state.global_step, "steps": state.max_steps, "tokens": tokens}
                report(self._job, {"event": "saved", "state": saved})
        self._last = time.monotonic()

    def _written(self, folder: Path, state: Any) -> str | None:
        """This process's files; the problem, where there was one. Each library has errors of its own for a full disk."""
        try:
            folder.mkdir(parents=True, exist_ok=True)
            if lacking := self._lacking():
                return lacking
            self._trainer._save_rng_state(str(folder))
            if self._trainer.accelerator.is_main_process:
                self._trainer.accelerator.unwrap_model(self._trainer.model).save_pretrained(folder)
                self._trainer._save_optimizer_and_scheduler(str(folder))
                state.save_to_json(str(folder / "trainer_state.json"))
                (folder / LOG_FILE).write_text(json.dumps(self._log))
        except Exception as error:  # noqa: BLE001 (whatever it is, the training that it interrupts works)
            return _short(error)
        return None

    def _lacking(self) -> str | None:
        """A state must leave room for the checkpoint: weights in float32, for a state twice more for Adam."""
        parameters = list(self._trainer.accelerator.unwrap_model(self._trainer.model).parameters())
        checkpoint = 4 * sum(parameter.numel() for parameter in parameters)
        needed = checkpoint + 12 * sum(parameter.numel() for parameter in parameters if parameter.requires_grad)
        free = shutil.disk_usage(self._job.work_dir).free
        if free >= needed:
            return None
        return f"it and the checkpoint need {needed / 2**30:.1f} GiB, {free / 2**30:.1f} GiB are free"


def _finished(unfinished: Path, folder: Path) -> str | None:
    """Bring the files to the disk, then the folder to its name; the problem, where there was one."""
    try:
        (unfinished / "README.md").unlink(missing_ok=True)  # PEFT's empty model card
        for path in (*unfinished.rglob("*"), unfinished):
            _sync(path)
        os.rename(unfinished, folder)
        _sync(folder.parent)
    except OSError as error:
        return _short(error)
    return None


def _short(error: Exception) -> str:
    lines = str(error).splitlines() or [""]
    return f"{type(error).__name__}: {lines[0][:300]}"


def _sync(path: Path) -> None:
    handle = os.open(path, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)


def log_of(job: TrainJob) -> list[dict[str, Any]]:
    """The log rows up to the state that the job goes on from; none where it begins afresh."""
    if job.resume_from is None:
        return []
    rows: list[dict[str, Any]] = json.loads((job.resume_from / LOG_FILE).read_text(encoding="utf-8"))
    return rows
