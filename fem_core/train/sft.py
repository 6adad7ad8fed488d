"""The M-step itself: maximum likelihood on the accepted pairs, by TRL's SFTTrainer. Runs in a process of its own.

Contract: the loss covers each completion from its first token to its end-of-turn token and nothing else; nothing is cut
to fit; master weights are float32; the checkpoint is a full model folder without pickles or optimizer state, with the
base model's tokenizer files byte for byte. Started by ``launch.stand_by`` as ``-m fem_core.train.sft JOB DEVICE``; it
waits until the job's file is there.
"""

import gc
import inspect
import os
import resource
import shutil
import signal
import sys
import threading
import time
from pathlib import Path
from typing import Any, cast

import psutil
import pyarrow as pa
import pyarrow.parquet as pq
import torch
import transformers
from datasets import Dataset, load_dataset
from peft import LoraConfig, PeftModel
from transformers import AutoModelForCausalLM, TrainerCallback
from trl import SFTConfig, SFTTrainer

from fem_core.chat_template import load_tokenizer
from fem_core.device import Device
from fem_core.errors import FemError
from fem_core.model import TOKENIZER_FILES, model_files
from fem_core.schemas import TRAINING_LOG
from fem_core.train.launch import PARENT, TrainJob, TrainProgress, optimizer_steps, refuse_untrainable
from fem_core.train.probe import write_probe
from fem_core.train.report import report
from fem_core.train.saving import StateSaver, log_of

_DTYPES = {"float32": torch.float32, "bfloat16": torch.bfloat16}


def computes_in_bf16(device: Device) -> bool:
    """Whether bfloat16 arithmetic is in the hardware; emulated it is slower than float32."""
    if device == "cuda":
        return bool(torch.cuda.is_bf16_supported(including_emulation=False))
    capabilities = torch.cpu.get_capabilities()
    return bool(capabilities.get("avx512_bf16") or capabilities.get("amx_bf16") or capabilities.get("bf16"))


def sft_config(job: TrainJob, device: Device, bf16: bool, rows: int) -> SFTConfig:
    """TRL's settings for a job; where TRL's or transformers' default would do something unasked, it is set here."""
    config = job.config
    micro = min(config.micro_batch_size, config.batch_size)
    return SFTConfig(
        output_dir=str(job.work_dir),
        # Data. No max_length: with one, TRL cuts silently; `trainable` refuses what is too long.
        completion_only_loss=True,
        max_length=None,
        packing=False,
        # Grouping saves what padding wastes (5 to 20 %), and feeds the longest rows first.
        train_sampling_strategy="group_by_length" if config.order == "by_length" else "random",
        dataloader_pin_memory=device == "cuda",
        # Batches.
        per_device_train_batch_size=micro,
        gradient_accumulation_steps=config.batch_size // (micro * config.num_processes),
        num_train_epochs=config.epochs,
        # Optimizer. Warm-up in whole steps, rounded down: a ratio is rounded up, and step 1 of a warm-up has rate 0,
        # so a short iteration would throw away a step. The fused step is 2 to 3 times as fast on CPU too.
        optim="adamw_torch_fused",
        learning_rate=job.learning_rate,
        lr_scheduler_type=config.scheduler,
        warmup_steps=int(config.warmup_ratio * optimizer_steps(rows, config)),
        weight_decay=config.weight_decay,
        max_grad_norm=config.max_grad_norm,
        # Device. TRL turns bf16 and gradient checkpointing on by default.
        use_cpu=device == "cpu",
        bf16=bf16,
        gradient_checkpointing=config.gradient_checkpointing,
        use_liger_kernel=config.liger,
        seed=job.seed,
        data_seed=job.seed,
        # Output.
        logging_steps=1,
        report_to="none",
        save_strategy="no",
        disable_tqdm=True,
    )


class CompletionLogitsTrainer(SFTTrainer):  # type: ignore[misc]
    """SFTTrainer whose head computes logits where the loss is, and nowhere else.

    For CPU only: there TRL's fused head scores every position, prompts and padding included, and a vocabulary of 49,152
    made that a third of the time (docs/performance.md). On GPUs TRL leaves these out by itself.
    """

    def compute_loss(
        self, model: Any, inputs: dict[str, Any], return_outputs: bool = False, num_items_in_batch: Any = None
    ) -> Any:
        """Sum of the completion tokens' negative log-probabilities over their number in the whole optimizer batch."""
        labels = inputs["labels"][:, 1:]
        scored = labels != -100  # the logits at one position predict the token at the next
        labels = labels[scored]

        def choose(_: Any, arguments: tuple[Any, ...]) -> tuple[Any, ...]:
            return (arguments[0][:, :-1][scored], *arguments[1:])

        hook = model.get_output_embeddings().register_forward_pre_hook(choose)
        try:
            logits = model(
                input_ids=inputs["input_ids"], attention_mask=inputs["attention_mask"], use_cache=False
            ).logits.float()
        finally:
            hook.remove()
        loss = torch.nn.functional.cross_entropy(logits, labels, reduction="sum") / num_items_in_batch
        self._total_train_tokens += int(inputs["attention_mask"].sum())
        metrics = self._metrics["train"]
        metrics["num_tokens"] = [self._total_train_tokens]
        metrics["mean_token_accuracy"].append(float((logits.detach().argmax(-1) == labels).float().mean()))
        return loss


def make_trainer(job: TrainJob, device: Device) -> SFTTrainer:
    """Model, tokenizer and rows as TRL prepares them from ``prompt`` and ``completion``, checked by ``trainable``.

    Raises:
        FemError: as ``trainable``; LoRA on the LM head; Liger without a GPU or its package.
    """
    config = job.config
    refuse_untrainable(config, device)
    rows = load_dataset(
        "parquet",
        data_files=[str(file) for file in job.rationales],
        split="train",
        cache_dir=str(job.work_dir / "datasets"),
    ).select_columns(["prompt", "completion"])
    tokenizer = load_tokenizer(str(job.model_dir), job.trust_remote_code)
    model = AutoModelForCausalLM.from_pretrained(
        str(job.model_dir),
        dtype=torch.float32,
        attn_implementation="sdpa",
        use_safetensors=True,
        trust_remote_code=job.trust_remote_code,
    )
    bf16 = config.precision == "bf16" or (config.precision == "auto" and computes_in_bf16(device))
    slim = device == "cpu" and "logits_to_keep" in inspect.signature(model.forward).parameters
    trainer = (CompletionLogitsTrainer if slim else SFTTrainer)(
        model=model,
        args=sft_config(job, device, bf16, len(rows)),
        train_dataset=rows,
        processing_class=tokenizer,
        peft_config=_lora(job) if config.method == "lora" else None,
    )
    limit = config.max_length or getattr(model.config.get_text_config(), "max_position_embeddings", None)
    ends = model.generation_config.eos_token_id
    stop_ids = {tokenizer.eos_token_id, *(ends if isinstance(ends, list) else [ends])} - {None}
    trainer.train_dataset = trainable(trainer.train_dataset, tokenizer, stop_ids, limit)
    return trainer


def _lora(job: TrainJob) -> LoraConfig:
    lora = job.config.lora
    targets = lora.target_modules if isinstance(lora.target_modules, str) else list(lora.target_modules)
    if "lm_head" in targets:
        raise FemError("train.lora.target_modules names lm_head, which TRL cannot train with LoRA. Leave it out.")
    return LoraConfig(
        r=lora.r, lora_alpha=lora.alpha, lora_dropout=lora.dropout, target_modules=targets, task_type="CAUSAL_LM"
    )


def trainable(rows: Dataset, tokenizer: Any, stop_ids: set[int], limit: int | None) -> Dataset:
    """TRL's rows (``input_ids``, ``labels``), each cut after its end-of-turn token, and checked.

    Templates write something after that token (SmolLM2's a line break), which no draw ever contains: it is no part of
    log pi(z, y | x).

    Args:
        stop_ids: the tokens that end a turn.
        limit: the longest row allowed, tokens.

    Raises:
        FemError: a row does not begin with the prompt exactly as drawn from, has no end-of-turn token, or is too long.
    """

    def cut(row: dict[str, Any]) -> dict[str, Any]:
        ids, labels = row["input_ids"], row["labels"]
        prompt = tokenizer.apply_chat_template(row["prompt"], add_generation_prompt=True, return_dict=False)
        if ids[: len(prompt)] != prompt:
            raise FemError(
                "The model's chat template renders a prompt differently when an answer follows it, so training would "
                "not match drawing. Use a template whose generation prompt is a prefix of the whole chat."
            )
        ends = [i for i in range(len(prompt), len(ids)) if ids[i] in stop_ids]
        if not ends:
            raise FemError(
                "The model's chat template does not end the assistant's turn with an end token, so the model would not "
                "learn to stop. Use a template that does, or list its token as eos_token_id in generation_config.json."
            )
        return {"input_ids": ids[: ends[-1] + 1], "labels": labels[: ends[-1] + 1]}

    rows = rows.map(cut)
    lengths = [len(ids) for ids in rows["input_ids"]]
    over = sum(length > limit for length in lengths) if limit else 0
    if over:
        raise FemError(
            f"{over} of {len(lengths)} training rows are longer than {limit} tokens; the longest has {max(lengths)}. "
            "Raise train.max_length, or lower sample.max_tokens or prompts.train_exemplars: rows are never cut."
        )
    return rows


class Reporter(TrainerCallback):  # type: ignore[misc]
    """Keeps the training log, from the first step of the job on, and tells the launcher of each step."""

    def __init__(self, job: TrainJob, log: list[dict[str, Any]]) -> None:
        self.log = log
        self._job = job
        self._start = 0.0

    def on_train_begin(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        """The clock starts here, or goes on."""
        self._start = time.monotonic() - (self.log[-1]["seconds"] if self.log else 0.0)

    def on_log(self, args: Any, state: Any, control: Any, logs: dict[str, Any] | None = None, **kwargs: Any) -> None:
        """One row for each optimizer step."""
        if logs is None or "loss" not in logs or not state.is_world_process_zero:
            return
        row = {
            "step": state.global_step,
            "epoch": logs["epoch"],
            "loss": logs["loss"],
            "learning_rate": logs["learning_rate"],
            "grad_norm": logs.get("grad_norm"),
            "mean_token_accuracy": logs.get("mean_token_accuracy"),
            "tokens": int(logs["num_tokens"]),
            "seconds": time.monotonic() - self._start,
        }
        self.log.append(row)
        progress = {name: row[name] for name in ("step", "loss", "learning_rate", "tokens", "seconds")}
        report(self._job, {"event": "step", "progress": TrainProgress(steps=state.max_steps, **progress).__dict__})


def run(job: TrainJob, device: Device) -> None:
    """The whole job, or what its state leaves to do; the last event carries the result."""
    transformers.utils.logging.disable_progress_bar()
    trainer = make_trainer(job, device)
    log = log_of(job)
    trainer.add_callback(Reporter(job, log))
    trainer.add_callback(StateSaver(trainer, job, log))
    if log:
        trainer._total_train_tokens = log[-1]["tokens"]
    trainer.train(resume_from_checkpoint=None if job.resume_from is None else str(job.resume_from))
    main = trainer.accelerator.is_main_process
    if main:
        model = trainer.accelerator.unwrap_model(trainer.model)
        probe_ids = trainer.train_dataset[0]["input_ids"]
        # Adam's state, twice the weights, goes before the weights are merged, cast and read again for the probe.
        trainer.optimizer = trainer.lr_scheduler = None
        save(model, job)
        del model
    trainer.accelerator.end_training()
    del trainer
    gc.collect()
    if not main:
        return
    pq.write_table(pa.Table.from_pylist(log, schema=TRAINING_LOG), job.output_dir / "training_log.parquet")
    memory = (
        torch.cuda.max_memory_allocated()
        if device == "cuda"
        else resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * (1 if sys.platform == "darwin" else 1024)
    )
    write_probe(job.output_dir, probe_ids, device, job.trust_remote_code)
    shutil.rmtree(job.work_dir / "datasets", ignore_errors=True)
    result = {
        "steps": log[-1]["step"],
        "tokens": log[-1]["tokens"],
        "seconds": log[-1]["seconds"],
        "first_loss": log[0]["loss"],
        "last_loss": log[-1]["loss"],
        "peak_memory_gib": memory / 2**30,
    }
    report(job, {"event": "done", "result": result})


def save(model: Any, job: TrainJob) -> None:
    """A full model folder: weights in ``save_dtype``, adapters merged, the tokenizer's files as they were."""
    if isinstance(model, PeftModel):
        model = model.merge_and_unload()
    model.config.use_cache = True  # the trainer turns it off, and readers would then draw without a cache
    model.to(_DTYPES[job.config.save_dtype]).save_pretrained(job.output_dir)
    extra = ("*.py",) if job.trust_remote_code else ()
    for file in model_files(job.model_dir, TOKENIZER_FILES + extra):
        shutil.copyfile(file, job.output_dir / file.name)
    for file in job.output_dir.iterdir():
        file.chmod(0o644)


def leave_with_parent() -> None:
    """From now on this process ends within a second of the one that launched it, even if that was killed with -9."""
    pid = os.environ.get(PARENT)
    if not pid:
        return
    launcher = os.getppid()
    # As an ancestor it is known to be the one, whatever its start time reads after a clock was set.
    parent = next((one for one in psutil.Process().parents() if one.pid == int(pid)), None)

    def alive() -> bool:
        try:
            return parent is not None and parent.is_running() and parent.status() != psutil.STATUS_ZOMBIE
        except psutil.NoSuchProcess:
            return False

    def watch() -> None:
        while alive() and os.getppid() == launcher:
            time.sleep(0.5)
        if os.getpgrp() != os.getpid():
            os.killpg(os.getpgrp(), signal.SIGKILL)
        os.kill(os.getpid(), signal.SIGKILL)

    threading.Thread(target=watch, name="leave-with-parent", daemon=True).start()


def main(job_file: str, device: str) -> int:
    """Exit status 3 is a refusal, told to the launcher as a sentence; any other failure is a traceback in the log."""
    leave_with_parent()
    file = Path(job_file)
    while not file.exists():  # started before its job was known; with the parent, this process goes as well
        time.sleep(0.05)
    job = TrainJob.load(file)
    try:
        run(job, cast(Device, device))
    except FemError as error:
        report(job, {"event": "refused", "message": str(error)})
        return 3
    return 0


if __name__ == "__main__":
    sys.exit(main(*sys.argv[1:]))
