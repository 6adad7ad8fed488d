"""Exported checkpoints: a verified folder with a truthful card, whole or not there."""

import json
import re
from pathlib import Path
from uuid import uuid4

import pytest
import yaml
from made_run import made_config, make_run

from deployments.s3 import BUCKET
from fem_core.digest import digest_file
from fem_core.errors import Corrupt, FemError
from fem_core.report.export import CARD, RECORD, export
from fem_core.report.model_card import model_card
from fem_core.report.summary import summarise, title
from fem_core.store import fork, layout
from fem_core.store.fs import open_root
from fem_core.store.manifest import Manifest
from fem_core.store.store import Store

CHECKPOINT = layout.iteration("made", 2, "checkpoint")


@pytest.fixture
def out(root_url: str) -> str:
    """Where to export to, of the same kind as the store."""
    return f"{root_url}-out/model" if "://" in root_url else f"{root_url}-out"


def content(url: str) -> dict[str, bytes]:
    above, _, name = url.rpartition("/")
    root = open_root(above)
    return {path: root.read(f"{name}/{path}") for path in root.files(name)}


def beside(url: str) -> list[str]:
    return open_root(url.rpartition("/")[0]).children(url.rpartition("/")[2])


def damage(store: Store, path: str) -> None:
    data = bytearray(store.root.read(path))
    data[0] ^= 1
    store.root.replace(path, bytes(data))


def test_the_folder_holds_the_checkpoint_its_card_and_its_record(real_store: Store, out: str) -> None:
    make_run(real_store)
    manifest = export(real_store, "made", 2, out)
    found = content(out)
    assert sorted(found) == sorted([*(record.path for record in manifest.files), CARD, RECORD])
    assert all(found[r.path] == real_store.root.read(f"{CHECKPOINT}/{r.path}") for r in manifest.files)
    assert Manifest.model_validate_json(found[RECORD]) == real_store.manifest(CHECKPOINT)
    assert found[CARD].decode() == model_card(real_store, "made", 2)


def test_a_folder_that_is_not_empty_is_refused_and_kept(real_store: Store, out: str) -> None:
    make_run(real_store)
    above, _, name = out.rpartition("/")
    open_root(above).replace(f"{name}/notes.txt", b"mine")
    with pytest.raises(FemError, match="is not empty, and an export overwrites nothing"):
        export(real_store, "made", 2, out)
    assert content(out) == {"notes.txt": b"mine"}


def test_an_empty_local_folder_is_taken(tmp_path: Path) -> None:
    store = Store.open(str(tmp_path / "store"))
    make_run(store)
    (tmp_path / "out").mkdir()
    export(store, "made", 1, str(tmp_path / "out"))
    assert (tmp_path / "out" / CARD).is_file()
    assert sorted(path.name for path in tmp_path.iterdir()) == ["out", "store"]


def test_a_damaged_file_is_named_and_leaves_nothing(real_store: Store, out: str) -> None:
    make_run(real_store)
    damage(real_store, f"{CHECKPOINT}/model.safetensors")
    with pytest.raises(Corrupt, match=r"iteration=002/checkpoint/model\.safetensors does not hold"):
        export(real_store, "made", 2, out)
    assert content(out) == {} and beside(out) == []
    if "://" not in out:
        assert not Path(out).exists() and list(Path(out).parent.glob(".tmp-*")) == []


def test_a_writer_that_fails_halfway_leaves_nothing(
    real_store: Store, out: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    make_run(real_store)
    kind = type(real_store.root)
    replace = kind.replace

    def full(self: object, path: str, data: bytes) -> None:
        if path.endswith(RECORD):
            raise OSError(28, "No space left on device")
        replace(self, path, data)

    monkeypatch.setattr(kind, "replace", full)
    with pytest.raises(OSError, match="No space"):
        export(real_store, "made", 2, out)
    assert content(out) == {}
    if "://" not in out:
        assert not Path(out).exists() and list(Path(out).parent.glob(".tmp-*")) == []


def test_a_forks_checkpoint_is_taken_from_where_it_lies(tmp_path: Path) -> None:
    store = Store.open(str(tmp_path / "store"))
    make_run(store)
    record = store.run("made")
    assert record is not None
    parent = fork.begin(store, "made", 1)
    child = store.create_run(record.model_copy(update={"name": "child", "parent": parent.dump()}))
    fork.inherit(store, child)
    for name in ("problems/train", "problems/test", "model"):
        source = store.manifest(f"runs/made/{name}")
        assert source is not None
        fork.reference(store, source, "child")
    export(store, "child", 1, str(tmp_path / "out"))
    assert digest_file(tmp_path / "out/model.safetensors") == digest_file(
        tmp_path / "store/runs/made/iteration=001/checkpoint/model.safetensors"
    )
    assert "forked from made@1" in (tmp_path / "out" / CARD).read_text()


def test_the_base_model_and_what_is_not_there_are_refused(tmp_path: Path) -> None:
    store = Store.open(str(tmp_path / "store"))
    make_run(store)
    relocate(store, "acme/base-1b")
    with pytest.raises(
        FemError, match=r"the base model itself \(acme/base-1b\).*It has checkpoints of iterations 1, 2"
    ):
        export(store, "made", 0, str(tmp_path / "out"))
    with pytest.raises(FemError, match="has no checkpoint of iteration 3"):
        export(store, "made", 3, str(tmp_path / "out"))
    with pytest.raises(FemError, match="There is no run 'mad'"):
        export(store, "mad", 1, str(tmp_path / "out"))
    assert not (tmp_path / "out").exists()


def test_a_whole_bucket_is_refused(tmp_path: Path, s3_server: object) -> None:
    store = Store.open(str(tmp_path / "store"))
    make_run(store)
    with pytest.raises(FemError, match=f"s3://{BUCKET} is a whole bucket"):
        export(store, "made", 1, f"s3://{BUCKET}")


def relocate(store: Store, location: str) -> None:
    model = store.manifest(layout.model("made"))
    assert model is not None
    text = model.model_copy(update={"location": location}).model_dump_json().encode()
    store.root.replace(f"{model.artifact}/{layout.MANIFEST}", text)


def card_of(tmp_path: Path, location: str = "acme/base-1b", **changes: object) -> tuple[dict[str, object], str, Store]:
    """Front matter and body of a card, and the store."""
    store = Store.open(str(tmp_path / uuid4().hex))
    make_run(store, made_config(**changes))
    relocate(store, location)
    _, front, body = model_card(store, "made", 2).split("---\n", 2)
    return yaml.safe_load(front), body, store


def test_the_card_says_what_the_records_say(tmp_path: Path) -> None:
    front, body, store = card_of(tmp_path)
    assert front["library_name"] == "transformers"
    assert front["base_model"] == "acme/base-1b"
    assert front["license"] == "other"
    for artifact in ("checkpoint", "rationales", "attempts"):
        manifest = store.manifest(layout.iteration("made", 2, artifact))
        assert manifest is not None and manifest.digest in body
    for k in (0, 1, 2):
        scores = store.manifest(layout.iteration("made", k, "scores"))
        assert scores is not None
        interval = f"{scores.stats['low']:.3f} to {scores.stats['high']:.3f}"
        assert re.search(rf"^\| {k}( base)? \| {scores.stats['accuracy']:.3f} \| {interval} \|", body, re.M)
    checkpoint = store.manifest(CHECKPOINT)
    assert checkpoint is not None and str(checkpoint.code["commit"] or "unknown") in body
    assert "- train: 10 problems" in body and "STaR (plain prompt × 1, then hinted prompt × 1)" in body
    assert "Full fine-tuning" in body and "LoRA" not in body


def test_the_card_names_the_hint_and_the_filters_that_are_not_the_papers(tmp_path: Path) -> None:
    _, body, _ = card_of(tmp_path)
    assert "- filters" not in body and "- hint" not in body
    _, body, _ = card_of(tmp_path, prompts={"hint": "candidates"}, filter={"leak": "mark", "max_rationale_words": 50})
    assert "- hint of the hinted prompt: candidates" in body and "- filters: max_rationale_words 50, leak mark" in body


def test_a_published_set_is_named_and_a_local_copy_is_not_called_the_hubs(tmp_path: Path) -> None:
    problems = {"source": "helpsteer2", "attribute": "verbosity", "path": "rows.jsonl", "test": 4}
    front, body, store = card_of(tmp_path, problems=problems)
    assert "datasets" not in front
    assert "- source: helpsteer2\n- attribute: verbosity\n- train: 10 problems" in body
    assert title(summarise(store, "made")).startswith("made: star on helpsteer2, 2 iterations")


def test_a_later_iteration_is_no_part_of_an_earlier_ones_card(tmp_path: Path) -> None:
    store = Store.open(str(tmp_path))
    make_run(store)
    assert re.search(r"^\| 1 \|", model_card(store, "made", 1), re.M)
    assert not re.search(r"^\| 2 \|", model_card(store, "made", 1), re.M)


def test_merged_adapters_are_called_that(tmp_path: Path) -> None:
    _, body, _ = card_of(tmp_path, train={"method": "lora", "lora": {"r": 7}})
    assert "LoRA adapters of rank 7" in body and "merged" in body and "no adapter file" in body


def test_a_base_model_in_a_folder_is_named_without_its_path(tmp_path: Path) -> None:
    front, body, _ = card_of(tmp_path, "/home/owner/models/secret-1b")
    assert front["base_model"] == "secret-1b" and "owner" not in body


def test_text_from_elsewhere_cannot_leave_its_place(tmp_path: Path) -> None:
    plain = "{question}\n````\n# Buy now\x1b[2J\n<script>alert(1)</script>\n```"
    front, body, _ = card_of(tmp_path, "a|b<img src=x>`\n# c: [x](http://y)", prompts={"plain": plain, "system": "---"})
    assert front["base_model"] == "a|b<img src=x>`# c: [x](http://y)"
    fenced = re.findall(r"^(`{3,})(?:text|python)\n(.*?)\n\1$", body, re.M | re.S)
    assert [text for _, text in fenced[:2]] == [plain.replace("\x1b", ""), "---"]
    outside = re.sub(r"^(`{3,})(?:text|python)\n.*?\n\1$", "", body, flags=re.M | re.S)
    assert "\x1b" not in body and not re.search(r"(?<!\\)<(script|img)|(?<!\\)\[x|^# (Buy|c)", outside, re.M)


def test_the_snippet_in_the_card_is_python(tmp_path: Path) -> None:
    exemplars = [{"question": "What's 1 + 1?", "rationale": 'It is "two".', "answer": "2"}]
    _, body, _ = card_of(tmp_path, prompts={"system": "Be 'brief'.", "exemplars": exemplars, "train_exemplars": 1})
    (code,) = re.findall(r"^```python\n(.*?)^```", body, re.M | re.S)
    compile(code, "card", "exec")
    chat = code[code.index("plain =") : code.index("inputs =")]
    names: dict[str, list[dict[str, str]]] = {}
    exec(chat, names)  # noqa: S102 (our own card)
    assert [turn["role"] for turn in names["chat"]] == ["system", "user", "assistant", "user"]
    assert names["chat"][2]["content"] == 'It is "two".\nAnswer: 2'
    assert json.dumps(names["chat"][3]).count("Your question") == 1
