"""What an artifact was made from, and what was made from it: a graph drawn from manifests alone.

Contract: reads manifests and writes nothing. A node is an artifact with the digest that somebody recorded, so a thing
that was used twice is one node, and a path that was used with two digests is two. What does not hold (no manifest,
another digest, a manifest that cannot be read) is a node or an edge that says so; nothing is left out for being broken.
"""

import difflib
import re
from collections.abc import Iterable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from typing import Literal

from fem_core.audit.ledger import Ledger, in_store
from fem_core.errors import FemError
from fem_core.store import layout
from fem_core.store.manifest import Manifest, RunRecord
from fem_core.store.store import Store

State = Literal["here", "source", "missing", "differs", "unreadable"]
Direction = Literal["up", "down"]

REFERS = "refers to"
"""The role of what a fork's artifact refers to."""

_ABSENT = "no manifest"
"""What a ledger says of an artifact that is not there."""

_READERS = 16
"""Manifests read at a time."""

_SHORT = re.compile(r"([^/@]+)@(\d+)(?:/(.+))?")


@dataclass(frozen=True)
class Node:
    """An artifact with the digest that was recorded for it."""

    id: str
    """``<artifact>@<12 hex digits>``."""
    artifact: str
    """Its path in the store; for a source, the name under which it was read."""
    digest: str
    """64 hex digits."""
    state: State
    """``here``: its manifest is there and has this digest. ``source``: it lies outside the store."""
    note: str = ""
    """What does not hold, in words."""
    kind: str | None = None
    """What it is: problems, attempts, checkpoint, …"""
    step: str | None = None
    """The step that made it."""
    step_version: int | None = None
    """Of the step's code."""
    step_key: str | None = None
    """64 hex digits."""
    commit: str | None = None
    """Git commit of the code that made it; None where it was no checkout."""
    dirty: bool | None = None
    """Whether that checkout had changes."""
    config: str | None = None
    """Digest of its run's configuration, 64 hex digits."""
    location: str | None = None
    """Where its files lie, when outside the store."""


@dataclass(frozen=True)
class Edge:
    """``output`` was made from ``input``; both are node ids."""

    input: str
    output: str
    role: str
    """What the input was to the step."""
    note: str = ""
    """What does not hold, in words."""


@dataclass
class Graph:
    """Everything above or below one artifact, in the order in which it was met."""

    store: str
    """The store's URL, without credentials."""
    start: str
    """Id of the node that was asked for."""
    direction: Direction
    nodes: dict[str, Node] = field(default_factory=dict)
    edges: list[Edge] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)
    """What could not be read, and so may be missing from the graph."""
    manifests: dict[str, Manifest] = field(default_factory=dict)
    """Of the nodes that are here, by node id."""

    @property
    def broken(self) -> list[str]:
        """Every sentence about what does not hold."""
        notes = [*(node.note for node in self.nodes.values()), *(edge.note for edge in self.edges), *self.notes]
        return list(dict.fromkeys(note for note in notes if note))


def parse(text: str) -> str:
    """The path of an artifact that a person named: its path, ``demo@3`` (a checkpoint) or ``demo@3/attempts``.

    Raises:
        FemError: it is neither.
    """
    if match := _SHORT.fullmatch(text):
        run, k, kind = match[1], int(match[2]), match[3] or "checkpoint"
        return layout.model(run) if k == 0 and kind == "checkpoint" else layout.iteration(run, k, kind)
    path = text.removesuffix(f"/{layout.MANIFEST}").rstrip("/")
    parts = path.split("/")
    if not in_store(path) or len(parts) < 3 or any(part in ("", ".", "..") for part in parts):
        raise FemError(
            f"{text!r} names no artifact. Give its path, such as runs/demo/iteration=003/attempts, or demo@3 for the "
            "checkpoint of iteration 3 and demo@3/attempts for another artifact of it."
        )
    return path


def find(store: Store, text: str) -> Manifest:
    """The artifact that a person named, as ``parse`` understands it.

    Raises:
        FemError: there is none; the message names what there is.
    """
    artifact = parse(text)
    manifest = store.manifest(artifact)
    if manifest is not None:
        return manifest
    known = _paths(store, [layout.run_of(artifact)])
    if not known:
        runs = ", ".join(_runs(store)) or "none"
        raise FemError(f"There is no artifact {artifact} in {store.url}, nor its run. Runs here: {runs}.")
    near = difflib.get_close_matches(artifact, known, n=3, cutoff=0.0)
    raise FemError(f"There is no artifact {artifact} in {store.url}. Near it are: {', '.join(near)}.")


def up(store: Store, manifest: Manifest) -> Graph:
    """What an artifact was made from, down to the base model and the sources."""
    reader = _Reader(store)
    start = reader.node(manifest.artifact, manifest.digest)
    graph = Graph(store.url, start.id, "up", {start.id: start})
    todo = [start]
    while todo:
        node = todo.pop()
        made = reader.ledger.manifest(node.artifact) if node.state == "here" else None
        if made is None:
            continue
        graph.manifests[node.id] = made
        new = []
        for role, artifact, digest in _links(reader, made):
            child = reader.node(artifact, digest)
            graph.edges.append(Edge(child.id, node.id, role))
            if child.id not in graph.nodes:
                graph.nodes[child.id] = child
                new.append(child)
        todo.extend(reversed(new))
    return graph


def down(store: Store, manifest: Manifest) -> Graph:
    """What was made from an artifact, in all runs of the store. What was made from another version of it is shown, and
    not followed."""
    reader = _Reader(store)
    users: dict[str, list[tuple[str, str, Manifest]]] = {}
    for made in reader.read_all():
        for role, artifact, digest in _links(reader, made):
            users.setdefault(artifact, []).append((role, digest, made))
    start = reader.node(manifest.artifact, manifest.digest)
    graph = Graph(store.url, start.id, "down", {start.id: start}, manifests={start.id: manifest})
    graph.notes = [note for note in reader.ledger.trouble.values() if note != _ABSENT]
    todo, followed = [start], {start.id}
    while todo:
        node = todo.pop()
        new = []
        for role, digest, made in users.get(node.artifact, []):
            child = reader.node(made.artifact, made.digest)
            same = digest == node.digest
            note = "" if same else f"{made.artifact} was made from {digest[:12]}, not from {node.id}"
            graph.edges.append(Edge(node.id, child.id, role, note))
            graph.nodes.setdefault(child.id, child)
            graph.manifests[child.id] = made
            if same and child.id not in followed:
                followed.add(child.id)
                new.append(child)
        todo.extend(reversed(new))
    return graph


class _Reader:
    """The manifests and run records of a store as nodes, each read once."""

    def __init__(self, store: Store) -> None:
        self.ledger = Ledger(store)
        self._store = store
        self._records: dict[str, RunRecord | None] = {}

    def record(self, artifact: str) -> RunRecord | None:
        """The record of the run that an artifact is in; None where it cannot be read."""
        run = layout.run_of(artifact)
        if run not in self._records:
            try:
                self._records[run] = self._store.run(run)
            except FemError:
                self._records[run] = None
        return self._records[run]

    def node(self, artifact: str, digest: str) -> Node:
        """The node of an artifact as somebody recorded it."""
        name = f"{artifact}@{digest[:12]}"
        if not in_store(artifact):
            return Node(name, artifact, digest, "source")
        found = self.ledger.manifest(artifact)
        if found is None:
            trouble = self.ledger.trouble[artifact]
            if trouble != _ABSENT:
                return Node(name, artifact, digest, "unreadable", trouble)
            return Node(name, artifact, digest, "missing", f"{artifact} ({digest[:12]}) is not in the store")
        if found.digest != digest:
            note = f"{artifact} is recorded with {digest[:12]}, and the store holds {found.digest[:12]}"
            return Node(name, artifact, digest, "differs", note)
        record = self.record(artifact)
        return Node(
            name,
            artifact,
            digest,
            "here",
            kind=found.kind,
            step=found.step.name,
            step_version=found.step.version,
            step_key=found.step.key,
            commit=found.code.get("commit"),
            dirty=found.code.get("dirty"),
            config=None if record is None else record.digest,
            location=found.location,
        )

    def read_all(self) -> list[Manifest]:
        """Every manifest of the store that can be read, in path order; read side by side, as it may be far away."""
        with ThreadPoolExecutor(_READERS) as readers:
            found = readers.map(self.ledger.manifest, sorted(_paths(self._store, _runs(self._store))))
            return [manifest for manifest in found if manifest is not None]


def _links(reader: _Reader, made: Manifest) -> list[tuple[str, str, str]]:
    """Role, artifact and digest of what something stands on. What refers to another run's artifact stands on that one,
    and on its inputs only where that one cannot be followed."""
    inputs = [(ref.role, ref.artifact, ref.digest) for ref in made.inputs]
    if made.source is not None:
        whole = reader.node(made.source, made.digest).state == "here"
        return [(REFERS, made.source, made.digest), *([] if whole else inputs)]
    record = reader.record(made.artifact) if made.location is not None else None  # the base model lies in no folder
    if record is not None and record.parent is not None:
        theirs = layout.moved(made.artifact, record.parent["run"])
        if reader.node(theirs, made.digest).state == "here":
            return [(REFERS, theirs, made.digest)]
    return inputs


def _runs(store: Store) -> list[str]:
    return [name for name in store.root.children(layout.RUNS) if not name.startswith(".")]


def _paths(store: Store, runs: Iterable[str]) -> list[str]:
    """The artifacts of runs, whether or not their manifests can be read."""
    end = f"/{layout.MANIFEST}"
    return [
        f"{layout.run_dir(run)}/{path.removesuffix(end)}"
        for run in runs
        for path in store.root.files(layout.run_dir(run))
        if path.endswith(end)
    ]
