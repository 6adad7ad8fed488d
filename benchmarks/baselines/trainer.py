"""The baselines' M-step: TRL's SFTTrainer as its documentation shows it.

Contract: only what the run's configuration says is said (rate, batch, epochs, seed), and what CPUs and a script need (no
accelerator, no reports, no saved states). The rest is TRL 1.16's default: bf16 autocast over float32 weights, gradient
checkpointing, a rate that falls linearly to 0, padding to the longest row of a batch, and with ``prompt`` and
``completion`` columns a loss on the completion alone. FEM's schedule inside an iteration is another one (constant).
"""

import os
from pathlib import Path

from benchmarks.baselines.loop import Clock
from fem_core.config import RunConfig
from fem_core.digest import derive_seed


def train(model_dir: Path, folder: Path, config: RunConfig, k: int, clock: Clock) -> None:
    """From ``rationales.parquet`` in an iteration's folder to ``checkpoint`` there.

    Raises:
        SystemExit: no rationales, or LoRA is asked for.
    """
    if config.train.method != "full":
        raise SystemExit("The baselines train all weights. Set train.method to full.")
    os.environ["TOKENIZERS_PARALLELISM"] = "false"
    with clock.part("trainer start"):
        import pyarrow.parquet as pq
        import torch
        from datasets import Dataset
        from trl import SFTConfig, SFTTrainer

        rows = pq.read_table(folder / "rationales.parquet", columns=["prompt", "completion"]).to_pylist()
        if not rows:
            raise SystemExit(f"Iteration {k} has no rationales to train on. Take another model or easier problems.")
        micro = min(config.train.micro_batch_size, config.train.batch_size)
        trainer = SFTTrainer(
            model=str(model_dir),
            args=SFTConfig(
                output_dir=str(folder / "trainer"),
                learning_rate=config.learning_rate(k),
                num_train_epochs=config.train.epochs,
                per_device_train_batch_size=micro,
                gradient_accumulation_steps=config.train.batch_size // micro,
                seed=derive_seed(config.seed, "train", k),
                use_cpu=not torch.cuda.is_available(),
                save_strategy="no",
                report_to="none",
            ),
            train_dataset=Dataset.from_list(rows),
        )
    with clock.part("training"):
        trainer.train()
    with clock.part("saving"):
        trainer.save_model(str(folder / "checkpoint"))
