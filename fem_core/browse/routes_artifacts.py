"""The page of an artifact: what it is in words, what it was made from and for, whether it holds, and how to read it."""

from typing import Annotated

from fastapi import APIRouter, Path
from fastapi.responses import HTMLResponse

from fem_core.browse import code, figures
from fem_core.browse.library import Library
from fem_core.browse.links import Links
from fem_core.browse.pages import Pages, when
from fem_core.browse.rows import ArtifactPage
from fem_core.errors import Corrupt
from fem_core.store import layout
from fem_core.store.manifest import Manifest, to_json

_MADE = {
    "prepare": "prepared from the source",
    "sample": "drawn by the model",
    "filter": "decided by the filter",
    "train": "trained on the rationales",
    "evaluate": "made on the test problems",
    "report": "written as the run's report",
}


def router(library: Library, pages: Pages) -> APIRouter:
    """The routes."""
    routes = APIRouter()

    @routes.get("/artifacts/{ref:path}", response_class=HTMLResponse)
    def artifact(ref: Annotated[str, Path(max_length=400)], check: bool = False) -> str:
        """An artifact by its path, RUN@K/KIND, or digest; ``check`` hashes its files."""
        page = library.artifact(ref)
        manifest = page.manifest
        return pages.render(
            "artifact.html",
            page=page,
            manifest=manifest,
            run=layout.run_of(manifest.artifact),
            words=sentences(page),
            reads=_reads(manifest, pages.links),
            graph=figures.neighbours(page, pages.links),
            checked=_checked(library, page) if check else None,
            audited=audited(page),
            size=sum(record.bytes for record in manifest.files),
            code=[] if page.collected else code.snippets(library.store.url, manifest),
            tables_only=all(record.path.endswith(".parquet") for record in manifest.files),
            facts=_facts(manifest),
            json=to_json(manifest).decode(),
        )

    return routes


def sentences(page: ArtifactPage) -> list[str]:
    """The manifest in words."""
    manifest = page.manifest
    rows = [record.rows for record in manifest.files if record.rows is not None]
    what = f"{sum(rows):,} row{'s' if sum(rows) != 1 else ''}" if rows else "no tables"
    said = [
        f"{manifest.kind.capitalize()}, {_MADE.get(manifest.step.name, 'made')} in step {manifest.step.name} "
        f"(version {manifest.step.version}), finished {when(manifest.finished)}: {what} in "
        f"{len(manifest.files)} file{'s' if len(manifest.files) != 1 else ''}."
    ]
    if manifest.source is not None:
        said.append(f"A fork's reference: the files lie with {manifest.source}.")
    if manifest.location is not None:
        said.append(f"The files lie outside the store, at {manifest.location}.")
    if page.collected:
        said.append("fem gc has removed the files; the record stays.")
    commit = manifest.code.get("commit")
    if commit:
        changed = ", with changes that were not committed" if manifest.code.get("dirty") else ""
        said.append(f"Made by code at commit {str(commit)[:12]}{changed}.")
    return said


def audited(page: ArtifactPage) -> str:
    """What the recurring audit knows of its run."""
    if page.held is None:
        return "No recurring audit has found that the run holds, and nothing of this has been hashed for this page."
    how = (
        "every file hashed and verdicts, rationales and scores derived again" if page.held.deep else "every file hashed"
    )
    since = (
        "Something of the run is new or another since then" if page.changed else "Nothing of the run has changed since"
    )
    return f"The recurring audit of {when(page.held.when)} found that the run holds, {how}. {since}."


def _reads(manifest: Manifest, links: Links) -> str | None:
    """Where its rows can be read as texts."""
    head, _, kind = "/".join(manifest.artifact.split("/")[2:]).partition("/")
    readable = ("attempts", "verdicts", "rationales", "predictions", "predictions-exemplars")
    if not head.startswith("iteration=") or kind not in readable:
        return None
    run, k = layout.run_of(manifest.artifact), int(head.removeprefix("iteration="))
    if kind == "rationales":
        return links.attempts(run, k, verdict="accepted")
    return links.attempts(run, k, kind=kind if kind.startswith("predictions") else None)


def _checked(library: Library, page: ArtifactPage) -> str:
    """What does not hold; empty where everything does."""
    if page.collected:
        return "its files were removed by fem gc."
    try:
        library.store.verify(page.manifest)
    except Corrupt as error:
        return str(error)
    except (FileNotFoundError, NotADirectoryError):
        return "a file is missing."
    return ""


def _facts(manifest: Manifest) -> list[tuple[str, str]]:
    found = [
        ("digest", manifest.digest),
        ("step key", manifest.step.key),
        ("started", manifest.started),
        ("finished", manifest.finished),
    ]
    for name, values in (
        ("figures", manifest.stats),
        ("seeds", manifest.seeds),
        ("engine", manifest.engine),
        ("hardware", manifest.hardware),
        ("code", manifest.code),
        ("Prefect", manifest.prefect),
    ):
        if values:
            found.append((name, ", ".join(f"{key} {value}" for key, value in values.items())))
    return found
