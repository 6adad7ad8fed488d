"""The `fem` command on good and bad input, short of drawing: exit codes, sentences, and nothing half-written."""

import json
import subprocess
import sys
import time
from pathlib import Path

import pytest
import yaml

ROOT = Path(__file__).parents[2]
FEM = str(Path(sys.executable).with_name("fem"))


def fem(folder: Path, *arguments: str) -> "subprocess.CompletedProcess[str]":
    return subprocess.run([FEM, *arguments], cwd=folder, capture_output=True, text=True, timeout=120, check=False)


def config_file(folder: Path, **sections: object) -> str:
    config = yaml.safe_load((ROOT / "configs" / "demo.yaml").read_text())
    config["problems"].update(train=8, test=8)
    for name, values in sections.items():
        config[name] = {**config.get(name, {}), **values} if isinstance(values, dict) else values
    (folder / "run.yaml").write_text(yaml.safe_dump(config))
    return "run.yaml"


def refused(folder: Path, *arguments: str) -> str:
    """The one sentence of a refusal."""
    before = sorted(folder.rglob("*"))
    done = fem(folder, *arguments)
    assert done.returncode == 2, done.stdout + done.stderr
    assert "Traceback" not in done.stderr
    assert sorted(folder.rglob("*")) == before, "a refused command must leave nothing behind"
    return done.stderr


def test_help_answers_in_under_a_second(tmp_path: Path) -> None:
    began = time.monotonic()
    done = fem(tmp_path, "--help")
    assert done.returncode == 0
    assert {"run", "preview", "show", "doctor"} <= set(done.stdout.split())
    assert time.monotonic() - began < 5, "generous: a loaded machine; importing torch or prefect takes longer still"


@pytest.mark.parametrize(
    ("arguments", "sentence"),
    [
        (["run", "nowhere.yaml"], "There is no configuration file 'nowhere.yaml'"),
        (["run", "run.yaml", "--set", "scheme.nam=rs"], "Unknown key 'scheme.nam'; did you mean 'scheme.name'?"),
        (["run", "run.yaml", "--set", "iterations=none"], "iterations: Input should be a valid integer"),
        (["run", "run.yaml", "--dry-run", "--set", "problems.dataset=needle_haystac"], "needle_haystack"),
        (["run", "run.yaml", "--dry-run", "--set", "model.source=nowhere/here/model"], "nowhere/here/model"),
        (
            ["run", "run.yaml", "--dry-run", "--set", "sample.engine.max_model_len=64"],
            "do not fit the model's context of 64",
        ),
        (["show", "nothing", "--store", "store"], "There is no run 'nothing'"),
        (["run", "run.yaml", "--nonsense"], "Unknown option"),
    ],
)
def test_bad_input_is_one_sentence_and_exit_code_2(
    smollm2: Path, tmp_path: Path, arguments: list[str], sentence: str
) -> None:
    config_file(tmp_path)
    assert sentence in refused(tmp_path, *arguments).replace("│", "").replace("\n", " ")


def test_an_unreadable_row_is_named_by_its_line(smollm2: Path, tmp_path: Path) -> None:
    rows = [json.dumps({"question": f"{n} + 1?", "answer": str(n + 1)}) for n in range(9)]
    (tmp_path / "sums.jsonl").write_text("\n".join([*rows[:4], '{"question": "broken', *rows[4:]]))
    config = yaml.safe_load((ROOT / "configs" / "demo.yaml").read_text())
    config["problems"] = {"source": "table", "path": "sums.jsonl", "answer_kind": "number", "test": 3}
    (tmp_path / "run.yaml").write_text(yaml.safe_dump(config))
    said = refused(tmp_path, "run", "run.yaml", "--dry-run")
    assert "sums.jsonl" in said and "line 5" in said


def test_a_model_without_a_chat_template_is_refused(smollm2: Path, tmp_path: Path) -> None:
    model = tmp_path / "model"
    model.mkdir()
    for file in smollm2.iterdir():
        if file.name != "chat_template.jinja":
            (model / file.name).symlink_to(file)
    config_file(tmp_path, model={"source": str(model)})
    assert "chat template" in refused(tmp_path, "preview", "run.yaml")


def test_preview_shows_the_prompts_through_the_models_template(smollm2: Path, tmp_path: Path) -> None:
    config_file(tmp_path)
    done = fem(tmp_path, "preview", "run.yaml")
    assert done.returncode == 0, done.stderr
    assert done.stdout.startswith("8 training problems in 8 groups; ")
    assert done.stdout.split("\n\n")[1] == "Prompts: no family; hint: answer."
    assert done.stdout.count("plain sampling prompt") == done.stdout.count("hinted sampling prompt") == 3
    plain, hinted = done.stdout.split("---\n")[1:3]
    assert "<|im_start|>user" in plain and "The answer is" not in plain
    assert hinted.count("The answer is") == 3, "two exemplars and the question"
    training = done.stdout.split("training text ---\n")[1]
    assert "Answer:" in training and "The answer is" not in training
    assert "longest prompt" in training


def test_preview_of_the_problems_alone_needs_no_model(tmp_path: Path) -> None:
    rows = [{"question": f"{n}?", "choices": ["yes", "no"], "answer": n % 2} for n in range(9)]
    (tmp_path / "rows.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    config_file(tmp_path, model={"source": "nowhere/here/model"})
    problems = "problems={source: mmlu, path: rows.jsonl, test: 3}"
    done = fem(tmp_path, "preview", "run.yaml", "--problems-only", "--set", problems)
    assert done.returncode == 0, done.stderr
    assert "6 training problems in 6 groups" in done.stdout and "test answers: " in done.stdout
    assert "scores 0." in done.stdout and "prompt" not in done.stdout


def test_a_dry_run_shows_keys_and_writes_nothing(smollm2: Path, tmp_path: Path) -> None:
    config_file(tmp_path)
    before = sorted(tmp_path.rglob("*"))
    done = fem(tmp_path, "run", "run.yaml", "--dry-run", "--store", "store")
    assert done.returncode == 0, done.stderr
    assert "configuration digest" in done.stdout and "0 of " in done.stdout
    assert sorted(tmp_path.rglob("*")) == before
    line = next(line for line in done.stdout.splitlines() if line.startswith("sample · 1"))
    again = fem(tmp_path, "run", "run.yaml", "--dry-run", "--store", "elsewhere")
    assert line in again.stdout, "the same step must have the same key under another root"


def test_the_doctor_finds_this_installation_well(smollm2: Path, tmp_path: Path) -> None:
    done = fem(tmp_path, "doctor", "--store", "store")
    assert done.returncode == 0, done.stdout
    assert "can be written and honours create-if-absent" in done.stdout
    assert not list(tmp_path.rglob("*.tmp")) and not list((tmp_path / "store").rglob("probe*"))


def test_the_doctor_says_how_to_mend_a_store_that_cannot_be_written(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    done = fem(tmp_path, "doctor", "--store", "file/store")
    assert done.returncode == 1
    assert "FAIL  store" in done.stdout
