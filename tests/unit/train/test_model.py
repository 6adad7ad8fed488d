"""Which folders are taken as a base model, and the sentence for each that is not."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from fem_core.config import ModelConfig
from fem_core.digest import digest_file
from fem_core.errors import FemError
from fem_core.model import default_cache, resolve_model


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """The outside of a model folder: the files that are looked at before anything is loaded."""
    model = tmp_path / "model"
    model.mkdir()
    (model / "config.json").write_text(json.dumps({"max_position_embeddings": 512}))
    (model / "model.safetensors").write_bytes(b"weights")
    (model / "chat_template.jinja").write_text("{{ messages }}")
    (model / "tokenizer.json").write_text("{}")
    (model / "README.md").write_text("not part of the model")
    (model / "modeling_own.py").write_text("print('remote code')")
    return model


def resolve(source: object, tmp_path: Path, **config: object) -> object:
    return resolve_model(ModelConfig.model_validate({"source": str(source), **config}), tmp_path / "cache")


def test_a_local_folder_is_taken_with_the_digest_of_each_of_its_files(folder: Path, tmp_path: Path) -> None:
    model = resolve(folder, tmp_path)
    assert (model.path, model.name, model.context_length) == (folder, str(folder), 512)
    assert [file.path for file in model.files] == [
        "chat_template.jinja",
        "config.json",
        "model.safetensors",
        "tokenizer.json",
    ]
    assert all(digest_file(folder / file.path) == file.sha256 for file in model.files)
    assert all((folder / file.path).stat().st_size == file.bytes for file in model.files)


def test_the_models_own_code_counts_only_where_it_is_trusted(folder: Path, tmp_path: Path) -> None:
    trusted = resolve(folder, tmp_path, trust_remote_code=True)
    assert "modeling_own.py" in [file.path for file in trusted.files]


def test_a_big_files_digest_follows_its_content(folder: Path, tmp_path: Path) -> None:
    weights = folder / "model.safetensors"
    weights.write_bytes(b"a" * (17 * 1024 * 1024))
    os.utime(weights, ns=(1, 1))
    first = resolve(folder, tmp_path)
    assert resolve(folder, tmp_path).files == first.files
    assert len(list((tmp_path / "cache" / "digests").iterdir())) == 1
    weights.write_bytes(b"b" * (17 * 1024 * 1024))
    os.utime(weights, ns=(2, 2))
    assert resolve(folder, tmp_path).files != first.files


def test_the_context_of_a_nested_text_model_is_found(folder: Path, tmp_path: Path) -> None:
    (folder / "config.json").write_text(json.dumps({"text_config": {"max_position_embeddings": 77}}))
    assert resolve(folder, tmp_path).context_length == 77


def test_a_template_inside_the_tokenizers_configuration_counts(folder: Path, tmp_path: Path) -> None:
    (folder / "chat_template.jinja").unlink()
    (folder / "tokenizer_config.json").write_text(json.dumps({"chat_template": "{{ messages }}"}))
    assert resolve(folder, tmp_path).path == folder


def refused(source: object, tmp_path: Path) -> str:
    with pytest.raises(FemError) as caught:
        resolve(source, tmp_path)
    return str(caught.value)


def test_pickled_weights_are_refused(folder: Path, tmp_path: Path) -> None:
    (folder / "model.safetensors").rename(folder / "pytorch_model.bin")
    message = refused(folder, tmp_path)
    assert "pytorch_model.bin" in message and "save_pretrained" in message


def test_a_folder_without_weights_or_configuration_is_refused(folder: Path, tmp_path: Path) -> None:
    (folder / "model.safetensors").unlink()
    assert "no weights" in refused(folder, tmp_path)
    (folder / "config.json").unlink()
    assert "config.json" in refused(folder, tmp_path)


def test_a_model_without_chat_template_is_refused(folder: Path, tmp_path: Path) -> None:
    (folder / "chat_template.jinja").unlink()
    assert "chat_template.jinja" in refused(folder, tmp_path)


def test_a_model_of_unknown_context_is_refused(folder: Path, tmp_path: Path) -> None:
    (folder / "config.json").write_text("{}")
    assert "max_position_embeddings" in refused(folder, tmp_path)


@pytest.mark.parametrize("source", ["./nowhere", "/nowhere/model", "~/nowhere-at-all", "a/b/c", "no such model"])
def test_a_missing_folder_is_named(source: str, tmp_path: Path) -> None:
    assert f"no model folder {source!r}" in refused(source, tmp_path)


def test_a_file_is_not_a_folder(folder: Path, tmp_path: Path) -> None:
    assert "is a file" in refused(folder / "config.json", tmp_path)


def test_there_is_one_packaged_model(tmp_path: Path) -> None:
    assert "packaged:SmolLM2-135M-Instruct" in refused("packaged:gpt-5", tmp_path)


def resolved_offline(source: str, hub_cache: Path, tmp_path: Path) -> subprocess.CompletedProcess[str]:
    """In a process of its own, because huggingface_hub reads its environment when it is imported."""
    code = (
        "import sys, pathlib; from fem_core.config import ModelConfig; from fem_core.errors import FemError\n"
        "from fem_core.model import resolve_model\n"
        "try: print(resolve_model(ModelConfig(source=sys.argv[1]), pathlib.Path(sys.argv[2])).context_length)\n"
        "except FemError as error: print(error)"
    )
    return subprocess.run(
        [sys.executable, "-c", code, source, str(tmp_path / "cache")],
        env=os.environ | {"HF_HUB_OFFLINE": "1", "HF_HUB_CACHE": str(hub_cache)},
        capture_output=True,
        text=True,
    )


def test_an_unreachable_hub_is_one_sentence_and_a_way_out(tmp_path: Path) -> None:
    done = resolved_offline("someone/some-model", tmp_path / "hub", tmp_path)
    assert "'someone/some-model' is not on this machine and the hub cannot be reached" in done.stdout
    assert len(done.stdout.splitlines()) == 1 and done.stderr == ""


def test_a_snapshot_that_was_downloaded_before_serves_without_the_hub(folder: Path, tmp_path: Path) -> None:
    commit = "0123456789abcdef0123456789abcdef01234567"
    repository = tmp_path / "hub" / "models--someone--some-model"
    (repository / "refs").mkdir(parents=True)
    (repository / "refs" / "main").write_text(commit)
    (repository / "snapshots").mkdir()
    folder.rename(repository / "snapshots" / commit)
    assert resolved_offline("someone/some-model", tmp_path / "hub", tmp_path).stdout == "512\n"


def test_the_cache_can_be_moved(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("FEM_CACHE", str(tmp_path))
    assert default_cache() == tmp_path
