import json
import re
from pathlib import Path
from typing import Any

import pytest
from made_run import made_config, make_run

from fem_core.audit import lineage, render
from fem_core.audit.lineage import Edge, Graph, Node
from fem_core.errors import FemError
from fem_core.store import fork, layout
from fem_core.store.manifest import Manifest, artifact_digest, to_json
from fem_core.store.store import Store
from flows.commands.lineage import lineage as command
from tasks import prepare


def paths(graph: Graph) -> list[str]:
    return sorted(node.artifact.removeprefix("runs/") for node in graph.nodes.values())


def fork_of_made(store: Store, iteration: int) -> None:
    record = prepare.run_record("child", made_config("child", seed=7))
    record = record.model_copy(update={"parent": fork.begin(store, "made", iteration).dump()})
    fork.inherit(store, store.create_run(record))


def overwrite(store: Store, manifest: Manifest, **changes: object) -> None:
    store.root.replace(f"{manifest.artifact}/{layout.MANIFEST}", to_json(manifest.model_copy(update=changes)))


@pytest.fixture
def made(tmp_path: Path) -> Store:
    store = Store.open(str(tmp_path / "store"))
    make_run(store)
    return store


def test_a_checkpoint_leads_to_all_that_it_was_made_from_and_to_nothing_else(real_store: Store) -> None:
    manifests = {manifest.artifact: manifest for manifest in make_run(real_store)}
    graph = lineage.up(real_store, lineage.find(real_store, "made@2"))
    assert paths(graph) == [
        "made/iteration=001/attempts",
        "made/iteration=001/checkpoint",
        "made/iteration=001/rationales",
        "made/iteration=002/attempts",
        "made/iteration=002/checkpoint",
        "made/iteration=002/rationales",
        "made/model",
        "made/problems/train",
        "sums.jsonl",
    ]
    recorded = {
        (graph_id(ref.artifact, ref.digest), graph_id(name, manifests[name].digest), ref.role)
        for name in (node.artifact for node in graph.nodes.values())
        if name in manifests
        for ref in manifests[name].inputs
    }
    assert {(edge.input, edge.output, edge.role) for edge in graph.edges} == recorded
    assert len(graph.edges) == len(recorded)
    node = graph.nodes[
        graph_id("runs/made/iteration=002/attempts", manifests["runs/made/iteration=002/attempts"].digest)
    ]
    record = real_store.run("made")
    assert record is not None
    assert (node.step, node.step_version, node.config) == ("sample", 1, record.digest)
    assert node.step_key == manifests[node.artifact].step.key
    assert node.commit == manifests[node.artifact].code["commit"]
    assert graph.broken == []


def graph_id(artifact: str, digest: str) -> str:
    return f"{artifact}@{digest[:12]}"


def test_a_fork_leads_up_to_the_originals_and_the_originals_down_to_it(real_store: Store) -> None:
    make_run(real_store)
    fork_of_made(real_store, 1)
    up = lineage.up(real_store, lineage.find(real_store, "child@1"))
    assert [edge.role for edge in up.edges if edge.output == up.start] == ["refers to"]
    above = paths(up)
    assert above[0] == "child/iteration=001/checkpoint"
    assert above[1:4] == [f"made/iteration=001/{kind}" for kind in ("attempts", "checkpoint", "rationales")]
    down = lineage.down(real_store, lineage.find(real_store, "made@1/attempts"))
    below = paths(down)
    assert [path for path in below if path.startswith("child/")] == [
        f"child/iteration=001/{kind}" for kind in ("attempts", "checkpoint", "rationales", "verdicts")
    ]
    assert "made/iteration=002/scores" in below
    assert "made/iteration=000/scores" not in below and "made/problems/train" not in below
    assert (up.broken, down.broken) == ([], [])


def test_what_a_fork_refers_to_and_is_gone_is_told_and_its_inputs_are_followed(made: Store) -> None:
    fork_of_made(made, 1)
    made.root.remove(f"runs/made/iteration=001/checkpoint/{layout.MANIFEST}")
    graph = lineage.up(made, lineage.find(made, "child@1"))
    assert [node.state for node in graph.nodes.values() if node.artifact.startswith("runs/made/iteration=001/ch")] == [
        "missing"
    ]
    assert "made/iteration=001/attempts" in paths(graph)


def test_a_missing_manifest_is_shown(made: Store) -> None:
    made.root.remove(f"runs/made/iteration=001/attempts/{layout.MANIFEST}")
    graph = lineage.up(made, lineage.find(made, "made@2"))
    (gone,) = [node for node in graph.nodes.values() if node.state == "missing"]
    assert gone.artifact == "runs/made/iteration=001/attempts"
    assert any("attempts" in line and "! " in line and "not in the store" in line for line in render.tree(graph))
    assert any(":::broken" in line and "iteration=001/attempts" in line for line in render.mermaid(graph))


def test_another_digest_than_recorded_is_shown_from_both_sides_and_not_followed(made: Store) -> None:
    attempts = lineage.find(made, "made@1/attempts")
    recorded = attempts.digest
    files = attempts.files[:1]
    overwrite(made, attempts, files=files, digest=artifact_digest("attempts", files))
    up = lineage.up(made, lineage.find(made, "made@1"))
    (other,) = [node for node in up.nodes.values() if node.state == "differs"]
    assert (other.artifact, other.digest) == (attempts.artifact, recorded)
    assert not [edge for edge in up.edges if edge.output == other.id]
    down = lineage.down(made, lineage.find(made, "made@1/attempts"))
    assert paths(down) == [f"made/iteration=001/{kind}" for kind in ("attempts", "rationales", "verdicts")]
    assert all(recorded[:12] in edge.note for edge in down.edges) and len(down.edges) == 2
    assert sum("! " in line for line in render.tree(down)) == 2
    assert sum("-.->" in line for line in render.mermaid(down)) == 2


def test_a_torn_manifest_is_shown_in_both_directions(made: Store) -> None:
    made.root.replace(f"runs/made/iteration=001/rationales/{layout.MANIFEST}", b"{")
    up = lineage.up(made, lineage.find(made, "made@1"))
    assert [node.artifact for node in up.nodes.values() if node.state == "unreadable"] == [
        "runs/made/iteration=001/rationales"
    ]
    down = lineage.down(made, lineage.find(made, "made@1/attempts"))
    assert len(down.notes) == 1 and "not valid JSON" in down.notes[0]
    assert list(render.tree(down))[-1].startswith("! ")


def test_the_tree_shows_a_node_once_and_then_refers_to_it(made: Store) -> None:
    graph = lineage.up(made, lineage.find(made, "made@2"))
    lines = list(render.tree(graph))
    for node in graph.nodes.values():
        whole = [line for line in lines if f"{node.artifact}  {node.digest[:12]}" in line]
        assert sum("(see above)" not in line for line in whole) == 1, node.artifact
    assert len(lines) == len(graph.edges) + 1
    assert sum("(see above)" in line for line in lines) == len(graph.edges) + 1 - len(graph.nodes)


def test_json_has_every_node_once_with_its_whole_digest(made: Store) -> None:
    graph = lineage.up(made, lineage.find(made, "made@2"))
    values = json.loads(render.to_json(graph))
    ids = [node["id"] for node in values["nodes"]]
    assert len(ids) == len(set(ids)) == 9
    assert all(len(node["digest"]) == 64 for node in values["nodes"])
    assert {edge["input"] for edge in values["edges"]} | {edge["output"] for edge in values["edges"]} == set(ids)


def test_names_from_data_cannot_leave_a_mermaid_label_or_write_control_characters() -> None:
    evil = 'a"]\nclick n0 "javascript:alert(1)" <b>`#quot;\x1b[31m&'
    graph = Graph("s", "e@1", "up", {"e@1": Node("e@1", evil, "1" * 64, "source", evil)}, [Edge("e@1", "e@1", evil)])
    lines = list(render.mermaid(graph))
    assert len(lines) == 4
    for line in lines[1:3]:
        (label,) = re.findall(r'"([^"]*)"', line)
        assert not set(label.replace("<br/>", "")) & set('"<>`&[]{}|\x1b\n')
        assert "#35;quot#59;" in label
    assert all(line.isprintable() for line in render.tree(graph))


@pytest.mark.parametrize(
    ("text", "path"),
    [
        ("demo@3", "runs/demo/iteration=003/checkpoint"),
        ("demo@0", "runs/demo/model"),
        ("demo@3/attempts", "runs/demo/iteration=003/attempts"),
        ("runs/demo/iteration=003/attempts/", "runs/demo/iteration=003/attempts"),
        ("runs/demo/model/_manifest.json", "runs/demo/model"),
    ],
)
def test_an_artifact_is_named_by_path_or_in_short(text: str, path: str) -> None:
    assert lineage.parse(text) == path


@pytest.mark.parametrize(
    "text", ["demo", "runs/demo", "runs/../x", "runs/a//b", "/etc/passwd", "demo@x", "demo@1/../b"]
)
def test_what_names_no_artifact_is_refused(text: str) -> None:
    with pytest.raises(FemError):
        lineage.parse(text)


def test_an_unknown_artifact_is_answered_with_what_there_is(made: Store) -> None:
    with pytest.raises(FemError, match=r"made/iteration=002/checkpoint"):
        lineage.find(made, "made@3")
    with pytest.raises(FemError, match=r"Runs here: made"):
        lineage.find(made, "mode@2")


def test_the_command_prints_each_format_for_both_directions(made: Store, capsys: pytest.CaptureFixture[str]) -> None:
    def said(**options: Any) -> str:
        command("made@1", store=made.url, **options)
        return capsys.readouterr().out

    assert said().startswith("runs/made/iteration=001/checkpoint  ") and "sums.jsonl" in said()
    assert "iteration=002/scores" in said(down=True) and "sums.jsonl" not in said(down=True)
    assert said(format="mermaid").startswith("flowchart TD")
    assert json.loads(said(format="json"))["direction"] == "up"
    assert len(said(format="openlineage").splitlines()) == 5
