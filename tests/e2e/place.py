"""A place of its own for a run: a folder with a configuration and a store, the `fem` command in it, and how to watch it."""

import hashlib
import json
import os
import subprocess
import sys
import time
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import psutil
import yaml
from prefect.events.worker import EventsWorker
from prefect.settings import PREFECT_API_URL, temporary_settings

ROOT = Path(__file__).parents[2]
FEM = str(Path(sys.executable).with_name("fem"))


def ask(api: str, path: str, body: dict[str, Any] | None = None) -> Any:
    """POST to the Prefect API."""
    request = urllib.request.Request(
        f"{api}{path}", json.dumps(body or {}).encode(), {"Content-Type": "application/json"}, method="POST"
    )
    with urllib.request.urlopen(request, timeout=30) as answer:
        return json.load(answer)


@contextmanager
def speaking_to(api: str) -> Iterator[None]:
    """Flows of this process are runs of that server, and have told it everything when this ends.

    Prefect's threads for events and logs outlive a flow and keep to the server that they began with. Where that is gone,
    they spend eight seconds on each event of later tests.
    """
    with temporary_settings({PREFECT_API_URL: api}):
        try:
            yield
        finally:
            EventsWorker.drain_all()  # all such threads: they are kept in one place


@dataclass
class Workplace:
    """A folder with a configuration and a store, and the `fem` command in it."""

    folder: Path
    api: str
    """Empty where a run starts a server of its own."""

    @property
    def run_dir(self) -> Path:
        return self.folder / "fem-store" / "runs" / "demo"

    def command(self, *arguments: str) -> tuple[list[str], dict[str, Any]]:
        env = {
            **os.environ,
            **({"PREFECT_API_URL": self.api} if self.api else {}),
            "PREFECT_HOME": str(self.folder / "prefect"),
            "COLUMNS": "200",
        }
        return [FEM, *arguments], {"cwd": self.folder, "env": env, "text": True, "stdin": subprocess.DEVNULL}

    def fem(self, *arguments: str, timeout: float = 400, **changes: Any) -> "subprocess.CompletedProcess[str]":
        command, options = self.command(*arguments)
        return subprocess.run(command, capture_output=True, timeout=timeout, check=False, **(options | changes))

    def start(self, *arguments: str, **changes: Any) -> "subprocess.Popen[str]":
        command, options = self.command(*arguments)
        return subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, **(options | changes))


def workplace(folder: Path, api: str, **changes: Any) -> Workplace:
    """The demo at a size of seconds; ``changes`` by section."""
    config = yaml.safe_load((ROOT / "configs" / "demo.yaml").read_text())
    config.update(iterations=2, store="./fem-store")
    config["problems"].update(train=16, test=12)
    config["sample"].update(max_tokens=40, problems_per_part=4)
    for section, values in changes.items():
        if isinstance(values, dict):
            config.setdefault(section, {}).update(values)
        else:
            config[section] = values
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "demo.yaml").write_text(yaml.safe_dump(config))
    return Workplace(folder, api)


def small(folder: Path, api: str, taught: Path, **changes: Any) -> Workplace:
    """A run of half a minute with a model that draws at once; how long it trains is what ``epochs`` say.

    Args:
        taught: the fixture of that name.
        changes: by section; ``train`` keeps what it does not name.
    """
    config: dict[str, Any] = {
        "iterations": 1,
        "store": "./fem-store",
        "problems": {
            "source": "table",
            "path": str(taught / "letters.jsonl"),
            "answer_kind": "choice",
            "choices": "choices",
            "test": 8,
        },
        "model": {"source": str(taught / "model")},
        "scheme": {"name": "rs", "budget": 3},
        "sample": {
            "max_tokens": 32,
            "problems_per_part": 4,
            "engine": {"dtype": "float32", "kv_cache_gib": 0.5, "max_num_seqs": 1},
        },
        "train": {"batch_size": 4, "micro_batch_size": 4, "precision": "fp32", **changes.pop("train", {})},
        **changes,
    }
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "demo.yaml").write_text(yaml.safe_dump(config))
    return Workplace(folder, api)


def children_of(pid: int, marker: str) -> list[psutil.Process]:
    """Descendants whose command line holds the marker."""
    try:
        family = psutil.Process(pid).children(recursive=True)
    except psutil.NoSuchProcess:
        return []
    found = []
    for process in family:
        try:
            if any(marker in word for word in process.cmdline()):
                found.append(process)
        except psutil.NoSuchProcess:
            continue
    return found


def until(condition: Any, seconds: float, what: str, every: float = 0.05) -> Any:
    """Poll until the condition is true."""
    deadline = time.monotonic() + seconds
    while time.monotonic() < deadline:
        if value := condition():
            return value
        time.sleep(every)
    raise AssertionError(f"{what} did not happen within {seconds} s")


def digests(folder: Path) -> dict[str, str]:
    return {
        str(f.relative_to(folder)): hashlib.sha256(f.read_bytes()).hexdigest() for f in folder.rglob("*") if f.is_file()
    }
