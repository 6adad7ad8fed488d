"""OpenLineage events of steps and artifacts (https://openlineage.io/spec/2-0-2/OpenLineage.json), built from records.

Contract: pure; sending them is ``tasks.announce``. The specification wants one START and one COMPLETE, ABORT or FAIL per
run, so each artifact is a run of its own: a step's last artifact has the task run's id and the job ``fem.<step>``; what
the step commits on its way (``MIDWAY``) has an id derived from it and the job ``fem.<step>.<kind>``.
"""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any
from uuid import NAMESPACE_URL, UUID, uuid5

from fem_core.audit.ledger import in_store
from fem_core.audit.lineage import Graph
from fem_core.schemas import TABLES, schema_of
from fem_core.store import provenance
from fem_core.store.manifest import InputRef, Manifest, safe_url

if TYPE_CHECKING:
    from openlineage.client.event_v2 import InputDataset, OutputDataset, RunEvent
    from openlineage.client.generated.base import DatasetFacet, InputDatasetFacet

NAMESPACE = "fem"
"""Of the jobs, unless OPENLINEAGE_NAMESPACE says otherwise."""

MIDWAY = ("problems", "model", "estimate", "verdicts", "predictions", "probes", "bound")
"""Kinds that a step commits before its last artifact."""

FLOW = "fem"
"""The job of a whole flow run, the parent of its steps'."""


@dataclass(frozen=True)
class Act:
    """One artifact in the making, as one OpenLineage run."""

    run_id: str
    """A UUID."""
    job: str
    """Its name within the namespace."""
    namespace: str
    """Of the job, and of sources that lie outside the store."""
    flow_run: str | None = None
    """The Prefect flow run, where there is one."""


def act(step: str, kind: str, key: str, namespace: str, *, task_run: str | None, flow_run: str | None) -> Act:
    """The act of making an artifact.

    Args:
        step: name of the step.
        kind: of the artifact.
        key: the step key; without a task run's id it alone gives the run's id.
        task_run, flow_run: Prefect's ids.
    """
    midway = kind in MIDWAY
    own = _uuid(task_run)
    run_id = own if own is not None and not midway else str(uuid5(NAMESPACE_URL, f"{own or ''}{key}"))
    return Act(run_id, f"fem.{step}.{kind}" if midway else f"fem.{step}", namespace, _uuid(flow_run))


def act_of(manifest: Manifest, namespace: str) -> Act:
    """The act that made an artifact, as its manifest records it."""
    ids = manifest.prefect
    return act(
        manifest.step.name,
        manifest.kind,
        manifest.step.key,
        namespace,
        task_run=ids.get("task_run"),
        flow_run=ids.get("flow_run"),
    )


def start(act: Act, when: str, store_url: str, inputs: Sequence[InputRef], known: Mapping[str, Manifest]) -> "RunEvent":
    """START. ``when`` is ISO 8601; ``known`` holds manifests of inputs by artifact, as far as they are at hand."""
    return _event("START", act, when, inputs=_inputs(act, store_url, inputs, known))


def complete(act: Act, manifest: Manifest, store_url: str, known: Mapping[str, Manifest]) -> "RunEvent":
    """COMPLETE, with the artifact that was made."""
    inputs = _inputs(act, store_url, manifest.inputs, known)
    return _event("COMPLETE", act, manifest.finished, inputs=inputs, outputs=[_output(store_url, manifest)])


def superseded(act: Act, when: str) -> "RunEvent":
    """ABORT: another process was first, and what it committed counts."""
    return _event("ABORT", act, when)


def fail(act: Act, when: str, message: str) -> "RunEvent":
    """FAIL, with the message."""
    from openlineage.client.facet_v2 import error_message_run

    facet = error_message_run.ErrorMessageRunFacet(message=message, programmingLanguage="python")
    return _event("FAIL", act, when, errorMessage=facet)


def lines(graph: Graph, namespace: str) -> Iterator[str]:
    """One COMPLETE event per artifact of a graph, as JSON on a line of its own."""
    from openlineage.client.serde import Serde

    known = {manifest.artifact: manifest for manifest in graph.manifests.values()}
    for manifest in graph.manifests.values():
        yield str(Serde.to_json(complete(act_of(manifest, namespace), manifest, graph.store, known)))


def place(store_url: str) -> str:
    """A store's URL as a URI without credentials: a local folder gets ``file://``."""
    url = safe_url(store_url).rstrip("/")
    return url if "://" in url else f"file://{url}"


def _event(state: str, act: Act, when: str, *, inputs: Any = (), outputs: Any = (), **facets: Any) -> "RunEvent":
    from openlineage.client.event_v2 import Job, Run, RunEvent, RunState
    from openlineage.client.facet_v2 import job_type_job, parent_run

    if act.flow_run is not None:
        facets["parent"] = parent_run.ParentRunFacet(
            run=parent_run.Run(runId=act.flow_run), job=parent_run.Job(namespace=act.namespace, name=FLOW)
        )
    kind = job_type_job.JobTypeJobFacet(processingType="BATCH", integration="FEM", jobType="TASK")
    return RunEvent(
        eventType=RunState[state],
        eventTime=when,
        run=Run(runId=act.run_id, facets=facets),
        job=Job(namespace=act.namespace, name=act.job, facets={"jobType": kind}),
        producer=f"urn:fem-pipeline:{provenance.code()['version']}",
        inputs=list(inputs),
        outputs=list(outputs),
    )


def _inputs(
    act: Act, store_url: str, inputs: Sequence[InputRef], known: Mapping[str, Manifest]
) -> "list[InputDataset]":
    from openlineage.client.event_v2 import InputDataset
    from openlineage.client.facet_v2 import data_quality_metrics_input_dataset as quality

    found = []
    for ref in inputs:
        if not in_store(ref.artifact):  # no place of the store; the same content is the same data set for every run
            name = f"{ref.artifact}@{ref.digest[:12]}"
            found.append(InputDataset(act.namespace, name, facets=_facets(ref.digest, None)))
            continue
        manifest = known.get(ref.artifact)
        same = manifest if manifest is not None and manifest.digest == ref.digest else None
        facets: dict[str, InputDatasetFacet] = {}
        if same is not None:
            facets["dataQualityMetrics"] = quality.DataQualityMetricsInputDatasetFacet(
                columnMetrics={}, rowCount=_rows(same), bytes=_bytes(same), fileCount=len(same.files)
            )
        found.append(
            InputDataset(
                place(store_url),
                ref.artifact,
                facets=_facets(ref.digest, same),
                inputFacets=facets,
            )
        )
    return found


def _output(store_url: str, manifest: Manifest) -> "OutputDataset":
    from openlineage.client.event_v2 import OutputDataset
    from openlineage.client.facet_v2 import output_statistics_output_dataset as output

    statistics = output.OutputStatisticsOutputDatasetFacet(
        rowCount=_rows(manifest), size=_bytes(manifest), fileCount=len(manifest.files)
    )
    return OutputDataset(
        place(store_url),
        manifest.artifact,
        facets=_facets(manifest.digest, manifest),
        outputFacets={"outputStatistics": statistics},
    )


def _facets(digest: str, manifest: Manifest | None) -> "dict[str, DatasetFacet]":
    """Version, and the columns with their descriptions where the artifact is a table."""
    from openlineage.client.facet_v2 import dataset_version_dataset, schema_dataset

    facets: dict[str, DatasetFacet] = {
        "version": dataset_version_dataset.DatasetVersionDatasetFacet(datasetVersion=digest)
    }
    columns = None if manifest is None else schema_of(manifest.kind, manifest.step.config)
    if columns is not None:
        facets["schema"] = schema_dataset.SchemaDatasetFacet(
            fields=[
                schema_dataset.SchemaDatasetFacetFields(
                    name=column.name,
                    type=str(column.type),
                    description=(column.metadata or {}).get(b"description", b"").decode(),
                )
                for column in columns
            ]
        )
    return facets


def _rows(manifest: Manifest) -> int | None:
    """Rows of an artifact that is a table; a checkpoint's log is none."""
    return sum(file.rows or 0 for file in manifest.files) if manifest.kind in TABLES else None


def _bytes(manifest: Manifest) -> int:
    return sum(file.bytes for file in manifest.files)


def _uuid(text: str | None) -> str | None:
    try:
        return None if text is None else str(UUID(text))
    except ValueError:
        return None
