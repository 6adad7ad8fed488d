"""What a run is called that nobody has named: which deployment, when, and with which parameters.

Contract: ``<deployment>-<YYYYMMDD-HHMMSS>-<digest>``. The time is the flow run's scheduled start in UTC and the digest the
first eight hex digits of the configuration's, so a retried flow run is the same run of the store, and two firings or two
sets of parameters are two. Without a deployment the name is ``fem``, as on the command line.
"""

import re
from datetime import datetime

from prefect.runtime import deployment, flow_run

from fem_core.config import RunConfig

LONGEST = 70
"""Characters of a deployment's name that its runs' names begin with: a run's name has room for 100."""


def run_name(config: RunConfig) -> str:
    """The name of the flow run's run in the store: the configuration's own, where it has one."""
    if config.name is not None:
        return config.name
    made_by: str | None = deployment.name
    return "fem" if made_by is None else derived(made_by, flow_run.scheduled_start_time, config)


def derived(made_by: str, when: datetime, config: RunConfig) -> str:
    """The name of a run that the deployment ``made_by`` starts at ``when`` (UTC)."""
    prefix = re.sub(r"[^A-Za-z0-9._-]+", "-", made_by).lstrip("._-")[:LONGEST] or "run"
    return f"{prefix}-{when:%Y%m%d-%H%M%S}-{config.digest()[:8]}"


def flow_run_name() -> str:
    """What Prefect shows for a run of the flow ``fem``: the name of its run."""
    return run_name(RunConfig.model_validate(flow_run.parameters["config"]))
