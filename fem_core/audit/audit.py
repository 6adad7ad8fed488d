"""Whether a run is what its records say: every file hashed, every link followed, and what must hold of the data.

Contract: reads a store and writes nothing; collects all findings, upstream first, and covers the artifacts that the run
stands on in other runs of the store. Nothing in the store makes it raise: what cannot be read is a finding.
"""

import re
from collections import Counter
from collections.abc import Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pyarrow as pa

from fem_core import annotations
from fem_core.audit import content, files, links
from fem_core.audit.findings import Audit, Checked, Finding
from fem_core.audit.ledger import Ledger, in_store
from fem_core.audit.rederive import KINDS, NOT_AGAIN, Rederiver
from fem_core.errors import FemError
from fem_core.problems.problem import Problem
from fem_core.problems.verifier import Verifier
from fem_core.schemas import SCHEMA_VERSION
from fem_core.store import layout, provenance
from fem_core.store.manifest import Manifest, RunRecord
from fem_core.store.reading import holder
from fem_core.store.store import Store

_ORDER = (
    *("problems", "model", "estimate", "prompts", "attempts", "verdicts", "rationales", "checkpoint", "predictions"),
    *("scores", "probes", "bound"),
)


def audit(store: Store, run: str, *, deep: bool = False, cache: Path) -> Audit:
    """Audit one run, finished or not.

    Args:
        deep: do the deterministic steps again, too.
        cache: where the packaged base model may be.

    Raises:
        FemError: there is no such run.
    """
    with Verifier() as verifier:
        return _Auditor(store, run, deep, cache, verifier).audit()


class _Auditor:
    """One audit."""

    def __init__(self, store: Store, run: str, deep: bool, cache: Path, verifier: Verifier) -> None:
        self._store, self._run, self._deep, self._cache = store, run, deep, cache
        self._ledger = Ledger(store)
        self._rederiver = Rederiver(self._ledger, verifier, cache)
        self._top = layout.run_dir(run)
        self._configs: dict[str, dict[str, Any]] = {}
        self._derived: set[tuple[str, str]] = set()

    def audit(self) -> Audit:
        """See ``audit``."""
        listing = self._store.root.files(self._top)
        if not listing:
            known = ", ".join(record.name for record in self._store.runs()) or "none"
            raise FemError(f"There is no run {self._run!r} in {self._store.url}. Runs here: {known}.")
        folders = [path.rpartition("/")[0] for path in listing if path.endswith(f"/{layout.MANIFEST}")]
        own = [f"{self._top}/{folder}" for folder in folders if _PLACE.fullmatch(folder)]
        with ThreadPoolExecutor(files.READERS) as readers:
            list(readers.map(self._ledger.manifest, own))
        everything = sorted(self._ledger.upstream(own), key=self._order)
        manifests = {artifact: self._ledger.manifest(artifact) for artifact in everything}
        readable = {artifact: manifest for artifact, manifest in manifests.items() if manifest is not None}
        record, general = self._record()
        missing, gaps = _expected(record, self._top, set(own))
        general += [Finding("broken", gap, None, "artifact", "what was made after it is there", "none") for gap in gaps]
        general += _strays(self._top, listing, own, readable)
        self._read_configs(readable.values())
        contents = files.read_all(self._store.root, list(readable.values()), self._cache, pages=self._deep)
        test, hidden = self._test_problems(readable, set(own))
        # What people say of another run's draws keeps some of this run's out; the weights learn nothing else from there.
        taught = set(self._ledger.upstream(own, but=annotations.KIND))
        rows = []
        for artifact, manifest in manifests.items():
            if self._replaced(artifact):
                continue
            if manifest is None:
                if artifact in own:
                    rows.append(_unreadable(artifact, self._ledger.trouble[artifact]))
                continue
            found = [
                *files.check(self._store.root, manifest, contents, self._cache),
                *links.check(self._ledger, manifest, artifact, self._configs),
                *self._content(manifest, test if artifact in taught else {}),
                *(hidden if manifest.kind == "rationales" and artifact in taught else ()),
            ]
            derived = self._deep and self._fresh(manifest)
            if derived:
                again = _safely(self._rederiver.check(manifest), artifact, NOT_AGAIN)
                derived = not any(finding.what.startswith(NOT_AGAIN) for finding in again)
                found += again
            rows.append(_row(artifact, manifest, derived, found))
        general += _external(readable.values())
        general += _versions(self._ledger, readable.values())
        return Audit(self._run, self._store.url, self._deep, tuple(rows), tuple(general), tuple(missing))

    def _record(self) -> tuple[RunRecord | None, list[Finding]]:
        try:
            record = self._store.run(self._run)
        except FemError as error:
            return None, [Finding("broken", self._top, "run.json", "record of the run", "one", str(error))]
        if record is None:
            return None, [Finding("broken", self._top, "run.json", "record of the run", "one", "none")]
        self._configs[self._run] = record.config
        return record, list(links.check_run(self._ledger, self._run, record))

    def _read_configs(self, manifests: Iterable[Manifest]) -> None:
        """The configurations of the other runs that hold files."""
        for name in {links.run_of(holder(manifest)) for manifest in manifests} - {"", self._run}:
            try:
                record = self._store.run(name)
            except FemError:
                continue  # the run has an audit of its own; here its artifacts are checked, by digest
            if record is not None:
                self._configs[name] = record.config

    def _test_problems(
        self, manifests: dict[str, Manifest], own: set[str]
    ) -> tuple[dict[str, Problem], tuple[Finding, ...]]:
        """What the run is tested on, by id; a finding for each training set where that cannot be read."""
        sets = [layout.problems(self._run, "test")]
        for artifact in own & manifests.keys():
            if manifests[artifact].kind == "predictions":
                sets += [ref.artifact for ref in manifests[artifact].inputs if ref.role == "problems"]
        test: dict[str, Problem] = {}
        for artifact in dict.fromkeys(sets):
            manifest = self._ledger.manifest(artifact)
            try:
                test |= {} if manifest is None else self._ledger.problems(manifest)
            except (FemError, *_UNREADABLE):
                what = "training data not compared with the test problems, which cannot be read"
                return test, (Finding("unchecked", artifact, None, what),)
        return test, ()

    def _content(self, manifest: Manifest, test: dict[str, Problem]) -> Iterator[Finding]:
        yield from _safely(content.check(self._ledger, manifest, test), manifest.artifact, "content not compared")
        if manifest.artifact == layout.problems(self._run, "train"):
            split = content.check_split(self._ledger, manifest, test)
            yield from _safely(split, manifest.artifact, "not compared with the test problems")

    def _replaced(self, artifact: str) -> bool:
        """Whether it is a state of the trainer that the run, which trains, has removed since it was listed.

        A run removes the manifest first, so a state with a manifest still has to have its files.
        """
        state = _STATE.fullmatch(artifact) is not None
        return state and self._store.root.size(f"{artifact}/{layout.MANIFEST}") is None

    def _fresh(self, manifest: Manifest) -> bool:
        """Whether it can be derived again and was not yet: a fork's artifact is its parent's."""
        same = (manifest.step.key, manifest.digest)
        if manifest.kind not in KINDS or same in self._derived:
            return False
        self._derived.add(same)
        return True

    def _order(self, artifact: str) -> tuple[Any, ...]:
        """Upstream first: earlier runs, then by iteration, then in the order of the steps."""
        iteration = re.search(r"/iteration=(\d+)/", artifact)
        kind = artifact.removeprefix(f"{self._top}/").rpartition("iteration=")[2].split("/")
        name = next((part.removesuffix("-exemplars") for part in kind if part.removesuffix("-exemplars") in _ORDER), "")
        rank = _ORDER.index(name) if name else len(_ORDER)
        late = 1 << 30 if rank == len(_ORDER) else -1
        return artifact.startswith(f"{self._top}/"), int(iteration[1]) if iteration else late, rank, artifact


_PLACE = re.compile(r"[^/]+(/[^/]+)?|iteration=\d+/trainer/[^/]+")
"""Where artifacts lie in a run; a manifest deeper in one belongs to nothing."""

_STATE = re.compile(rf"{layout.RUNS}/[^/]+/iteration=\d+/trainer/[^/]+")
"""Where the states of a trainer lie, the one kind of artifact that a run itself removes."""

_UNREADABLE = (KeyError, ValueError, TypeError, AttributeError, OSError, pa.ArrowException)
"""What tables raise that are not of the form that their kind has."""


def _safely(findings: Iterator[Finding], artifact: str, what: str) -> list[Finding]:
    """The findings until the end, or until a file does not hold (it is named where it lies) or has another form."""
    found: list[Finding] = []
    try:
        for finding in findings:
            found.append(finding)
    except FemError as error:
        found.append(Finding("unchecked", artifact, None, what, found=str(error)))
    except _UNREADABLE as error:
        reason = f"{type(error).__name__}: {' '.join(str(error).split())[:160]}"
        found.append(Finding("broken", artifact, None, what, "tables of its kind", reason))
    return found


def _expected(record: RunRecord | None, top: str, there: set[str]) -> tuple[list[str], list[str]]:
    """What a run has still to make, and what is missing though later things are there.

    A fork has its parent's checkpoints before its own scores, so nothing counts as later there.
    """
    try:
        stages = [] if record is None else _stages(record.config, top)
    except (KeyError, TypeError, ValueError):
        stages = []  # the record was changed, which its digest tells
    absent = [[path for path in stage if path not in there] for stage in stages]
    if record is None or record.parent is not None:
        return [path for stage in absent for path in stage], []
    last = max((i for i, stage in enumerate(stages) if there & set(stage)), default=0)
    if f"{top}/report" in there:
        last = len(stages)
    return [path for stage in absent[last:] for path in stage], [path for stage in absent[:last] for path in stage]


def _stages(config: dict[str, Any], top: str) -> list[list[str]]:
    """All artifacts of a run, in groups each of which is complete before the next begins."""
    stages = [[f"{top}/{name}" for name in ("problems/train", "problems/test", "model", "prompts")]]
    scored = [f"{top}/iteration=000/{kind}" for kind in ("predictions", "scores")]
    shown = config["prompts"]
    if config["evaluate"]["exemplar_baseline"] and shown["sample_exemplars"] != shown["train_exemplars"]:
        scored += [f"{path}-exemplars" for path in scored]
    bounded = ["probes", "bound"] if config["evaluate"].get("bound") else []
    scored += [f"{top}/iteration=000/{kind}" for kind in bounded]
    for k in range(1, int(config["iterations"]) + 1):
        folder = f"{top}/iteration={k:03d}"
        stages.append([*scored, *(f"{folder}/{kind}" for kind in ("attempts", "verdicts", "rationales"))])
        stages.append([f"{folder}/checkpoint"])
        scored = [f"{folder}/{kind}" for kind in ("predictions", "scores", *bounded)]
    return [*stages, scored]


def _strays(top: str, listing: Iterable[str], own: list[str], manifests: dict[str, Manifest]) -> list[Finding]:
    """Files of the run that no manifest lists."""
    known = {f"{top}/run.json", layout.deleted_json(layout.run_of(top))}
    for artifact in own:
        known |= {f"{artifact}/{layout.MANIFEST}", f"{artifact}/{layout.COLLECTED}"}
        if artifact in manifests and manifests[artifact].source is None and manifests[artifact].location is None:
            known |= {f"{artifact}/{record.path}" for record in manifests[artifact].files}
    found = []
    for path in (f"{top}/{name}" for name in listing):
        if path in known:
            continue
        artifact = next((one for one in own if path.startswith(f"{one}/")), "")
        if not artifact:
            folder, _, name = path.rpartition("/")
            found.append(Finding("note", folder, name, "a file of no committed artifact"))
        elif artifact in manifests:
            found.append(
                Finding("note", artifact, path.removeprefix(f"{artifact}/"), "a file that its manifest does not list")
            )
    return found


def _external(manifests: Iterable[Manifest]) -> list[Finding]:
    """What was read from outside the store: it has no producer here, so its digest is all there is."""
    sources = {
        (manifest.artifact, ref.role, ref.artifact, ref.digest)
        for manifest in manifests
        for ref in manifest.inputs
        if not in_store(ref.artifact)
    }
    return [
        Finding("note", artifact, None, f"external input {role} ({name}), which has no producer here", digest)
        for artifact, role, name, digest in sorted(sources)
    ]


def _versions(ledger: Ledger, manifests: Iterable[Manifest]) -> list[Finding]:
    """Other code and older records than this program's: worth knowing, nothing broken."""
    here, found = provenance.code(), []
    made = Counter(
        (manifest.artifact.split("/")[1], str(manifest.code.get("version")), str(manifest.code.get("commit"))[:12])
        for manifest in manifests
    )
    for (run, version, commit), count in made.items():
        if (version, commit) != (str(here["version"]), str(here["commit"])[:12]):
            what = f"{count} artifacts were made by other code"
            now = f"version {here['version']}, commit {str(here['commit'])[:12]} here"
            found.append(
                Finding("note", f"{layout.RUNS}/{run}", None, what, f"version {version}, commit {commit}", now)
            )
    old = Counter(version for version in ledger.versions.values() if version != SCHEMA_VERSION)
    for schema, count in old.items():
        what = f"{count} manifests have schema version {schema}, and this program writes {SCHEMA_VERSION}"
        found.append(Finding("note", ledger.store.url, None, what))
    return found


def _row(artifact: str, manifest: Manifest, derived: bool, findings: list[Finding]) -> Checked:
    rows = [record.rows for record in manifest.files if record.rows is not None]
    inside = sum(in_store(ref.artifact) for ref in manifest.inputs)
    return Checked(
        artifact=artifact,
        kind=manifest.kind,
        files=len(manifest.files),
        bytes=sum(record.bytes for record in manifest.files),
        rows=sum(rows) if rows else None,
        inputs=inside,
        external=len(manifest.inputs) - inside,
        rederived=derived,
        findings=tuple(findings),
    )


def _unreadable(artifact: str, why: str) -> Checked:
    finding = Finding("broken", artifact, layout.MANIFEST, "manifest", "one that can be read", why)
    return Checked(artifact, "?", 0, 0, None, 0, 0, False, (finding,))
