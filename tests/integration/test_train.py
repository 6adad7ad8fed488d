"""The M-step for real: accelerate, TRL and a tiny Llama with SmolLM2's tokenizer, in the processes that runs use."""

import asyncio
import json
import os
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import psutil
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch
from safetensors.torch import load_file
from transformers import AutoModelForCausalLM, AutoTokenizer

from fem_core.config import TrainConfig
from fem_core.errors import FemError
from fem_core.schemas import RATIONALES, TRAINING_LOG
from fem_core.train import sft
from fem_core.train.launch import TrainerDied, TrainJob, TrainProgress, TrainResult, stand_by, train

pytestmark = pytest.mark.slow


@pytest.fixture(autouse=True)
def _one_thread(monkeypatch: pytest.MonkeyPatch) -> None:
    """Threads that wait for each other are slower than one on a busy machine."""
    monkeypatch.setenv("OMP_NUM_THREADS", "1")


def rationale(i: int) -> dict[str, Any]:
    question = f"What is {i} plus {i + 1}?" + " Think." * (i % 5)
    answer = f"{i} and {i + 1} make {2 * i + 1}." + " So it is." * (i % 3) + f"\nAnswer: {2 * i + 1}"
    return {
        "prompt": [{"role": "user", "content": question}],
        "completion": [{"role": "assistant", "content": answer}],
        "problem_id": f"{i:016x}",
        "attempt": 0,
        "prompt_kind": "plain",
        "completion_tokens": 20,
    }


def make_job(folder: Path, model: Path, rows: int = 16, learning_rate: float = 1e-2, **config: Any) -> TrainJob:
    folder.mkdir(parents=True, exist_ok=True)
    half = rows // 2
    files = [folder / "part-0.parquet", folder / "part-1.parquet"]
    for file, numbers in zip(files, (range(half), range(half, rows)), strict=True):
        pq.write_table(pa.Table.from_pylist([rationale(i) for i in numbers], schema=RATIONALES), file)
    config = {"batch_size": 4, "micro_batch_size": 4, "precision": "fp32", **config}
    return TrainJob(model, files, folder / "checkpoint", 1, learning_rate, 3, TrainConfig.model_validate(config))


def processes_of(job: TrainJob) -> list[int]:
    """Everything alive that has the job's file on its command line."""
    found = []
    for process in psutil.process_iter(["cmdline", "status"]):
        if str(job.work_dir / "job.json") in (process.info["cmdline"] or []):
            found.append(process.pid)
    return found


def eventually(what: Callable[[], bool], seconds: float) -> bool:
    end = time.monotonic() + seconds
    while time.monotonic() < end:
        if what():
            return True
        time.sleep(0.1)
    return what()


class Done:
    """One finished job, which several tests look at."""

    def __init__(self, job: TrainJob, result: TrainResult, progress: list[TrainProgress]) -> None:
        self.job, self.result, self.progress = job, result, progress
        self.folder = job.output_dir


@pytest.fixture(scope="module")
def done(tiny_model: Path, tmp_path_factory: pytest.TempPathFactory) -> Done:
    job = make_job(tmp_path_factory.mktemp("done"), tiny_model, rows=15, epochs=2, micro_batch_size=2)
    progress: list[TrainProgress] = []
    return Done(job, asyncio.run(train(job, progress.append)), progress)


def test_the_loss_falls_and_each_step_is_reported_as_it_happens(done: Done) -> None:
    assert done.result.last_loss < done.result.first_loss - 2
    assert [p.step for p in done.progress] == list(range(1, 9)) and {p.steps for p in done.progress} == {8}
    assert done.result.steps == 8 and done.result.tokens == done.progress[-1].tokens
    assert {p.learning_rate for p in done.progress} == {1e-2}
    assert processes_of(done.job) == []


def test_a_trainer_started_ahead_does_the_job_itself_and_a_dead_one_is_replaced(
    done: Done, tiny_model: Path, tmp_path: Path
) -> None:
    async def ahead(folder: Path, kill: bool) -> tuple[TrainJob, set[int], set[int]]:
        job = make_job(folder, tiny_model, rows=15, epochs=2, micro_batch_size=2)
        standby = await stand_by(job.output_dir, 1)
        await asyncio.sleep(1)
        if kill:
            standby.process.kill()
            await standby.process.wait()
        seen: set[int] = set()
        await train(job, lambda _: seen.update(processes_of(job)), standby=standby)
        return job, {standby.process.pid}, seen

    for kill in (False, True):
        job, waited, worked = asyncio.run(ahead(tmp_path / str(kill), kill))
        assert (waited <= worked) != kill
        assert processes_of(job) == []
        ours, theirs = (load_file(folder / "model.safetensors") for folder in (job.output_dir, done.folder))
        assert all(torch.equal(ours[name], theirs[name]) for name in theirs)


def test_the_checkpoint_is_a_whole_model_folder_and_nothing_else(done: Done, tiny_model: Path) -> None:
    assert {file.name for file in done.folder.iterdir()} == {
        "chat_template.jinja",
        "config.json",
        "fem_probe.json",
        "generation_config.json",
        "model.safetensors",
        "tokenizer.json",
        "tokenizer_config.json",
        "training_log.parquet",
    }
    for name in ("tokenizer.json", "tokenizer_config.json", "chat_template.jinja", "generation_config.json"):
        assert (done.folder / name).read_bytes() == (tiny_model / name).read_bytes()
    before, after = (json.loads((folder / "config.json").read_text()) for folder in (tiny_model, done.folder))
    assert after == before
    assert {tensor.dtype for tensor in load_file(done.folder / "model.safetensors").values()} == {torch.float32}


def test_the_checkpoint_loads_and_answers(done: Done) -> None:
    model = AutoModelForCausalLM.from_pretrained(done.folder)
    tokenizer = AutoTokenizer.from_pretrained(done.folder)
    ids = tokenizer.apply_chat_template(rationale(3)["prompt"], add_generation_prompt=True, return_tensors="pt")
    drawn = model.generate(**ids, max_new_tokens=4, do_sample=False)
    assert drawn.shape[1] > ids["input_ids"].shape[1]


def test_the_training_log_has_one_row_for_each_step(done: Done) -> None:
    table = pq.read_table(done.folder / "training_log.parquet")
    assert table.schema.equals(TRAINING_LOG)
    assert table["step"].to_pylist() == list(range(1, 9))
    assert table["loss"].to_pylist() == [p.loss for p in done.progress]
    assert table["epoch"].to_pylist()[-1] == 2.0
    assert all(norm > 0 for norm in table["grad_norm"].to_pylist())
    tokens = table["tokens"].to_pylist()
    assert tokens == sorted(tokens) and tokens[-1] == 2 * tokens[3]


def test_the_probe_is_what_the_saved_weights_say(done: Done, tiny_model: Path) -> None:
    probe = json.loads((done.folder / "fem_probe.json").read_text())
    tokenizer = AutoTokenizer.from_pretrained(tiny_model)
    text = tokenizer.decode(probe["token_ids"])
    row = rationale(0)
    assert text.endswith(row["completion"][0]["content"] + "<|im_end|>") and row["prompt"][0]["content"] in text
    assert probe["dtype"] == "float32" and len(probe["logprobs"]) == len(probe["token_ids"]) - 1

    @torch.no_grad()
    def logprobs(folder: Path) -> list[float]:
        ids = torch.tensor([probe["token_ids"]])
        logits = AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32)(ids).logits[0]
        return [float(torch.log_softmax(logits[i], -1)[ids[0, i + 1]]) for i in range(ids.shape[1] - 1)]

    assert probe["logprobs"] == pytest.approx(logprobs(done.folder), abs=1e-4)
    assert max(abs(a - b) for a, b in zip(probe["logprobs"], logprobs(tiny_model), strict=True)) > 1


def test_the_model_is_trained_on_exactly_what_it_draws(tiny_model: Path, tmp_path: Path) -> None:
    """Prompt ids as for drawing, then the answer's tokens and its end token (which is also the padding) and no more."""
    trainer = sft.make_trainer(make_job(tmp_path, tiny_model), "cpu")
    tokenizer = AutoTokenizer.from_pretrained(tiny_model)
    end = tokenizer.convert_tokens_to_ids("<|im_end|>")
    assert end == tokenizer.pad_token_id == tokenizer.eos_token_id

    prompts, answers = [], []
    for i in range(16):
        row = rationale(i)
        prompts.append(tokenizer.apply_chat_template(row["prompt"], add_generation_prompt=True)["input_ids"])
        answers.append([*tokenizer(row["completion"][0]["content"], add_special_tokens=False)["input_ids"], end])
        assert trainer.train_dataset[i]["input_ids"] == prompts[i] + answers[i]
        assert "SmolLM, trained by Hugging Face" in tokenizer.decode(prompts[i])  # the template's own system message

    batch = trainer.data_collator([trainer.train_dataset[i] for i in range(16)])
    for i in range(16):
        length = len(prompts[i]) + len(answers[i])
        assert batch["attention_mask"][i].tolist() == [1] * length + [0] * (batch["labels"].shape[1] - length)
        assert [label for label in batch["labels"][i].tolist() if label != -100] == answers[i]
        assert batch["labels"][i, len(prompts[i]) : length].tolist() == answers[i]
    assert len({len(prompt) for prompt in prompts}) > 1 and len({len(answer) for answer in answers}) > 1


def test_the_loss_is_the_mean_over_completion_tokens(tiny_model: Path, tmp_path: Path) -> None:
    trainer = sft.make_trainer(make_job(tmp_path, tiny_model, rows=4, learning_rate=1e-9), "cpu")
    model = AutoModelForCausalLM.from_pretrained(tiny_model, dtype=torch.float32)
    total, count = 0.0, 0
    for row in trainer.train_dataset:
        logprobs = torch.log_softmax(model(torch.tensor([row["input_ids"]])).logits[0], -1).detach()
        for i, label in enumerate(row["labels"]):
            if label != -100:
                total -= float(logprobs[i - 1, label])
                count += 1
    trainer.train()
    assert trainer.state.log_history[0]["loss"] == pytest.approx(total / count, rel=1e-4)


def weights_after(job: TrainJob) -> dict[str, torch.Tensor]:
    sft.run(_prepared(job), "cpu")
    return load_file(job.output_dir / "model.safetensors")


def _prepared(job: TrainJob) -> TrainJob:
    job.work_dir.mkdir(parents=True, exist_ok=True)
    return job


def log_of(job: TrainJob) -> list[float]:
    return pq.read_table(job.output_dir / "training_log.parquet")["loss"].to_pylist()


def test_micro_batches_change_nothing_but_memory(tiny_model: Path, tmp_path: Path) -> None:
    """The loss is averaged over the tokens of the whole batch, not over micro-batches of unequal lengths."""
    whole, halves = make_job(tmp_path / "4", tiny_model), make_job(tmp_path / "2", tiny_model, micro_batch_size=2)
    a, b = weights_after(whole), weights_after(halves)
    assert log_of(whole) == pytest.approx(log_of(halves), rel=1e-3)
    assert max(float((a[name] - b[name]).abs().max()) for name in a) < 1e-3


def test_the_slim_logits_train_as_trl_does(tiny_model: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    ours, trls = make_job(tmp_path / "ours", tiny_model), make_job(tmp_path / "trl", tiny_model)
    weights_after(ours)
    monkeypatch.setattr(sft, "CompletionLogitsTrainer", sft.SFTTrainer)
    weights_after(trls)
    assert log_of(ours) == pytest.approx(log_of(trls), rel=1e-3)
    logs = [pq.read_table(job.output_dir / "training_log.parquet") for job in (ours, trls)]
    assert logs[0]["tokens"].to_pylist() == logs[1]["tokens"].to_pylist()


def test_the_same_job_gives_the_same_weights(tiny_model: Path, tmp_path: Path) -> None:
    a, b = (weights_after(make_job(tmp_path / name, tiny_model)) for name in ("a", "b"))
    assert all(torch.equal(a[name], b[name]) for name in a)


def test_lora_ends_as_a_full_model_with_other_weights(tiny_model: Path, tmp_path: Path) -> None:
    job = make_job(tmp_path, tiny_model, method="lora", lora={"r": 4, "alpha": 8}, save_dtype="bfloat16")
    after, before = weights_after(job), load_file(tiny_model / "model.safetensors")
    assert after.keys() == before.keys() and {tensor.dtype for tensor in after.values()} == {torch.bfloat16}
    changed = {n for n in after if float((after[n].float() - before[n]).abs().max()) > 1e-2}
    assert "model.layers.0.self_attn.q_proj.weight" in changed and "model.embed_tokens.weight" not in changed
    assert log_of(job)[-1] < log_of(job)[0]
    assert not list(job.output_dir.glob("adapter*"))
    assert json.loads((job.output_dir / "config.json").read_text())["dtype"] == "bfloat16"


def test_lora_on_the_lm_head_is_refused(tiny_model: Path, tmp_path: Path) -> None:
    with pytest.raises(FemError, match="names lm_head"):
        sft.make_trainer(make_job(tmp_path, tiny_model, method="lora", lora={"target_modules": ["lm_head"]}), "cpu")


def test_rows_grouped_by_length_are_the_same_rows_with_less_padding(tiny_model: Path, tmp_path: Path) -> None:
    seen, padding = {}, {}
    for order in ("shuffled", "by_length"):
        job = make_job(tmp_path / order, tiny_model, rows=64, order=order)
        batches = [batch["attention_mask"].sum(1) for batch in sft.make_trainer(job, "cpu").get_train_dataloader()]
        seen[order] = sorted(int(length) for batch in batches for length in batch)
        padding[order] = sum(int(batch.max()) * len(batch) - int(batch.sum()) for batch in batches)
    assert seen["by_length"] == seen["shuffled"]
    assert padding["by_length"] < padding["shuffled"]


def test_liger_without_a_gpu_is_refused(tiny_model: Path, tmp_path: Path) -> None:
    with pytest.raises(FemError, match=r"train\.liger needs a GPU"):
        sft.make_trainer(make_job(tmp_path, tiny_model, liger=True), "cpu")


def test_a_row_that_is_too_long_is_refused_and_counted(tiny_model: Path, tmp_path: Path) -> None:
    """Through the whole chain: the sentence comes out of the trainer's process as it was."""
    job = make_job(tmp_path, tiny_model, max_length=64)
    with pytest.raises(FemError, match=r"^\d+ of 16 training rows are longer than 64 tokens; the longest has \d+\."):
        asyncio.run(train(job, lambda progress: None))
    assert not job.output_dir.exists()


def with_template(tiny_model: Path, folder: Path, template: str) -> Path:
    folder.mkdir()
    for file in tiny_model.iterdir():
        (folder / file.name).symlink_to(file)
    (folder / "chat_template.jinja").unlink()
    (folder / "chat_template.jinja").write_text(template)
    return folder


def test_a_template_that_never_ends_a_turn_is_refused(tiny_model: Path, tmp_path: Path) -> None:
    template = "{% for m in messages %}{{ m.role + ': ' + m.content + '\\n' }}{% endfor %}{% if add_generation_prompt %}{{ 'assistant: ' }}{% endif %}"  # noqa: E501
    with pytest.raises(FemError, match="does not end the assistant's turn"):
        sft.make_trainer(make_job(tmp_path, with_template(tiny_model, tmp_path / "m", template)), "cpu")


def test_a_template_that_opens_answers_otherwise_when_drawing_is_refused(tiny_model: Path, tmp_path: Path) -> None:
    template = "{% for m in messages %}{{ m.role + ': ' + m.content + '<|im_end|>' }}{% endfor %}{% if add_generation_prompt %}{{ 'assistant: <think>' }}{% endif %}"  # noqa: E501
    with pytest.raises(FemError, match="renders a prompt differently"):
        sft.make_trainer(make_job(tmp_path, with_template(tiny_model, tmp_path / "m", template)), "cpu")


def test_a_failing_trainer_leaves_its_last_words(tiny_model: Path, tmp_path: Path) -> None:
    broken = tmp_path / "broken"
    broken.mkdir()
    for file in tiny_model.iterdir():
        (broken / file.name).write_bytes(file.read_bytes()[: 1000 if file.suffix == ".safetensors" else None])
    job = make_job(tmp_path, broken)
    with pytest.raises(TrainerDied) as caught:
        asyncio.run(train(job, lambda progress: None))
    message = str(caught.value)
    assert "exit code 1" in message and "SafetensorError" in message.splitlines()[-1]
    assert str(job.work_dir / "trainer.log") in message and "CalledProcessError" not in message
    assert processes_of(job) == []


def long_job(folder: Path, model: Path) -> TrainJob:
    return make_job(folder, model, rows=200, epochs=500, batch_size=2, micro_batch_size=2)


def test_cancelling_leaves_no_process(tiny_model: Path, tmp_path: Path) -> None:
    job = long_job(tmp_path, tiny_model)
    seen: list[list[int]] = []

    async def cancelled_at_the_first_step() -> None:
        stepped = asyncio.Event()
        task = asyncio.ensure_future(train(job, lambda progress: stepped.set()))
        await asyncio.wait_for(stepped.wait(), 120)
        seen.append(processes_of(job))
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task
        seen.append(processes_of(job))

    asyncio.run(cancelled_at_the_first_step())
    assert len(seen[0]) == 2, "accelerate's launcher and the trainer"
    assert seen[1] == []


def test_a_mistake_in_the_callers_callback_leaves_no_process(tiny_model: Path, tmp_path: Path) -> None:
    job = long_job(tmp_path, tiny_model)

    def callback(progress: TrainProgress) -> None:
        raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        asyncio.run(train(job, callback))
    assert processes_of(job) == []


def test_a_trainer_killed_from_outside_is_told_as_such(tiny_model: Path, tmp_path: Path) -> None:
    job = long_job(tmp_path, tiny_model)
    killed: list[int] = []

    def kill_the_trainer(progress: TrainProgress) -> None:
        if not killed:  # steps written before it died are still told after it
            killed.append(max(processes_of(job)))
            os.kill(killed[0], 9)

    with pytest.raises(TrainerDied, match=r"was killed \(out of memory\?\)"):
        asyncio.run(train(job, kill_the_trainer))


def test_the_trainer_does_not_outlive_a_launcher_killed_with_9(tiny_model: Path, tmp_path: Path) -> None:
    job = long_job(tmp_path, tiny_model)
    spec = tmp_path / "spec.json"
    spec.write_text(json.dumps(job.dump()))
    code = (
        "import asyncio, pathlib, sys; from fem_core.train.launch import TrainJob, train\n"
        "asyncio.run(train(TrainJob.load(pathlib.Path(sys.argv[1])), lambda p: print(p.step, flush=True)))"
    )
    with subprocess.Popen([sys.executable, "-c", code, str(spec)], stdout=subprocess.PIPE, text=True) as parent:
        assert parent.stdout is not None and parent.stdout.readline() == "1\n"
        assert len(processes_of(job)) == 2
        parent.kill()
        assert eventually(lambda: processes_of(job) == [], seconds=10)
