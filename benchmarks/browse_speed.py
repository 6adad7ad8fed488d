"""How fast is `fem browse` over a large run: pages, filters, search, one problem through time, fifty readers at once?

``python -m benchmarks.browse_speed [--attempts 10000000] [--iterations 50] [--roots local s3] [--folder DIR]`` writes a run
of that size (four attempts at each problem; texts of about 400 characters that end in an answer line, one in 23 of which
leaks; manifests and part files as the steps write them) to a local store and to a real S3 server on this machine, starts
``fem browse`` over each, and reads pages over HTTP on loopback. Each kind of page is asked for ``--repeats`` times, of
another iteration each time.

"At once" is the first look at an iteration, before its index is made; the other pages are read when all indexes are.
Memory is the server's own (Linux: proc(5), VmHWM). The readers, the server and the S3 server share this machine. It takes
about 1.2 GB of disk per million attempts with both roots, and ends by itself.
"""

import argparse
import contextlib
import http.client
import os
import random
import re
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from itertools import count
from pathlib import Path
from urllib.parse import urlencode, urlsplit

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from benchmarks.run_state import run_record
from benchmarks.store_scale import KEY, Attempts, manifest_of
from deployments.s3 import BUCKET, S3Server
from fem_core.problems.problem import make_problem, to_table
from fem_core.schemas import VERDICTS
from fem_core.store import layout
from fem_core.store.manifest import FileRecord, InputRef, Manifest
from fem_core.store.store import Store

RUN = "large"
EACH = 4
"""Attempts at a problem."""

PER_PART = 2500
"""Problems per part file."""

_GOALS = {"local": (0.3, 2.0), "s3": (1.0, 2.0)}
"""Seconds: a first page, a search."""

_WAIT = 3600.0
"""Seconds within which the indexes must be made."""

Draw = Callable[[random.Random], tuple[str, dict[str, object]]]
"""Draws an address: path and query."""

_SCORES = {"n": 1000, "correct": 500, "accuracy": 0.5, "low": 0.47, "high": 0.53, "majority_baseline": 0.1}
_SCORES |= {"unparsable": 10, "truncated": 10, "verifier_timeout": 0, "mean_tokens": 90.0}
_DRAWN = {"problems_accepted": 1, "prompt_tokens": 1, "completion_tokens": 1}


class Made:
    """A run in one or several stores at once."""

    def __init__(self, stores: Sequence[Store], attempts: int, iterations: int) -> None:
        self._stores = stores
        self._draws = Attempts(0)
        self.iterations = iterations
        self.problems = [f"{n:06d}" for n in range(max(1, attempts // iterations // EACH))]
        self.ids: list[str] = []

    def write(self) -> int:
        """Write it; the number of attempts."""
        record = run_record(RUN, self.iterations)
        config = {**record.config, "sample": {**record.config["sample"], "problems_per_part": PER_PART}}
        for store in self._stores:
            store.create_run(record)
        known = [
            make_problem(f"What becomes of number {n}? {'It is long. ' * 20}", n[-2:], "text") for n in self.problems
        ]
        self.ids = [one.problem_id for one in known]
        train = self._commit(layout.problems(RUN, "train"), [to_table(known)], "problems", {"problems": len(known)})
        rows = 0
        for k in range(1, self.iterations + 1):
            tables = [self._part(start) for start in range(0, len(self.ids), PER_PART)]
            rows += sum(map(len, tables))
            attempts = self._commit(
                layout.iteration(RUN, k, "attempts"), tables, "attempts", _DRAWN | {"draws": rows}, train, config=config
            )
            final = _decided(pa.concat_tables(tables))
            stats = {"verdicts": _counts(final), "utilization": 0.6, "mean_rationale_tokens": 90.0, "accepted": 1}
            stats |= {"problems": len(known), "attempts": len(final), "problems_accepted": 1}
            self._commit(layout.iteration(RUN, k, "verdicts"), [final], "verdicts", stats, train, attempts)
            self._commit(layout.iteration(RUN, k, "rationales"), [], "rationales", stats, train, attempts)
            self._commit(layout.iteration(RUN, k, "scores"), [], "scores", _SCORES)
            print(f"\r{rows:,} attempts written", end="", flush=True, file=sys.stderr)
        print(file=sys.stderr)
        return rows

    def _part(self, start: int) -> pa.Table:
        """The attempts at the problems from ``start`` on."""
        ids = pa.array(self.ids[start : start + PER_PART])
        table = self._draws.table(EACH * len(ids))
        places = pa.array(np.arange(len(table)) // EACH)
        right = pa.array([one[-2:] for one in self.problems[start : start + PER_PART]]).take(places)
        told = pa.array(np.arange(len(table)) % 23 == 0)
        begun = pc.if_else(told, "As the given answer says, ", "")
        text = pc.binary_join_element_wise(begun, table["text"], "\nAnswer: ", right, "")
        for name, values in (("problem_id", ids.take(places)), ("text", text), ("answer", right)):
            table = table.set_column(table.schema.get_field_index(name), table.schema.field(name), values)
        return table

    def _commit(
        self,
        artifact: str,
        tables: list[pa.Table],
        kind: str,
        stats: Mapping[str, object],
        *inputs: Manifest,
        config: dict[str, object] | None = None,
    ) -> Manifest:
        for store in self._stores:
            files: list[FileRecord] = [
                store.write_table(artifact, layout.part_name(n), table, KEY) for n, table in enumerate(tables)
            ]
            made = manifest_of(artifact, files, kind)
            refs = [InputRef(role=one.kind, artifact=one.artifact, digest=one.digest) for one in inputs]
            step = made.step.model_copy(update={"config": config or {}})
            made = store.commit(made.model_copy(update={"stats": stats, "inputs": refs, "step": step}))
        return made


def _decided(attempts: pa.Table) -> pa.Table:
    """What the filter says of them, sorted as it sorts."""
    reason = pc.binary_join_element_wise("answered '", attempts["answer"], "', wanted '", attempts["answer"], "'", "")
    columns = [attempts[name] for name in ("problem_id", "attempt", "prompt_kind", "verdict")]
    table = pa.Table.from_arrays([*columns, reason], schema=VERDICTS)
    return table.sort_by([("problem_id", "ascending"), ("attempt", "ascending")])


def _counts(verdicts: pa.Table) -> dict[str, int]:
    return {one["values"]: one["counts"] for one in pc.value_counts(verdicts["verdict"]).to_pylist()}


class Server:
    """``fem browse`` over a store, with a cache of its own."""

    def __init__(self, url: str, cache: Path, environment: dict[str, str]) -> None:
        self.indexes = cache / "browse"
        self._process = subprocess.Popen(
            [sys.executable, "-m", "flows.cli", "browse", "--store", url, "--port", "0"],
            stdout=subprocess.PIPE,
            text=True,
            env={**os.environ, **environment, "FEM_CACHE": str(cache), "PYTHONUNBUFFERED": "1"},
        )
        assert self._process.stdout is not None
        line = self._process.stdout.readline()
        where = next((word for word in line.split() if word.startswith("http://")), None)
        if where is None:
            raise RuntimeError(f"the server did not start: {line!r}")
        self._port = urlsplit(where).port or 80
        for _ in range(300):  # it says where it will listen before it does
            with contextlib.suppress(ConnectionRefusedError):
                self.get("/static/browse.css")
                return
            time.sleep(0.1)
        raise RuntimeError("the server does not listen")

    def get(self, path: str, **asked: object) -> float:
        """Read a page; seconds until its last byte."""
        connection = http.client.HTTPConnection("127.0.0.1", self._port, timeout=600)
        start = time.perf_counter()
        try:
            connection.request("GET", path + (f"?{urlencode(asked)}" if asked else ""))
            answer = connection.getresponse()
            body = answer.read()
        finally:
            connection.close()
        if answer.status != 200:
            words = " ".join(re.sub(r"<[^>]*>", " ", body.decode(errors="replace")).split())
            raise RuntimeError(f"{path} {asked} is {answer.status}: {words[:600]}")
        return time.perf_counter() - start

    def made(self) -> int:
        """Indexes that are there."""
        return sum(not one.name.startswith(".") for one in self.indexes.glob("*.duckdb"))

    def memory(self) -> tuple[int, int]:
        """Resident now and at most, MiB."""
        status = Path(f"/proc/{self._process.pid}/status").read_text().splitlines()
        held = {line.split(":")[0]: line.split()[1] for line in status if line.startswith(("VmRSS", "VmHWM"))}
        return int(held["VmRSS"]) // 1024, int(held["VmHWM"]) // 1024

    def end(self) -> None:
        """Stop it."""
        self._process.terminate()
        try:
            self._process.wait(30)
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.wait()


def pages(made: Made) -> dict[str, Draw]:
    """Kinds of pages by name: each draws an address."""

    def filtered(**asked: object) -> Draw:
        def draw(dice: random.Random) -> tuple[str, dict[str, object]]:
            k = dice.randint(1, made.iterations)
            chosen = {name: value(dice) if callable(value) else value for name, value in asked.items()}
            return f"/runs/{RUN}/iterations/{k}/attempts", chosen

        return draw

    return {
        "first page": filtered(),
        "verdict": filtered(verdict="accepted"),
        "verdict, page 100": filtered(verdict="accepted", page=100),
        "prompt kind": filtered(prompt_kind="hinted"),
        "label": filtered(label=lambda dice: f"{dice.randrange(100):02d}"),
        "problem": filtered(problem_id=lambda dice: dice.choice(made.ids)),
        "length": filtered(min_length=120, max_length=160),
        "log-probability, least likely first": filtered(max_logprob=-60, sort="logprob"),
        "leak": filtered(min_leak=1),
        "longest first": filtered(sort="-length"),
        "annotation": filtered(annotation="none"),
        "all at once": filtered(verdict="accepted", prompt_kind="hinted", min_length=60, max_leak=0, sort="-logprob"),
        "search: one word": filtered(text=lambda dice: dice.choice(["answer", "the", "ee", "tao"])),
        "search: a word that no text has": filtered(text="qzxqzx"),
        "search: two words in a verdict": filtered(text="answer ton", verdict="accepted"),
        "one problem through time": lambda dice: (f"/runs/{RUN}/problems/{dice.choice(made.ids)}", {}),
        "the run": lambda _: (f"/runs/{RUN}", {}),
        "all runs": lambda _: ("/runs", {}),
    }


def measure(where: str, server: Server, made: Made, repeats: int, readers: int, seconds: float) -> None:
    """Read everything, and print a row for each kind of page."""
    dice, goals = random.Random(0), _GOALS[where]
    everything = pages(made)

    def show(name: str, times: list[float], goal: float | None = None) -> None:
        p50, p95 = np.percentile(times, [50, 95])
        verdict = "" if goal is None else f"{goal * 1000:,.0f} ms: {'met' if p95 < goal else 'missed'}"
        print(
            f"| {where} | {name} | {len(times)} | {p50 * 1000:,.0f} | {p95 * 1000:,.0f} | {max(times) * 1000:,.0f} | {verdict} |",
            flush=True,
        )

    begun = time.perf_counter()
    show("at once: first page of iteration 1", [server.get(f"/runs/{RUN}/iterations/1/attempts", verdict="accepted")])
    show("at once: one problem through time", [server.get(*_address(everything["one problem through time"], dice))])
    wanted = 2 * made.iterations + 1  # attempts and leaks of each iteration, and the problems
    while server.made() < wanted:
        if time.perf_counter() - begun > _WAIT:
            raise RuntimeError(f"only {server.made()} of {wanted} indexes are made")
        time.sleep(0.5)
    took = time.perf_counter() - begun
    size = sum(one.stat().st_size for one in server.indexes.glob("*.duckdb")) / 1e6
    print(f"| {where} | all indexes made, {size:,.0f} MB | {server.made()} | {took:,.1f} s | | | |", flush=True)
    for draw in everything.values():
        server.get(*_address(draw, dice))
    for name, draw in everything.items():
        goal = goals[1] if name.startswith("search") else goals[0]
        show(name, [server.get(*_address(draw, dice)) for _ in range(repeats)], goal)
    ends = time.perf_counter() + seconds
    mixed = [draw for name, draw in everything.items() if not name.startswith("search")]
    for name, kinds in (
        ("pages", mixed),
        ("searches among them, one in five", [*mixed * 2, *_searches(everything) * 2]),
    ):
        ends = time.perf_counter() + seconds
        with ThreadPoolExecutor(readers) as pool:
            parts = list(pool.map(lambda n: list(_until(ends, server, kinds, n)), range(readers)))  # noqa: B023
        times = [one for part in parts for one in part]
        show(f"{readers} readers at once, {len(times) / seconds:,.0f} pages/s: {name}", times)
    now, most = server.memory()
    kept = f"1,024 MiB: {'met' if most < 1024 else 'missed'}"
    print(f"| {where} | the server's memory | | {now:,} MiB at the end | {most:,} MiB at most | | {kept} |", flush=True)


def _address(draw: Draw, dice: random.Random) -> tuple[str]:
    path, asked = draw(dice)
    return (path + (f"?{urlencode(asked)}" if asked else ""),)


def _searches(everything: dict[str, Draw]) -> list[Draw]:
    return [draw for name, draw in everything.items() if name.startswith("search")]


def _until(ends: float, server: Server, kinds: list[Draw], reader: int) -> Iterator[float]:
    """One reader: page after page until the time is over."""
    dice = random.Random(reader)
    for _ in count():
        if time.perf_counter() > ends:
            return
        yield server.get(*_address(dice.choice(kinds), dice))


@contextlib.contextmanager
def _s3(folder: Path) -> Iterator[dict[str, str]]:
    server = S3Server(folder)
    server.start()
    os.environ.update(server.environment)
    try:
        yield server.environment
    finally:
        server.stop()


def main(argv: Sequence[str] | None = None) -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--attempts", type=int, default=10_000_000)
    parser.add_argument("--iterations", type=int, default=50)
    parser.add_argument("--roots", nargs="+", choices=("local", "s3"), default=["local", "s3"])
    parser.add_argument("--repeats", type=int, default=40, help="times that each kind of page is read")
    parser.add_argument("--readers", type=int, default=50)
    parser.add_argument("--seconds", type=float, default=20.0, help="how long they read, twice")
    parser.add_argument("--folder", type=Path, default=None, help="on the disk to use; the temporary folder by default")
    chosen = parser.parse_args(argv)
    with tempfile.TemporaryDirectory(prefix="fem-browse-", dir=chosen.folder) as name:
        folder = Path(name)
        with _s3(folder / "s3") as environment:
            urls = {"local": str(folder / "store"), "s3": f"s3://{BUCKET}/browse"}
            stores = [Store.open(urls[where]) for where in chosen.roots]
            made = Made(stores, chosen.attempts, chosen.iterations)
            start = time.perf_counter()
            rows = made.write()
            print(
                f"{rows:,} attempts in {chosen.iterations} iterations, written in {time.perf_counter() - start:,.0f} s.\n"
            )
            print(
                "| store | page | times | median, ms | p95, ms | slowest, ms | goal for p95 |\n|---|---|---|---|---|---|---|"
            )
            for where in chosen.roots:
                server = Server(urls[where], folder / f"cache-{where}", environment if where == "s3" else {})
                try:
                    measure(where, server, made, chosen.repeats, chosen.readers, chosen.seconds)
                finally:
                    server.end()


if __name__ == "__main__":
    main()
