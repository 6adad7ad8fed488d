"""The attempts at one problem, straight from the one part file that holds them: for iterations without an index yet.

Contract: gives what the index would give. Part n of a drawn artifact holds the problems from n * problems_per_part on
(``sample/draw.py``), so one file is read and verified, and the verdicts.
"""

from typing import Any

import pyarrow as pa
import pyarrow.compute as pc

from fem_core.browse.tables import OWN
from fem_core.problems.problem import Problem, from_table
from fem_core.schemas import VERDICTS
from fem_core.store import layout, reading
from fem_core.store.manifest import Manifest
from fem_core.store.store import Store
from fem_core.store.tables import decode


def find(store: Store, problems: Manifest, problem_id: str) -> tuple[int, Problem] | None:
    """A problem and its place among those of an artifact; None where it is not there."""
    start = 0
    for table in store.iter_tables(problems):
        place = pc.index(table["problem_id"], problem_id).as_py()
        if place >= 0:
            return start + place, from_table(table.slice(place, 1))[0]
        start += len(table)
    return None


def rows(
    store: Store,
    manifest: Manifest,
    verdicts: Manifest | None,
    place: int,
    problem: Problem,
) -> list[dict[str, Any]] | None:
    """The rows of the problem, as an index has them; None where they are not in the part that they should be in."""
    per_part = manifest.step.config.get("problems_per_part") or manifest.step.config.get("sample", {}).get(
        "problems_per_part"
    )
    files = sorted((one for one in manifest.files if one.path.endswith(".parquet")), key=lambda one: one.path)
    names = [one.path for one in files]
    if not isinstance(per_part, int) or layout.part_name(place // per_part) not in names:
        return None
    n = names.index(layout.part_name(place // per_part))
    table = decode(reading.read_file(store.root, manifest, files[n]))
    first = sum(one.rows or 0 for one in files[:n])
    table = table.append_column("position", pa.array(range(first, first + len(table)), pa.int64()))
    found = table.filter(pc.equal(table["problem_id"], problem.problem_id)).to_pylist()
    if not found:
        return None
    decided: dict[int, tuple[str, str]] = {}
    if verdicts is not None:
        for part in store.iter_tables(verdicts, VERDICTS.names):
            for row in part.filter(pc.equal(part["problem_id"], problem.problem_id)).to_pylist():
                decided[row["attempt"]] = row["verdict"], row["reason"]
    made = []
    for row in found:
        verdict, reason = decided.get(row["attempt"], (row["verdict"], ""))
        own = {"position": row["position"], "verdict": verdict, "reason": reason, "label": problem.answer}
        made.append({**{name: value for name, value in row.items() if name not in OWN}, **own})
    return made
