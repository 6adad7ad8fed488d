"""How the trainer's process tells its launcher what happens: a line of JSON in ``progress.jsonl`` for each event."""

import json
from typing import Any

from fem_core.train.launch import TrainJob


def report(job: TrainJob, event: dict[str, Any]) -> None:
    """Append an event for the launcher, as one write."""
    with (job.work_dir / "progress.jsonl").open("ab", buffering=0) as stream:
        stream.write(json.dumps(event).encode() + b"\n")
