"""How fast are attempts written to and read from the store, beside plain pyarrow, and does memory stay flat?

``python benchmarks/store_scale.py [--rows 10000000] [--parts 100] [--folder DIR]`` writes drawn-up attempts (texts of
about 400 characters) to a local store and, part by part in turn, with ``pyarrow.parquet.write_table`` of the same codec
and settings, once as it is and once with an fsync; then reads everything back in turn, through ``Store.iter_tables``
(every byte hashed before it is used) and with ``read_table``. What the process holds is noted while the rows go by: its
resident memory now and at most, and what of it is in Arrow's tables; the difference is the interpreter, a few files and
what the allocator has not given back. Ten parts make an artifact; the default takes about 5 GB of disk. The files are in
the page cache when they are read.
"""

import argparse
import os
import tempfile
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from fem_core.digest import step_key
from fem_core.schemas import ATTEMPTS, SCHEMA_VERSION
from fem_core.store import layout, provenance
from fem_core.store.manifest import FileRecord, InputRef, Manifest, StepRecord, artifact_digest
from fem_core.store.store import Store

PER_ARTIFACT = 10
"""Parts of an artifact."""

_WORDS = 20_000
_CONFIG = {"sample": {"temperature": 1.0}}
_INPUTS = {"problems": "d" * 64}
KEY = step_key("sample", 1, _CONFIG, _INPUTS)


class Attempts:
    """Tables of attempts with varied words; the same seed gives the same tables."""

    def __init__(self, seed: int) -> None:
        self._random = np.random.default_rng(seed)
        letters = np.frombuffer(b"eeettaaooinnsshrrdlucmfwygpbvk", np.uint8)
        self._words = self._joined(pa.array([chr(c) for c in letters]), _WORDS, 6.0, 2, "")

    def table(self, rows: int) -> pa.Table:
        """So many attempts, four per problem."""
        draw = self._random
        problems = [f"{n:016x}" for n in draw.integers(0, 2**63, rows // 4 + 1)]
        kinds, verdicts = pa.array(["plain", "hinted"]), pa.array(["accepted", "wrong_answer", "unparsable"])
        text = self._joined(self._words, rows, 64.0, 3, " ")
        columns = {
            "problem_id": pa.array(problems).take(pa.array(np.arange(rows) // 4)),
            "attempt": pa.array(np.arange(rows, dtype=np.int32) % 4),
            "prompt_kind": kinds.take(pa.array(draw.integers(0, 2, rows))),
            "exemplars": pa.array(np.full(rows, 2, np.int32)),
            "text": text,
            "answer": pa.array([str(n) for n in draw.integers(0, 1000, rows)]),
            "verdict": verdicts.take(pa.array(draw.integers(0, 3, rows))),
            "finish_reason": pa.array(["stop"]).take(pa.array(np.zeros(rows, np.int32))),
            "prompt_tokens": pa.array(draw.integers(40, 400, rows, dtype=np.int32)),
            "completion_tokens": pc.cast(pc.divide(pc.binary_length(text), 4), pa.int32()),
            "logprob": pa.array(-draw.gamma(4.0, 10.0, rows)),
            "seed": pa.array(draw.integers(0, 2**31, rows)),
        }
        return pa.Table.from_arrays([columns[name] for name in ATTEMPTS.names], schema=ATTEMPTS)

    def _joined(self, pieces: pa.Array, rows: int, mean: float, least: int, separator: str) -> pa.Array:
        """Rows of about ``mean`` pieces; early pieces are common and late ones rare, as words are."""
        lengths = np.maximum(self._random.gamma(4.0, mean / 4.0, rows), least).astype(np.int64)
        ends = np.concatenate([[0], np.cumsum(lengths)])
        skewed = self._random.random(int(ends[-1]), dtype=np.float32) ** 3
        chosen = np.minimum((len(pieces) * skewed).astype(np.int32), len(pieces) - 1)
        lists = pa.ListArray.from_arrays(pa.array(ends.astype(np.int32)), pieces.take(pa.array(chosen)))
        return pc.binary_join(lists, separator)


def manifest_of(artifact: str, files: list[FileRecord], kind: str = "attempts") -> Manifest:
    """A manifest with everything that a real one records."""
    return Manifest(
        schema_version=SCHEMA_VERSION,
        kind=kind,
        artifact=artifact,
        digest=artifact_digest(kind, files),
        files=files,
        step=StepRecord(name="sample", version=1, key=KEY, config=_CONFIG),
        inputs=[InputRef(role=role, artifact=f"runs/x/{role}", digest=digest) for role, digest in _INPUTS.items()],
        code=provenance.code(),
        packages=provenance.packages(),
        hardware=provenance.hardware(),
        started="2026-01-01T00:00:00Z",
        finished="2026-01-01T00:00:01Z",
    )


def plain_write(table: pa.Table, file: Path, sync: bool) -> None:
    """What the store writes, written by pyarrow alone."""
    with file.open("wb") as stream:
        pq.write_table(table, stream, compression="zstd", compression_level=3, write_page_checksum=True)
        if sync:
            stream.flush()
            os.fsync(stream.fileno())


class Clock:
    """Seconds per way and round; the first way is the one that the others are compared with."""

    def __init__(self, *ways: str) -> None:
        self.ways = ways
        self.rounds: list[dict[str, float]] = []

    def round(self, **work: Callable[[], object]) -> None:
        """Do the same work in all ways, another one first each time."""
        turn = len(self.rounds) % len(work)
        seconds = {}
        for way in [*list(work)[turn:], *list(work)[:turn]]:
            start = time.perf_counter()
            work[way]()
            seconds[way] = time.perf_counter() - start
        self.rounds.append({name: seconds[way] for name, way in zip(self.ways, work, strict=True)})

    def seconds(self, way: str) -> float:
        """Of all rounds."""
        return sum(one[way] for one in self.rounds)

    def ratio(self, way: str) -> str:
        """Speed of the first way as a multiple of this one's: overall, and the quartiles over the rounds."""
        ratios = sorted(one[way] / one[self.ways[0]] for one in self.rounds)
        low, high = ratios[len(ratios) // 4], ratios[len(ratios) * 3 // 4]
        return f"{self.seconds(way) / self.seconds(self.ways[0]):.2f} ({low:.2f} to {high:.2f})"


def reset_peak() -> None:
    """Begin to note this process's peak memory anew (Linux: proc(5), clear_refs)."""
    pa.default_memory_pool().release_unused()
    Path("/proc/self/clear_refs").write_text("5")


class Memory(NamedTuple):
    """What this process holds, MB."""

    resident: int
    """Now."""
    peak: int
    """The most since ``reset_peak``."""
    arrow: int
    """Of it in Arrow's tables and buffers while a table was in use, at most since ``reset_peak``."""


def memory(arrow: int) -> Memory:
    """See ``Memory`` (Linux: proc(5), status); ``arrow`` in bytes."""
    status = dict(line.split(":", 1) for line in Path("/proc/self/status").read_text().splitlines())
    resident, peak = (int(status[name].split()[0]) * 1024 for name in ("VmRSS", "VmHWM"))
    return Memory(*(round(size / 1e6) for size in (resident, peak, arrow)))


class Scale:
    """One measurement in a folder."""

    def __init__(self, folder: Path, rows: int, parts: int) -> None:
        self.folder, self.parts, self.per_part = folder, parts, rows // parts
        self.store = Store.open(str(folder / "store"))
        self.artifacts = [range(n, min(n + PER_ARTIFACT, parts)) for n in range(0, parts, PER_ARTIFACT)]
        self.memory: list[tuple[str, int, Memory]] = []
        """While what, after how many rows."""
        self.arrow = 0
        """The most bytes that Arrow had allocated while a table was in use."""
        (folder / "plain").mkdir(parents=True)

    def write(self) -> None:
        """Write every part in three ways; one of the plain copies stays, to be read."""
        attempts, clock = Attempts(0), Clock("Store.write_table, commit", "plain", "plain, fsync")
        megabytes = 0.0
        self._reset()
        for k, numbers in enumerate(self.artifacts):
            artifact, files = layout.iteration("scale", k, "attempts"), []
            for n in numbers:
                table, name = attempts.table(self.per_part), layout.part_name(n)
                megabytes += self._size(table) / 1e6
                clock.round(
                    store=lambda: self._write(artifact, name, table, files, len(numbers)),  # noqa: B023
                    plain=lambda: plain_write(table, self.folder / "plain" / name, False),  # noqa: B023
                    synced=lambda: plain_write(table, self.folder / "synced", True),  # noqa: B023
                )
                self.memory.append(("write", (n + 1) * self.per_part, memory(self.arrow)))
        self._report("write", clock, self.parts * self.per_part, megabytes)

    def read(self, repeats: int) -> None:
        """Read every artifact in both ways."""
        clock, megabytes = Clock("Store.iter_tables", "plain"), 0.0
        self._reset()
        for turn in range(repeats):
            for k, numbers in enumerate(self.artifacts):
                manifest = self.store.manifest(layout.iteration("scale", k, "attempts"))
                assert manifest is not None
                sizes: list[int] = []
                clock.round(
                    store=lambda: sizes.extend(map(self._size, self.store.iter_tables(manifest))),  # noqa: B023
                    plain=lambda: self._read_plain(numbers),  # noqa: B023
                )
                megabytes += sum(sizes) / 1e6
                self.memory.append(("read", (turn * self.parts + numbers[-1] + 1) * self.per_part, memory(self.arrow)))
        self._report("read", clock, repeats * self.parts * self.per_part, megabytes)

    def _reset(self) -> None:
        reset_peak()
        self.arrow = 0

    def _size(self, table: pa.Table) -> int:
        """Of a table that is in use, bytes."""
        self.arrow = max(self.arrow, pa.total_allocated_bytes())
        return int(table.nbytes)

    def _write(self, artifact: str, name: str, table: pa.Table, files: list[FileRecord], of: int) -> None:
        files.append(self.store.write_table(artifact, name, table, KEY))
        if len(files) == of:
            self.store.commit(manifest_of(artifact, files))

    def _read_plain(self, numbers: range) -> None:
        for n in numbers:
            pq.read_table(self.folder / "plain" / layout.part_name(n))

    def _report(self, what: str, clock: Clock, rows: int, megabytes: float) -> None:
        for way in clock.ways:
            seconds = clock.seconds(way)
            rates = f"{rows / seconds:,.0f} | {megabytes / seconds:,.0f}"
            print(f"| {what} | {way} | {rates} | {clock.ratio(way) if way != clock.ways[0] else ''} |", flush=True)

    def show_memory(self) -> None:
        """Four of the notes of each kind, the last among them."""
        print("\n| while it | rows | resident MB | at most | of it in Arrow, at most |\n|---|---|---|---|---|")
        for what in ("write", "read"):
            notes = [note for note in self.memory if note[0] == what]
            chosen = [round(share * (len(notes) - 1)) for share in (0.1, 0.25, 0.5, 1.0)]
            for _, rows, held in (notes[n] for n in dict.fromkeys(chosen)):
                print(f"| {what}s | {rows:,} | {held.resident:,} | {held.peak:,} | {held.arrow:,} |")


def main(argv: Sequence[str] | None = None) -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rows", type=int, default=10_000_000)
    parser.add_argument("--parts", type=int, default=100)
    parser.add_argument("--repeats", type=int, default=2, help="how often everything is read in both ways")
    parser.add_argument(
        "--folder", type=Path, default=None, help="where the disk to measure is; the temporary folder by default"
    )
    chosen = parser.parse_args(argv)
    with tempfile.TemporaryDirectory(prefix="fem-scale-", dir=chosen.folder) as folder:
        scale = Scale(Path(folder), chosen.rows, chosen.parts)
        print(
            "| | way | rows/s | MB/s in memory | the store's speed as a multiple of it (quartiles) |\n|---|---|---|---|---|"
        )
        scale.write()
        scale.read(chosen.repeats)
        size = sum(file.stat().st_size for file in Path(folder, "plain").iterdir()) / 1e6
        print(f"\n{chosen.rows:,} rows in {chosen.parts} parts of {size / chosen.parts:.1f} MB on the disk.")
        scale.show_memory()


if __name__ == "__main__":
    main()
