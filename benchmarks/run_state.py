"""How long does it take to list and resolve the state of a large run, beside a plain recursive listing?

``python -m benchmarks.run_state [--iterations 1000] [--parts 100000] [--repeats 3] [--s3 URL]`` makes a run of so many
iterations whose attempts have so many part files in all (the same tiny part, linked; real manifests), and asks the store
for it, in turn with a plain listing (``os.walk`` with sizes; s3fs ``find``). Then the same on a real S3 server on this
machine (SeaweedFS), which takes the folder in with its own upload command; or at a URL, where s3fs puts it file by file.

A listing gives names and sizes. What the store gives is every manifest, read, parsed and checked.
"""

import argparse
import os
import statistics
import subprocess
import tempfile
import time
from collections.abc import Callable, Sequence
from pathlib import Path

import s3fs

from benchmarks.store_scale import KEY, Attempts, manifest_of
from deployments.s3 import BUCKET, WEED, S3Server
from fem_core.config_files import parse_config
from fem_core.report.summary import summarise
from fem_core.store import layout, tables
from fem_core.store.manifest import FileRecord, RunRecord, to_json
from fem_core.store.store import Store

RUN = "large"
KINDS = ("attempts", "verdicts", "rationales", "checkpoint", "predictions", "scores")
"""Artifacts of an iteration; the first has the many parts."""

_STATS = {"accuracy": 0.5, "low": 0.4, "high": 0.6, "majority_baseline": 0.1, "n": 100, "utilization": 0.8}


def make(folder: Path, iterations: int, parts: int) -> int:
    """Write the run without asking the disk to be sure of it; the number of files."""
    _write(folder / layout.run_json(RUN), to_json(run_record(RUN, iterations)))
    table = Attempts(0).table(4)
    data, record = tables.encode(table, KEY), tables.record_of("x", table, KEY)
    files = 1
    for k in range(iterations + 1):
        for kind in KINDS if k else KINDS[-2:]:
            artifact = layout.iteration(RUN, k, kind)
            count = parts // iterations if kind == KINDS[0] else 1
            names = [layout.part_name(n) for n in range(count)]
            first = folder / artifact / names[0]
            _write(first, data)
            for name in names[1:]:
                os.link(first, first.with_name(name))
            records: list[FileRecord] = [record.model_copy(update={"path": name}) for name in names]
            manifest = manifest_of(artifact, records, kind).model_copy(update={"stats": _STATS})
            _write(folder / artifact / layout.MANIFEST, to_json(manifest))
            files += count + 1
    return files


def measure(where: str, store: Store, listing: Callable[[], int], repeats: int) -> None:
    """Ask in turn; medians."""
    ways: dict[str, Callable[[], int]] = {
        "plain recursive listing": listing,
        "Store.artifacts": lambda: len(store.artifacts(RUN)),
        "summarise": lambda: len(summarise(store, RUN).rows),
        "Store.runs": lambda: len(store.runs()),
    }
    seconds: dict[str, list[float]] = {way: [] for way in ways}
    found = {}
    for _ in range(repeats):
        for way, ask in ways.items():
            start = time.perf_counter()
            found[way] = ask()
            seconds[way].append(time.perf_counter() - start)
    plain = statistics.median(seconds["plain recursive listing"])
    for way, times in seconds.items():
        median = statistics.median(times)
        spread = f"{min(times):.2f} to {max(times):.2f}"
        print(f"| {where} | {way} | {found[way]} | {median:.2f} ({spread}) | {median / plain:.1f} |", flush=True)


def walk(folder: Path) -> int:
    """Files below a folder, each asked for its size."""
    return sum(os.stat(os.path.join(here, name)).st_size > 0 for here, _, names in os.walk(folder) for name in names)


def on_own_server(local: Path, folder: Path, repeats: int) -> None:
    """The same run on a server of its own."""
    server = S3Server(folder)
    server.start()
    os.environ.update(server.environment)
    try:
        filer = f"http://127.0.0.1:{server._ports[3]}/buckets/{BUCKET}/"
        upload = [str(WEED), "filer.copy", "-c=16", str(local / layout.RUNS), filer]
        subprocess.run(upload, check=True, capture_output=True, cwd=folder)
        on_s3(f"s3://{BUCKET}", repeats)
    finally:
        server.stop()


def on_s3(url: str, repeats: int) -> None:
    """The run where it is."""
    plain = s3fs.S3FileSystem(use_listings_cache=False, skip_instance_cache=True)
    measure("S3", Store.open(url, check=False), lambda: len(plain.find(f"{url}/{layout.RUNS}")), repeats)


def run_record(name: str, iterations: int) -> RunRecord:
    """The record of a run with a configuration like any other."""
    problems = {"source": "table", "path": "sums.jsonl", "answer_kind": "number", "test": 4}
    config = parse_config({"name": name, "iterations": iterations, "problems": problems})
    return RunRecord(
        name=name,
        config=config.identity(),
        digest=config.digest(),
        created="2026-01-01T00:00:00Z",
        places={},
        parent=None,
    )


def _write(file: Path, data: bytes) -> None:
    file.parent.mkdir(parents=True, exist_ok=True)
    file.write_bytes(data)


def main(argv: Sequence[str] | None = None) -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--iterations", type=int, default=1000)
    parser.add_argument("--parts", type=int, default=100_000)
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--s3", default=None, help="put the run at this URL; on a server of its own by default")
    chosen = parser.parse_args(argv)
    with tempfile.TemporaryDirectory(prefix="fem-state-") as folder:
        local = Path(folder, "local")
        files = make(local, chosen.iterations, chosen.parts)
        print(f"{chosen.iterations} iterations, {files} files\n")
        print(
            "| store | what | found | seconds: median (least to most) | of the plain listing |\n|---|---|---|---|---|"
        )
        measure("local", Store.open(str(local), check=False), lambda: walk(local / layout.RUNS), chosen.repeats)
        if chosen.s3 is None:
            on_own_server(local, Path(folder, "s3"), chosen.repeats)
        else:
            s3fs.S3FileSystem().put(str(local / layout.RUNS), f"{chosen.s3}/{layout.RUNS}", recursive=True)
            on_s3(chosen.s3, chosen.repeats)


if __name__ == "__main__":
    main()
