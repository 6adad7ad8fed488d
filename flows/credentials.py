"""Credentials of the store from a Prefect block, for runs that a server starts."""

import json
from typing import Any

from fem_core.config import RunConfig, S3Config
from fem_core.errors import FemError
from fem_core.store import access


async def provide(config: RunConfig) -> None:
    """As ``reach``, for a run."""
    await reach(config.s3)


async def reach(s3: S3Config) -> None:
    """Put what a section ``s3`` says, and the block that it names, into the environment.

    Raises:
        FemError: there is no such block, or it holds something else.
    """
    access.use(s3)
    name = s3.credentials_block
    if name is None:
        return
    from prefect.blocks.system import Secret

    try:
        block = await Secret.aload(name)
    except ValueError as error:
        raise FemError(
            f"There is no Prefect Secret block {name!r} on this server. Create it in the UI under Blocks, or leave "
            "s3.credentials_block out and set AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY."
        ) from error
    held: Any = block.get()  # type: ignore[attr-defined]
    try:
        values = json.loads(held) if isinstance(held, str) else held
    except ValueError:
        values = None
    access.use_secret(values, name)
