"""Kills a run with -9, everywhere and again and again, and looks whether anything is lost: the table of docs/store.md.

``python benchmarks/crash_matrix.py [--kills 100] [--store local|s3|both] [--seed 0]`` runs real engines and trainers on
a model of a few hundred kilobytes. First one run without a kill. Then runs that are killed (the flow, the engine host,
the trainer, the S3 server, at named points of the store's protocol and at random times) and started again with
``fem resume`` until they are finished. After every kill: no committed file is gone or changed, and no file that a
manifest names is missing. At the end of each run: no attempt is there twice, ``fem audit --deep`` is green, and the
run's problems, draws, verdicts, rationales, weights and scores are the undisturbed run's. Prints a Markdown row per
kind of kill; exits 1 at the first thing that does not hold.
"""

import argparse
import hashlib
import os
import random
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections import Counter
from dataclasses import dataclass, field
from pathlib import Path

import psutil
import yaml

from benchmarks.crash.sitecustomize import POINTS
from benchmarks.tiny_model import answering_llama, letters
from deployments.s3 import BUCKET, S3Server
from fem_core.digest import digest
from fem_core.model import default_cache
from fem_core.packaged_model import packaged_model
from fem_core.store import layout
from fem_core.store.store import Store

ROOT = Path(__file__).resolve().parents[1]
FEM = str(Path(sys.executable).with_name("fem"))
KINDS = (*POINTS, "flow", "engine", "trainer", "server")
"""What is killed: at a named point, or at a random time."""
TABLES = ("attempts", "verdicts", "rationales", "predictions")
"""Kinds compared row by row: their files also name the step key. Without the log-probabilities, whose last bits depend on
what else was in the batch; the texts do not, as this engine computes in float32."""
WHOLE = ("problems", "model", "prompts", "scores")
"""Kinds compared by digest; of checkpoints the weights are."""
RUN_SECONDS = 600.0


@dataclass
class Place:
    """A folder with a configuration, a model, a Prefect home and a store."""

    folder: Path
    url: str
    server: S3Server | None
    outage: float = 2.0
    """Seconds that a killed server stays away."""
    environment: dict[str, str] = field(default_factory=dict)

    def start(self, *arguments: str, crash: str | None = None) -> "subprocess.Popen[bytes]":
        """`fem` in a process group of its own, its output in a file."""
        env = {**os.environ, **self.environment, "PYTHONPATH": str(ROOT)}
        if crash is not None:
            mark = self.folder / "mark"
            for file in (mark, mark.with_name("mark.tally")):
                file.unlink(missing_ok=True)
            env |= {"FEM_CRASH": crash, "FEM_CRASH_MARK": str(mark)}
            env["PYTHONPATH"] = f"{ROOT / 'benchmarks' / 'crash'}{os.pathsep}{ROOT}"
        with (self.folder / "output.txt").open("ab") as log:
            return subprocess.Popen(
                [FEM, *arguments], cwd=self.folder, env=env, stdin=subprocess.DEVNULL, stdout=log, stderr=log
            )

    def said(self) -> str:
        """The end of what the commands said."""
        return (self.folder / "output.txt").read_text(errors="replace")[-3000:]

    @property
    def store(self) -> Store:
        """The store, for looking."""
        return Store.open(self.url, check=False, patience=60)


class Lost(AssertionError):
    """Something that must hold does not."""


def prepare(folder: Path, kind: str, iterations: int) -> Place:
    """Model, problems and configuration; an S3 server where asked."""
    folder.mkdir(parents=True)
    server = None
    environment = {
        "PREFECT_HOME": str(folder / "prefect"),
        "PREFECT_SERVER_ANALYTICS_ENABLED": "false",
        "DO_NOT_TRACK": "1",
        "FEM_CACHE": str(folder / "cache"),
    }
    url = str(folder / "store")
    if kind == "s3":
        server = S3Server(folder / "s3")
        server.start()
        environment |= server.environment
        os.environ.update(server.environment)
        url = f"s3://{BUCKET}/crash"
    questions = letters(folder, 40)
    model = folder.parent / "model"
    if not model.is_dir():
        answering_llama(packaged_model(default_cache()), model, questions)
    config = {
        "iterations": iterations,
        "store": url,
        "problems": {
            "source": "table",
            "path": "letters.jsonl",
            "answer_kind": "choice",
            "choices": "choices",
            "test": 8,
        },
        "model": {"source": str(model)},
        "scheme": {"name": "rs", "budget": 3},
        "sample": {"max_tokens": 32, "problems_per_part": 4, "engine": {"dtype": "float32", "kv_cache_gib": 0.5}},
        "train": {"epochs": 2, "batch_size": 4, "micro_batch_size": 4, "precision": "fp32", "save_minutes": 0.01},
    }
    (folder / "crash.yaml").write_text(yaml.safe_dump(config))
    return Place(folder, url, server, environment=environment)


def committed(place: Place) -> dict[str, str]:
    """Every file that counts, with its digest: run.json, manifests, and what manifests and parts hold."""
    store = place.store
    found = {}
    for record in store.runs():
        top = layout.run_dir(record.name)
        for path, size in store.root.files(top).items():
            if path.startswith("lease/") or "/trainer/" in path:
                continue  # these come and go
            if path.endswith((".json", ".parquet")):
                found[f"{top}/{path}"] = hashlib.sha256(store.root.read(f"{top}/{path}")).hexdigest()
            else:
                found[f"{top}/{path}"] = f"{size} bytes"
    return found


def kept(before: dict[str, str], after: dict[str, str], vouched: set[str]) -> None:
    """Nothing that was committed is gone or changed.

    Args:
        vouched: files that a manifest named before; the others may be replaced by a later try, parts excepted.
    """
    for path, was in before.items():
        part = "/attempts/part-" in path or "/predictions/part-" in path
        if (path in vouched or part or path.endswith("run.json")) and after.get(path) != was:
            raise Lost(f"{path} was {was[:12]} and is {str(after.get(path))[:12]}")


def vouched(place: Place) -> set[str]:
    """Manifests and the files that they name."""
    found = set()
    for record in place.store.runs():
        for manifest in place.store.artifacts(record.name):
            found.add(f"{manifest.artifact}/{layout.MANIFEST}")
            if manifest.location is None:
                found |= {f"{manifest.artifact}/{file.path}" for file in manifest.files}
    return found


def whole(place: Place, run: str, reference: dict[str, str] | None) -> dict[str, str]:
    """A finished run: nothing twice, audit green, as the undisturbed run. Its digests by artifact."""
    store = place.store
    digests = {}
    for manifest in store.artifacts(run):
        kind, name = manifest.kind, manifest.artifact.split("/", 2)[2]
        if kind in WHOLE:
            digests[name] = manifest.digest
        elif kind in TABLES:
            digests[name] = digest([row | {"logprob": None} for row in store.read_table(manifest).to_pylist()])
        elif kind == "checkpoint":
            digests[name] = next(file.sha256 for file in manifest.files if file.path == "model.safetensors")
        if kind in ("attempts", "predictions"):
            rows = Counter(
                (row["problem_id"], row["attempt"])
                for table in store.iter_tables(manifest, ["problem_id", "attempt"])
                for row in table.to_pylist()
            )
            twice = [key for key, count in rows.items() if count > 1]
            if twice:
                raise Lost(f"{manifest.artifact} has attempt {twice[0]} twice")
    audit = place.start("audit", run, "--deep", "--store", place.url)
    if audit.wait(RUN_SECONDS) != 0:
        raise Lost(f"the audit of {run} is not green: {place.said()}")
    if reference is not None and digests != reference:
        other = [name for name in sorted(reference) if digests.get(name) != reference[name]]
        raise Lost(f"{run} differs from the undisturbed run in {', '.join(other)}")
    return digests


def family(process: "subprocess.Popen[bytes]", marker: str) -> list[psutil.Process]:
    """Descendants whose command line holds the marker."""
    found = []
    try:
        for child in psutil.Process(process.pid).children(recursive=True):
            try:
                if any(marker in word for word in child.cmdline()):
                    found.append(child)
            except psutil.NoSuchProcess:
                continue
    except psutil.NoSuchProcess:
        return []
    return found


def clean(process: "subprocess.Popen[bytes]", others: list[psutil.Process]) -> None:
    """End what a killed flow has left: Prefect's temporary server outlives its parent, by its design."""
    process.wait()
    for other in others:
        try:
            if other.is_running() and "uvicorn" in " ".join(other.cmdline()):
                other.kill()
        except psutil.NoSuchProcess:
            continue


def kill_once(place: Place, run: str, kind: str, chance: random.Random, spread: float) -> bool:
    """Start or continue the run and kill as ``kind`` says. Whether the kill came before the end."""
    exists = place.store.run(run) is not None
    begin = ["resume", run] if exists else ["run", "crash.yaml", "--run", run]
    arguments = [*begin, "--store", place.url]
    if kind in POINTS:
        count = 1 if kind == "before-run" else chance.randint(1, 6)
        process = place.start(*arguments, crash=f"{kind}:{count}")
    else:
        process = place.start(*arguments)
    deadline = time.monotonic() + RUN_SECONDS
    strike = time.monotonic() + chance.uniform(0.1, 0.6) * spread
    struck = False
    others: list[psutil.Process] = []
    while process.poll() is None:
        if time.monotonic() > deadline:
            process.kill()
            raise Lost(f"{run} did not end within {RUN_SECONDS:.0f} s: {place.said()}")
        others = family(process, "") or others
        if not struck and kind not in POINTS:
            struck = _strike(place, process, kind, time.monotonic() >= strike)
        time.sleep(0.05)
    clean(process, others)
    return (place.folder / "mark").exists() if kind in POINTS else struck


def _strike(place: Place, process: "subprocess.Popen[bytes]", kind: str, now: bool) -> bool:
    """Kill, when the time has come and the victim is there."""
    if kind == "flow" and now:
        process.send_signal(signal.SIGKILL)
        return True
    if kind == "server" and now and place.server is not None:
        place.server.kill()
        time.sleep(place.outage)
        place.server.start()
        return True
    marker = {"engine": "fem_core.sample.host", "trainer": "fem_core.train.sft"}.get(kind)
    victims = family(process, marker) if marker and now else []
    for victim in victims:
        try:
            victim.kill()
        except psutil.NoSuchProcess:
            continue
    return bool(victims)


def finish(place: Place, run: str) -> None:
    """Continue until the run is finished."""
    exists = place.store.run(run) is not None
    begin = ["resume", run] if exists else ["run", "crash.yaml", "--run", run]
    process = place.start(*begin, "--store", place.url)
    if process.wait(RUN_SECONDS) != 0:
        raise Lost(f"{run} does not go on: {place.said()}")


def matrix(place: Place, kills: int, chance: random.Random, wanted: list[str], per_run: int = 4) -> Counter[str]:
    """Kill so often, over as many runs as that takes; how often each kind came to its kill."""
    began = time.monotonic()
    finish(place, "undisturbed")
    spread = time.monotonic() - began
    reference = whole(place, "undisturbed", None)
    print(f"undisturbed: {spread:.0f} s, {len(reference)} artifacts compared", file=sys.stderr, flush=True)
    done: Counter[str] = Counter()
    kinds = [kind for kind in wanted if kind != "server" or place.server is not None]
    number = 0
    while done.total() < kills:
        number += 1
        run = f"killed-{number}"
        for _ in range(per_run):
            kind = min(kinds, key=lambda kind: (done[kind], chance.random()))
            before, named = committed(place), vouched(place)
            came = kill_once(place, run, kind, chance, spread)
            kept(before, committed(place), named)
            done[kind] += came
            print(
                f"{run}: {kind} {'killed' if came else 'not reached'}, {done.total()} kills",
                file=sys.stderr,
                flush=True,
            )
            if done.total() >= kills or place.store.manifest(layout.report(run)) is not None:
                break  # a killed engine or trainer is started again by the same run, which may be finished now
        before, named = committed(place), vouched(place)
        finish(place, run)
        kept(before, committed(place), named)
        whole(place, run, reference)
    return done


def main(arguments: list[str] | None = None) -> None:
    """Run the matrix and print its table."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--kills", type=int, default=100)
    parser.add_argument("--store", choices=["local", "s3", "both"], default="both")
    parser.add_argument("--iterations", type=int, default=2)
    parser.add_argument("--kinds", nargs="+", choices=KINDS, default=list(KINDS))
    parser.add_argument("--outage", type=float, default=2.0, help="seconds that a killed S3 server stays away")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--keep", type=Path, help="work here and leave everything there; a temporary folder by default")
    chosen = parser.parse_args(arguments)
    stores = ["local", "s3"] if chosen.store == "both" else [chosen.store]
    folder = chosen.keep or Path(tempfile.mkdtemp(prefix="fem-crash-"))
    print("| store | killed | kills | lost or changed | audit | as the undisturbed run |\n|---|---|---|---|---|---|")
    for kind in stores:
        place = prepare(folder / kind, kind, chosen.iterations)
        place.outage = chosen.outage
        try:
            done = matrix(place, -(-chosen.kills // len(stores)), random.Random(chosen.seed), chosen.kinds)
        except Lost as error:
            print(f"{kind}: {error}\nEverything is in {folder}.", file=sys.stderr)
            raise SystemExit(1) from error
        finally:
            if place.server is not None:
                place.server.stop()
        for name in KINDS:
            if done[name]:
                print(f"| {kind} | {name} | {done[name]} | 0 | green | equal |", flush=True)
    if chosen.keep is None:
        shutil.rmtree(folder)


if __name__ == "__main__":
    main()
