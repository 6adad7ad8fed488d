"""How fast does an audit hash, beside ``sha256sum`` and ``openssl dgst -sha256`` on the same files?

``python -m benchmarks.audit_speed [--megabytes 2000] [--rows 1000000] [--repeats 3] [--folder DIR]`` writes two runs to a
local store: one with a checkpoint of so many random megabytes in four files, one with so many attempts in ten parts; then
audits each in turn with the two commands. All files are in the page cache. The commands use one core; the audit reads
several files at a time, and of tables the footer besides. ``sha256sum`` of some systems does not use the processor's SHA
instructions, so ``openssl`` is the harder baseline.
"""

import argparse
import os
import shutil
import statistics
import subprocess
import tempfile
import time
from collections import Counter
from collections.abc import Callable, Sequence
from pathlib import Path

from benchmarks.run_state import run_record
from benchmarks.store_scale import KEY, Attempts, manifest_of
from fem_core.audit.audit import audit
from fem_core.store import layout
from fem_core.store.store import Store

_FILES = 4
_PARTS = 10


def make(store: Store, megabytes: int, rows: int) -> dict[str, list[Path]]:
    """Write both runs; their data files by run."""
    for run in ("weights", "tables"):
        store.create_run(run_record(run, 1))
    artifact = layout.iteration("weights", 1, "checkpoint")
    size = megabytes * 1_000_000 // _FILES
    weights = [store.write_bytes(artifact, f"model-{n}.safetensors", os.urandom(size)) for n in range(_FILES)]
    made = [store.commit(manifest_of(artifact, weights, "checkpoint"))]
    attempts, artifact = Attempts(0), layout.iteration("tables", 1, "attempts")
    parts = [
        store.write_table(artifact, layout.part_name(n), attempts.table(rows // _PARTS), KEY) for n in range(_PARTS)
    ]
    made.append(store.commit(manifest_of(artifact, parts)))
    folders = [Path(store.url) / manifest.artifact for manifest in made]
    return {
        run: [folder / record.path for record in manifest.files]
        for run, folder, manifest in zip(("weights", "tables"), folders, made, strict=True)
    }


def measure(store: Store, run: str, files: list[Path], repeats: int, cache: Path) -> None:
    """Hash in turn; medians."""
    manifests = store.artifacts(run)
    levels: Counter[str] = Counter()

    def audited() -> None:
        levels.clear()
        found = audit(store, run, cache=cache)
        levels.update(finding.level for finding in found.findings)

    def command(*words: str) -> Callable[[], object]:
        return lambda: subprocess.run([*words, *map(str, files)], check=True, stdout=subprocess.DEVNULL)

    ways: dict[str, Callable[[], object]] = {
        "audit": audited,
        "Store.verify": lambda: [store.verify(manifest) for manifest in manifests],
        "sha256sum": command("sha256sum"),
    }
    if shutil.which("openssl"):
        ways["openssl dgst -sha256"] = command("openssl", "dgst", "-sha256")
    seconds: dict[str, list[float]] = {way: [] for way in ways}
    for _ in range(repeats):
        for way, work in ways.items():
            start = time.perf_counter()
            work()
            seconds[way].append(time.perf_counter() - start)
    megabytes = sum(file.stat().st_size for file in files) / 1e6
    own = statistics.median(seconds["audit"])
    for way, times in seconds.items():
        median = statistics.median(times)
        spread = f"{megabytes / max(times):,.0f} to {megabytes / min(times):,.0f}"
        print(f"| {run} | {way} | {megabytes / median:,.0f} ({spread}) | {median / own:.2f} |", flush=True)
    print(f"| {run} | findings of the audit | {', '.join(f'{n} {level}' for level, n in levels.items()) or 'none'} | |")


def main(argv: Sequence[str] | None = None) -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--megabytes", type=int, default=2000)
    parser.add_argument("--rows", type=int, default=1_000_000)
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument(
        "--folder", type=Path, default=None, help="on the disk to measure; the temporary folder by default"
    )
    chosen = parser.parse_args(argv)
    with tempfile.TemporaryDirectory(prefix="fem-audit-", dir=chosen.folder) as folder:
        store = Store.open(str(Path(folder, "store")))
        made = make(store, chosen.megabytes, chosen.rows)
        print("| run | way | MB/s: median (least to most) | the audit's speed as a multiple of it |\n|---|---|---|---|")
        for run, files in made.items():
            measure(store, run, files, chosen.repeats, Path(folder, "cache"))


if __name__ == "__main__":
    main()
