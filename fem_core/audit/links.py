"""What a manifest says of its step: the key, the configuration, the inputs and their producers, the figures.

Contract: looks at records alone, none of the data. A manifest that was edited by hand disagrees with one of: its step
key, the run's configuration, its producers, the artifact that a fork refers to, or its own files.
"""

import json
import re
from collections.abc import Iterator
from typing import Any

from fem_core.audit.findings import Finding
from fem_core.audit.ledger import Ledger, in_store
from fem_core.digest import digest, step_key
from fem_core.errors import FemError
from fem_core.sample.given import given_by
from fem_core.schemas import SCHEMA_VERSION
from fem_core.store import fork, layout
from fem_core.store.diff import differences
from fem_core.store.manifest import InputRef, Manifest, RunRecord
from fem_core.store.reading import holder

_ROLES: dict[str, dict[str, tuple[str, ...]]] = {
    "prompts": {"train": ("problems",), "test": ("problems",), "model": ("model",)},
    "estimate": {"train": ("problems",), "test": ("problems",), "model": ("model",)},
    "attempts": {"problems": ("problems",), "checkpoint": ("checkpoint", "model")},
    "verdicts": {"problems": ("problems",), "attempts": ("attempts",)},
    "rationales": {"problems": ("problems",), "attempts": ("attempts",)},
    "checkpoint": {"rationales": ("rationales",), "start": ("checkpoint", "model")},
    "predictions": {"problems": ("problems",), "checkpoint": ("checkpoint", "model")},
    "scores": {"train_problems": ("problems",), "problems": ("problems",), "predictions": ("predictions",)},
    "probes": {"problems": ("problems",), "checkpoint": ("checkpoint", "model")},
    "bound": {"problems": ("problems",), "probes": ("probes",)},
}
"""The inputs that each kind of artifact must have, and of what kinds they are."""

_ROWS = {"problems": "problems", "attempts": "draws", "predictions": "draws", "probes": "draws", "verdicts": "attempts"}
"""The figure that counts the rows of an artifact's tables, by kind."""


def check_run(ledger: Ledger, name: str, record: RunRecord) -> Iterator[Finding]:
    """What of a run's record does not hold."""
    place = layout.run_dir(name)

    def broken(what: str, recorded: object, found: object) -> Finding:
        return Finding("broken", place, "run.json", what, str(recorded), str(found))

    if record.name != name:
        yield broken("name", record.name, name)
    actual = digest(record.config)
    if actual != record.digest:
        yield broken("digest of the configuration", record.digest, actual)
    if record.parent is None:
        return
    try:
        parent = fork.Parent(**record.parent)
        theirs = ledger.store.run(parent.run)
    except (TypeError, FemError) as error:
        yield broken("parent", digest(record.parent)[:12], error)
        return
    if theirs is None or theirs.digest != parent.config:
        yield broken(f"configuration of the parent {parent.run}", parent.config, theirs and theirs.digest)
    if parent.iteration:
        own = ledger.manifest(layout.iteration(name, parent.iteration, "checkpoint"))
        if own is not None and own.digest != parent.checkpoint:
            yield broken(f"checkpoint {parent.run}@{parent.iteration}", parent.checkpoint, own.digest)


def check(ledger: Ledger, manifest: Manifest, place: str, configs: dict[str, dict[str, Any]]) -> Iterator[Finding]:
    """What of a manifest does not hold.

    Args:
        place: the artifact in whose folder it lies.
        configs: configuration of each run, by name.
    """

    def broken(what: str, recorded: object, found: object) -> Finding:
        return Finding("broken", place, layout.MANIFEST, what, str(recorded), str(found))

    version = ledger.versions[place]
    if not 1 <= version <= SCHEMA_VERSION:
        yield broken("schema version", version, f"1 to {SCHEMA_VERSION} here")
    if manifest.artifact != place:
        yield broken("artifact", manifest.artifact, place)
    step = manifest.step
    try:
        key = step_key(step.name, step.version, step.config, {ref.role: ref.digest for ref in manifest.inputs})
    except TypeError as error:
        key = str(error)
    if key != step.key:
        yield broken("step key", step.key, key)
    made_by = configs.get(run_of(holder(manifest)), {})
    shared = {name: value for name, value in step.config.items() if name in made_by}
    for line in differences({name: made_by[name] for name in shared}, shared):
        yield broken("step configuration, in run.json and here", "", line)
    if "plain_prompt" in step.config and "prompts" in made_by:
        for line in _plain_prompt_differences(made_by["prompts"], step.config["plain_prompt"]):
            yield broken("plain prompt, in run.json and here", "", line)
    found = re.search(r"/iteration=(\d+)/", place)
    if found and step.config.get("iteration", int(found[1])) != int(found[1]):
        yield broken("iteration", step.config["iteration"], int(found[1]))
    yield from _inputs(ledger, manifest, place)
    if manifest.source is not None:
        yield from _reference(ledger, manifest, place)
    rows = sum(record.rows or 0 for record in manifest.files)
    figure = "accepted" if manifest.kind == "rationales" else _ROWS.get(manifest.kind)
    if figure is not None:
        counted = manifest.stats.get(figure, rows)
        if figure == "draws" and given_by(step.config) is not None:
            figure, counted = "given", manifest.stats.get("given", rows)
        if counted != rows:
            yield broken(f"stats.{figure}", counted, f"{rows} rows")
    rationales = ledger.producer(manifest, "rationales")
    if manifest.kind == "checkpoint" and rationales is not None:
        trained = sum(record.rows or 0 for record in rationales.files)
        if manifest.stats.get("rationales", trained) != trained:
            yield broken("stats.rationales", manifest.stats["rationales"], f"{trained} rows in {rationales.artifact}")


def _plain_prompt_differences(prompts: dict[str, Any], asked: Any) -> list[str]:
    """How a plain prompt that shows some of the exemplars differs from the run's own."""
    shown = asked.get("exemplars") if isinstance(asked, dict) else None
    count = len(shown) if isinstance(shown, list) else 0
    own = {name: prompts.get(name) for name in ("system", "plain")}
    return differences({**own, "exemplars": prompts.get("exemplars", [])[:count]}, asked)


def run_of(artifact: str) -> str:
    """The run that an artifact is in; "" for what is no path of one."""
    return layout.run_of(artifact) if in_store(artifact) else ""


def _inputs(ledger: Ledger, manifest: Manifest, place: str) -> Iterator[Finding]:
    roles = {ref.role: ref for ref in manifest.inputs}
    for role, kinds in _ROLES.get(manifest.kind, {}).items():
        if role not in roles and not (role == "checkpoint" and given_by(manifest.step.config) is not None):
            yield Finding("broken", place, layout.MANIFEST, f"input {role}", f"an input of kind {kinds[0]}", "none")
    filters = manifest.step.config.get("filter")
    said = filters.get("annotations") if isinstance(filters, dict) and manifest.step.name == "filter" else None
    there = roles.get("annotations")
    if (there is None) != (said is None) or (there is not None and _version(there.artifact) != said):
        found = "none" if there is None else there.artifact
        yield Finding("broken", place, layout.MANIFEST, "input annotations", str(said), found)
    for ref in manifest.inputs:
        if in_store(ref.artifact):
            yield from _input(ledger, manifest, place, ref)


def _version(artifact: str) -> str:
    """``runs/demo/annotations/0000012`` as ``filter.annotations`` names it: ``demo@12``."""
    found = re.fullmatch(r"runs/([^/]+)/annotations/0*(\d+)", artifact)
    return artifact if found is None else f"{found[1]}@{found[2]}"


def _input(ledger: Ledger, manifest: Manifest, place: str, ref: InputRef) -> Iterator[Finding]:
    producer = ledger.manifest(ref.artifact)
    what = f"input {ref.role} ({ref.artifact})"
    if producer is None:
        yield Finding("broken", place, layout.MANIFEST, what, ref.digest, ledger.trouble[ref.artifact])
        return
    if producer.digest != ref.digest:
        yield Finding("broken", place, layout.MANIFEST, what, ref.digest, producer.digest)
    if manifest.kind == "model":
        theirs = {record.path: record.sha256 for record in producer.files}
        for record in manifest.files:
            if theirs.get(record.path) != record.sha256:
                yield Finding(
                    "broken",
                    place,
                    record.path,
                    f"the same file of {ref.artifact}",
                    record.sha256,
                    str(theirs.get(record.path)),
                )
    kinds = _ROLES.get(manifest.kind, {}).get(ref.role)
    if kinds is not None and producer.kind not in kinds:
        yield Finding("broken", place, layout.MANIFEST, what, f"kind {kinds[0]}", f"kind {producer.kind}")


def _reference(ledger: Ledger, manifest: Manifest, place: str) -> Iterator[Finding]:
    """A fork's manifest and the original's say the same of the content and of how it was made."""
    what = f"reference to {manifest.source}"
    original = ledger.manifest(str(manifest.source))
    if original is None:
        reason = ledger.trouble[str(manifest.source)]
        yield Finding("broken", place, layout.MANIFEST, what, manifest.digest, reason)
        return
    for line in differences(_made(original), _made(manifest)):
        yield Finding("broken", place, layout.MANIFEST, what, "", f"{line} (there -> here)")


def _made(manifest: Manifest) -> dict[str, Any]:
    values: dict[str, Any] = json.loads(manifest.model_dump_json(include={"kind", "digest", "files", "step", "inputs"}))
    return values
