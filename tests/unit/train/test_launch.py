"""The trainer's command line as accelerate itself reads it, and what is refused before anything starts."""

import asyncio
import importlib.util
import json
import subprocess
import sys
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import yaml

from fem_core.config import TrainConfig
from fem_core.errors import FemError
from fem_core.schemas import RATIONALES
from fem_core.train.launch import (
    TrainerDied,
    TrainJob,
    _Events,
    _result,
    accelerate_config,
    environment,
    launch_command,
    refuse_untrainable,
    train,
)


def job(folder: Path, **config: object) -> TrainJob:
    return TrainJob(
        model_dir=folder / "model",
        rationales=[folder / "rationales.parquet"],
        output_dir=folder / "checkpoint",
        iteration=2,
        learning_rate=8e-6,
        seed=11,
        config=TrainConfig.model_validate(config),
    )


def accelerates_view(command: list[str]) -> object:
    """The arguments after accelerate has parsed them and mixed in its configuration files."""
    from accelerate.commands.launch import _validate_launch_command, launch_command_parser

    assert command[1:3] == ["-m", "accelerate.commands.launch"]
    return _validate_launch_command(launch_command_parser().parse_args(command[3:]))[0]


@pytest.fixture
def hostile_default(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A user's own ``accelerate config``, which must not reach our runs."""
    import accelerate.commands.launch as launch
    from accelerate.commands.config import config_args

    file = tmp_path / "default_config.yaml"
    file.write_text(
        yaml.safe_dump(
            {
                "compute_environment": "LOCAL_MACHINE",
                "distributed_type": "DEEPSPEED",
                "mixed_precision": "fp16",
                "num_processes": 8,
                "use_cpu": False,
                "debug": True,
            }
        )
    )
    monkeypatch.setattr(config_args, "default_config_file", str(file))
    monkeypatch.setattr(launch, "default_config_file", str(file))


@pytest.mark.usefixtures("hostile_default")
@pytest.mark.parametrize(("device", "processes"), [("cpu", 1), ("cuda", 1), ("cuda", 4)])
def test_accelerate_does_what_the_job_says_whatever_the_user_configured(
    tmp_path: Path, device: str, processes: int
) -> None:
    a_job = job(tmp_path, batch_size=16, micro_batch_size=2, num_processes=processes)
    a_job.work_dir.mkdir()
    (a_job.work_dir / "accelerate.json").write_text(json.dumps(accelerate_config(processes, device)))  # type: ignore[arg-type]

    args = accelerates_view(launch_command(a_job.work_dir, processes, device))  # type: ignore[arg-type]

    assert (args.num_processes, args.num_machines) == (processes, 1)
    assert args.mixed_precision == "no"
    assert bool(args.cpu) == (device == "cpu")
    assert bool(args.multi_gpu) == (processes > 1)
    assert not args.use_deepspeed and not args.use_fsdp and not args.debug
    assert args.module and args.training_script == "fem_core.train.sft"
    assert args.training_script_args == [str(a_job.work_dir / "job.json"), device]


def test_several_processes_without_a_gpu_are_refused(tmp_path: Path) -> None:
    with pytest.raises(FemError, match=r"num_processes is 2.*Set it to 1"):
        launch_command(tmp_path, 2, "cpu")


def test_a_job_survives_its_file(tmp_path: Path) -> None:
    before = job(tmp_path, method="lora", lora={"r": 4, "target_modules": ["q_proj", "v_proj"]})
    file = tmp_path / "job.json"
    file.write_text(json.dumps(before.dump()))
    assert TrainJob.load(file) == before


def test_launching_loads_neither_torch_nor_trl() -> None:
    code = (
        "import sys, fem_core.train.launch, fem_core.model; print({'torch', 'trl', 'transformers'} & set(sys.modules))"
    )
    assert subprocess.run([sys.executable, "-c", code], capture_output=True, text=True).stdout == "set()\n"


def test_an_empty_accepted_set_is_refused(tmp_path: Path) -> None:
    a_job = job(tmp_path)
    pq.write_table(pa.Table.from_pylist([], schema=RATIONALES), a_job.rationales[0])
    with pytest.raises(FemError, match="Iteration 2 has no accepted rationales"):
        asyncio.run(train(a_job, lambda progress: None))
    assert not a_job.work_dir.exists()


def test_a_folder_with_something_in_it_is_not_written_over(tmp_path: Path) -> None:
    a_job = job(tmp_path)
    row = {"prompt": [], "completion": [], "problem_id": "p", "attempt": 0, "prompt_kind": "plain"}
    table = pa.Table.from_pylist([{**row, "completion_tokens": 1}], schema=RATIONALES)
    pq.write_table(table, a_job.rationales[0])
    a_job.output_dir.mkdir()
    (a_job.output_dir / "mine.txt").write_text("keep")
    with pytest.raises(FemError, match="not empty"):
        asyncio.run(train(a_job, lambda progress: None))


def test_half_a_line_is_no_event(tmp_path: Path) -> None:
    file = tmp_path / "progress.jsonl"
    events = _Events(file)
    file.write_bytes(b'{"event": "a"}\n{"eve')
    assert [e["event"] for e in events.read()] == ["a"]
    file.write_bytes(b'{"event": "a"}\n{"event": "b"}\n')
    assert [e["event"] for e in events.read()] == ["b"]
    assert events.read() == [] and events.last["event"] == "b"


LAUNCHERS_TRACEBACK = """Traceback (most recent call last):
  File "/x/accelerate/commands/launch.py", line 900, in simple_launcher
    raise subprocess.CalledProcessError(returncode=process.returncode, cmd=cmd)
subprocess.CalledProcessError: Command '[...]' {how}
"""


def death(tmp_path: Path, text: str, code: int = 1) -> str:
    log = tmp_path / "trainer.log"
    log.write_text(text)
    with pytest.raises(TrainerDied) as caught:
        _result(_Events(tmp_path / "progress.jsonl"), code, log)
    assert str(log) in str(caught.value)
    return str(caught.value)


def test_the_trainers_last_words_are_shown_without_the_launchers_and_without_control_characters(tmp_path: Path) -> None:
    own = 'Traceback (most recent call last):\n  File "sft.py"\nValueError: \x1b[31mno\x1b[0m such\x07 thing\n'
    message = death(tmp_path, own + LAUNCHERS_TRACEBACK.format(how="returned non-zero exit status 1."))
    assert message.endswith("ValueError: no such thing")
    assert "exit code 1" in message


def test_a_trainer_killed_by_the_kernel_is_told_as_such(tmp_path: Path) -> None:
    message = death(tmp_path, "step 3\n" + LAUNCHERS_TRACEBACK.format(how="died with <Signals.SIGKILL: 9>."))
    assert "was killed (out of memory?)" in message and message.endswith("step 3")
    assert "was killed (out of memory?)" in death(tmp_path, "step 3\n", code=-9)


def test_one_trainer_sees_one_gpu(monkeypatch: pytest.MonkeyPatch) -> None:
    """Of several it would make a data-parallel model, which TRL refuses."""
    monkeypatch.delenv("CUDA_VISIBLE_DEVICES", raising=False)
    assert environment(1, "cuda")["CUDA_VISIBLE_DEVICES"] == "0"
    assert "CUDA_VISIBLE_DEVICES" not in environment(2, "cuda") and "CUDA_VISIBLE_DEVICES" not in environment(1, "cpu")
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "3,5")
    assert environment(1, "cuda")["CUDA_VISIBLE_DEVICES"] == "3"
    assert environment(2, "cuda")["CUDA_VISIBLE_DEVICES"] == "3,5"


def test_what_no_trainer_here_can_do_is_refused_before_anything_is_drawn() -> None:
    refuse_untrainable(TrainConfig(), "cpu")
    refuse_untrainable(TrainConfig(num_processes=2), "cuda")
    with pytest.raises(FemError, match=r"num_processes is 2, but this machine has no usable GPU\. Set it to 1"):
        refuse_untrainable(TrainConfig(num_processes=2), "cpu")
    with pytest.raises(FemError, match=r"train\.liger needs a GPU"):
        refuse_untrainable(TrainConfig(liger=True), "cpu")
    if importlib.util.find_spec("liger_kernel") is None:
        with pytest.raises(FemError, match="pip install liger-kernel"):
            refuse_untrainable(TrainConfig(liger=True), "cuda")
