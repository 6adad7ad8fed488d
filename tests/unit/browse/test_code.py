"""The code that a page offers reads exactly the artifact, on a local store and on S3, of few files and of many."""

import contextlib
import io
import os

import made_run
import pytest
from made_run import make_run

from fem_core.audit.lineage import find
from fem_core.browse.code import snippets
from fem_core.store.store import Store


def said(code: str) -> str:
    out = io.StringIO()
    with contextlib.redirect_stdout(out):
        exec(compile(code, "snippet", "exec"), {})  # noqa: S102 (our own code, as a reader would paste it)
    return out.getvalue()


def test_the_code_reads_exactly_the_artifact(real_store: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(made_run, "PER_PART", 1)
    make_run(real_store, iterations=1)
    for kind, parts, rows in (("attempts", 10, 13), ("rationales", 1, 10)):
        manifest = find(real_store, f"made@1/{kind}")
        assert len(manifest.files) == parts
        real_store.root.replace(f"{manifest.artifact}/part-99999.parquet", b"what a crashed try has left")
        code = dict(snippets(real_store.url, manifest))
        assert f"{rows} ['" in said(code["pyarrow"]), code["pyarrow"]
        assert f"{rows} rows" in said(code["DuckDB"]), code["DuckDB"]
        if "://" not in real_store.url or not os.environ.get("HF_HUB_OFFLINE"):
            assert f"num_rows: {rows}" in said(code["datasets"]), code["datasets"]
    assert snippets(real_store.url, find(real_store, "made@0/scores")) == []
