"""Jobs as TRL's and transformers' own objects see them."""

from pathlib import Path

import pytest
import torch
from transformers import get_scheduler

from fem_core.config import TrainConfig
from fem_core.train.launch import TrainJob, optimizer_steps
from fem_core.train.sft import sft_config


def job(folder: Path, **config: object) -> TrainJob:
    return TrainJob(folder, [], folder / "checkpoint", 1, 8e-6, 11, TrainConfig.model_validate(config))


def test_nothing_that_trl_does_by_default_happens_unasked(tmp_path: Path) -> None:
    args = sft_config(job(tmp_path), "cpu", bf16=False, rows=100)
    assert args.max_length is None and not args.packing and args.completion_only_loss
    assert not args.bf16 and not args.fp16 and args.use_cpu and not args.gradient_checkpointing
    assert args.report_to == [] and args.save_strategy == "no" and args.disable_tqdm
    assert (args.seed, args.data_seed) == (11, 11)
    assert (args.lr_scheduler_type, args.learning_rate) == ("constant_with_warmup", 8e-6)


def test_what_the_job_asks_for_arrives(tmp_path: Path) -> None:
    asked = {"gradient_checkpointing": True, "weight_decay": 0.1, "max_grad_norm": 0.5, "epochs": 2.5}
    args = sft_config(job(tmp_path, scheduler="cosine", **asked), "cpu", bf16=True, rows=100)
    assert args.gradient_checkpointing and args.bf16
    assert (args.weight_decay, args.max_grad_norm, args.num_train_epochs) == (0.1, 0.5, 2.5)
    assert args.lr_scheduler_type == "cosine"


def test_order_and_liger_are_the_trainers_own(tmp_path: Path) -> None:
    shuffled, grouped = (sft_config(job(tmp_path, order=o), "cpu", False, 9) for o in ("shuffled", "by_length"))
    assert (shuffled.train_sampling_strategy, grouped.train_sampling_strategy) == ("random", "group_by_length")
    assert [sft_config(job(tmp_path, liger=on), "cpu", False, 9).use_liger_kernel for on in (False, True)] == [
        False,
        True,
    ]


@pytest.mark.parametrize(
    ("batch", "micro", "processes", "per_device", "accumulation"),
    [(16, 8, 1, 8, 2), (16, 4, 2, 4, 2), (4, 8, 1, 4, 1), (8, 1, 1, 1, 8)],
)
def test_the_batch_is_what_was_asked_however_it_is_cut(
    tmp_path: Path, batch: int, micro: int, processes: int, per_device: int, accumulation: int
) -> None:
    config = job(tmp_path, batch_size=batch, micro_batch_size=micro, num_processes=processes)
    args = sft_config(config, "cpu", bf16=False, rows=64)
    assert (args.per_device_train_batch_size, args.gradient_accumulation_steps) == (per_device, accumulation)
    assert per_device * accumulation * processes == batch


@pytest.mark.parametrize(
    ("rows", "ratio", "warmup"), [(100, 0.03, 0), (1600, 0.03, 3), (160, 1.0, 10), (160, 0.5, 5), (16, 0.9, 0)]
)
def test_warm_up_is_rounded_down_to_whole_steps(tmp_path: Path, rows: int, ratio: float, warmup: int) -> None:
    a_job = job(tmp_path, batch_size=16, micro_batch_size=16, warmup_ratio=ratio)
    args = sft_config(a_job, "cpu", bf16=False, rows=rows)
    assert args.get_warmup_steps(optimizer_steps(rows, a_job.config)) == warmup


def test_a_short_iteration_learns_from_its_first_step(tmp_path: Path) -> None:
    args = sft_config(job(tmp_path, batch_size=16), "cpu", bf16=False, rows=200)
    optimizer = torch.optim.SGD([torch.nn.Parameter(torch.zeros(1))], lr=args.learning_rate)
    get_scheduler(args.lr_scheduler_type, optimizer, args.get_warmup_steps(13), 13)
    assert optimizer.param_groups[0]["lr"] == 8e-6
