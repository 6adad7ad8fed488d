"""docs/reading.md: every snippet runs as it stands, but for its first line, on a local store and on S3."""

import re
import subprocess
from pathlib import Path
from uuid import uuid4

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from made_run import made_config, make_run

from deployments.s3 import BUCKET
from fem_core.schemas import TABLES
from fem_core.store import fork, layout
from fem_core.store.local import LocalRoot
from fem_core.store.root import TEMPORARY
from fem_core.store.store import Store
from flows.commands.execute import _look_further

PAGE = Path(__file__).parents[2] / "docs/reading.md"
SNIPPETS = dict(re.findall(r"^## ([^\n]+)\n(?:(?!^## ).*?)^```python\n(.*?)^```", PAGE.read_text(), re.M | re.S))
DRAWS = 13
"""Attempts of each iteration of a made run."""

PRINTS = {
    "DuckDB": rf"│ +1 │ +{DRAWS} │.*│ +2 │ +{DRAWS} │",
    "pyarrow": rf"'iteration': 1, 'verdict_count': {DRAWS}}}, {{'iteration': 2, 'verdict_count': {DRAWS}}}",
    "pandas": rf"^1 +{DRAWS}\n2 +{DRAWS}$",
    "polars": rf"│ 1 +┆ {DRAWS} .*│ 2 +┆ {DRAWS} ",
    "datasets": r"^20 \['prompt', 'completion', ",
    "What a column means": re.escape("logprob (double): Sum of the completion tokens' log-probabilities"),
    "From a file to who made it": r"^attempts [0-9a-f]{64} \['runs/made/problems/train', 'runs/made/model'\]$",
    "Only what is finished, and forks": rf"1, 'verdict_count': {DRAWS}}}, {{'iteration': 2, 'verdict_count': {DRAWS}}}",
}


@pytest.fixture(scope="module")
def local(tmp_path_factory: pytest.TempPathFactory) -> str:
    return filled(str(tmp_path_factory.mktemp("reading")))


@pytest.fixture(scope="module")
def remote(s3_server: object) -> str:
    return filled(f"s3://{BUCKET}/{uuid4().hex}")


def filled(url: str) -> str:
    """A run, a fork of it, and on a local disk what a writer has not finished."""
    store = Store.open(url)
    make_run(store)
    record = store.run("made")
    assert record is not None
    parent = fork.begin(store, "made", 1)
    fork.inherit(store, store.create_run(record.model_copy(update={"name": "child", "parent": parent.dump()})))
    if isinstance(store.root, LocalRoot):
        for kind in ("attempts", "rationales"):
            store.root.at(f"{layout.iteration('made', 1, kind)}/{TEMPORARY}0123").write_bytes(b"PAR1 half")
    return url


@pytest.mark.parametrize("place", ["local", "remote"])
@pytest.mark.parametrize("title", PRINTS)
def test_the_snippet_reads_the_run(
    title: str,
    place: str,
    request: pytest.FixtureRequest,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    import datasets

    monkeypatch.setattr(datasets.config, "HF_DATASETS_CACHE", tmp_path)
    monkeypatch.setattr(datasets.config, "HF_HUB_OFFLINE", False)  # offline, datasets reaches no S3 either
    run_snippet(title, f"{request.getfixturevalue(place)}/runs/made")
    assert re.search(PRINTS[title], capsys.readouterr().out, re.M | re.S)


@pytest.mark.parametrize("place", ["local", "remote"])
def test_a_forks_history_is_read_through_its_manifests(
    place: str, request: pytest.FixtureRequest, capsys: pytest.CaptureFixture[str]
) -> None:
    run_snippet("Only what is finished, and forks", f"{request.getfixturevalue(place)}/runs/child")
    assert capsys.readouterr().out == f"[{{'iteration': 1, 'verdict_count': {DRAWS}}}]\n"


@pytest.mark.parametrize("place", ["local", "remote"])
def test_the_query_that_a_finished_run_prints_reads_it(
    place: str, request: pytest.FixtureRequest, capsys: pytest.CaptureFixture[str]
) -> None:
    _look_further(made_config(store=request.getfixturevalue(place)))
    (query,) = [line for line in capsys.readouterr().out.splitlines() if "duckdb" in line]
    done = subprocess.run(["sh", "-c", query], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert re.search(r"│ 001 +│ plain +│ +7 │", done.stdout), done.stdout


def test_every_snippet_of_the_page_is_run() -> None:
    assert list(SNIPPETS) == list(PRINTS)
    assert len(SNIPPETS) == PAGE.read_text().count("```python")


def run_snippet(title: str, run: str) -> None:
    first, rest = SNIPPETS[title].split("\n", 1)
    assert first.startswith('RUN = "./fem-store/runs/demo"')
    exec(compile(f"RUN = {run!r}\n{rest}", title, "exec"), {})  # noqa: S102 (our own page)


def test_every_column_is_described_in_its_file_as_the_schemas_describe_it(local: str) -> None:
    found = set()
    for file in Path(local, "runs/made").rglob("*.parquet"):
        schema = pq.read_schema(file)
        table = file.parent.name if file.stem.startswith("part-") else file.stem
        ours = TABLES["problems" if table in ("train", "test") else table]
        assert descriptions(schema) == descriptions(ours)
        assert all(descriptions(schema).values())
        assert re.fullmatch(rb"[0-9a-f]{64}", schema.metadata[b"fem.step_key"])
        found.add(table)
    beside = {"problems", "diagnostics", "annotations", "probes"}
    assert found == {"train", "test", *TABLES} - beside, (
        "the run has no report, nobody annotated it, and it has no bound"
    )


def descriptions(schema: pa.Schema) -> dict[str, str]:
    return {field.name: field.metadata[b"description"].decode() for field in schema}
