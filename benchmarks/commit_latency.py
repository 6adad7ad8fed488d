"""How long does ``Store.commit`` take on S3, beside a bare conditional PUT of the same bytes, and what does it ask?

``python -m benchmarks.commit_latency [--commits 100] [--files 1 100] [--s3 URL]`` starts a real S3 server on this machine
(SeaweedFS, loopback; or takes the store at an empty URL). In turn it commits a manifest of so many files, which lie
there, and puts the same bytes with ``If-None-Match: *`` through s3fs. It prints medians, 95th percentiles and the
requests of one commit. Over a network every request adds a round trip, so there their number decides.
"""

import argparse
import os
import statistics
import tempfile
import time
from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import s3fs

from benchmarks.store_scale import manifest_of
from deployments.s3 import BUCKET, S3Server
from fem_core.store import layout
from fem_core.store.manifest import to_json
from fem_core.store.store import Store


class Asked:
    """Counts the requests that s3fs makes, by operation."""

    def __init__(self) -> None:
        self.counts: Counter[str] = Counter()
        self._call = s3fs.S3FileSystem._call_s3

    def __enter__(self) -> "Asked":
        call, counts = self._call, self.counts

        async def counted(filesystem: s3fs.S3FileSystem, method: str, *rest: Any, **more: Any) -> Any:
            counts[method] += 1
            return await call(filesystem, method, *rest, **more)

        s3fs.S3FileSystem._call_s3 = counted
        return self

    def __exit__(self, *_error: object) -> None:
        s3fs.S3FileSystem._call_s3 = self._call


def measure(store: Store, plain: s3fs.S3FileSystem, files: int, commits: int) -> None:
    """Commit and put in turn; the first of each is not counted."""
    records = [store.write_bytes("runs/latency/data", layout.part_name(n), str(n).encode()) for n in range(files)]
    seconds: dict[str, list[float]] = {"bare conditional PUT": [], "Store.commit": []}
    for n in range(commits + 1):
        artifact = f"runs/latency/iteration={n:03d}/attempts-{files}"
        manifest = manifest_of(artifact, records).model_copy(update={"source": "runs/latency/data"})
        text = to_json(manifest)
        for way in (*seconds,)[:: 1 if n % 2 else -1]:
            start = time.perf_counter()
            if way == "Store.commit":
                store.commit(manifest)
            else:
                plain.pipe_file(f"{store.url}/bare/{files}/{n}", text, mode="create")
            seconds[way].append(time.perf_counter() - start)
    with Asked() as asked:
        store.commit(
            manifest_of(f"runs/latency/once/attempts-{files}", records).model_copy(
                update={"source": "runs/latency/data"}
            )
        )
    requests = ", ".join(f"{count} {name}" for name, count in sorted(asked.counts.items()))
    base = statistics.median(seconds["bare conditional PUT"][1:])
    for way, found in seconds.items():
        ordered = sorted(found[1:])
        median, p95 = statistics.median(ordered), ordered[min(len(ordered) - 1, int(0.95 * len(ordered)))]
        said = requests if way == "Store.commit" else "1 put_object"
        print(f"| {files} | {way} | {1e3 * median:.1f} | {1e3 * p95:.1f} | {median / base:.1f} | {said} |", flush=True)


def measure_all(url: str, files: Sequence[int], commits: int) -> None:
    """One measurement for each number of files."""
    store, plain = Store.open(url), s3fs.S3FileSystem(use_listings_cache=False, skip_instance_cache=True)
    for count in files:
        measure(store, plain, count, commits)


def main(argv: Sequence[str] | None = None) -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--commits", type=int, default=100)
    parser.add_argument("--s3", default=None, help="commit there; to a server of its own by default")
    parser.add_argument("--files", type=int, nargs="+", default=[1, 100], help="files of the artifact")
    chosen = parser.parse_args(argv)
    print("| files | way | median ms | 95th percentile ms | of the bare PUT | requests |\n|---|---|---|---|---|---|")
    if chosen.s3 is not None:
        return measure_all(chosen.s3, chosen.files, chosen.commits)
    with tempfile.TemporaryDirectory(prefix="fem-latency-") as folder:
        server = S3Server(Path(folder))
        server.start()
        os.environ.update(server.environment)
        try:
            measure_all(f"s3://{BUCKET}", chosen.files, chosen.commits)
        finally:
            server.stop()


if __name__ == "__main__":
    main()
