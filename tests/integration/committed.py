"""Problems in a store, for the engine host to draw for."""

from collections.abc import Sequence

from fem_core.problems.problem import Problem, to_table
from fem_core.schemas import SCHEMA_VERSION
from fem_core.store import layout
from fem_core.store.manifest import Manifest, StepRecord, artifact_digest
from fem_core.store.store import Store

KEY = "k" * 64


def commit_problems(store: Store, problems: Sequence[Problem]) -> None:
    """Commit the training problems of a run ``r``."""
    artifact = layout.problems("r", "train")
    files = [store.write_table(artifact, layout.part_name(0), to_table(list(problems)), KEY)]
    store.commit(
        Manifest(
            schema_version=SCHEMA_VERSION,
            kind="problems",
            artifact=artifact,
            digest=artifact_digest("problems", files),
            files=files,
            step=StepRecord(name="prepare", version=1, key=KEY, config={}),
            inputs=[],
            code={},
            packages={},
            hardware={},
            started="2026-01-01T00:00:00+00:00",
            finished="2026-01-01T00:00:00+00:00",
        )
    )
