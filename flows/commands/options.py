"""What several commands take."""

from typing import Annotated, Literal

from cyclopts import Parameter

Set = Annotated[tuple[str, ...], Parameter(name="--set", consume_multiple=False, negative=())]
"""Overrides such as ``--set scheme.name=rs``; may be repeated."""
StoreUrl = Annotated[str | None, Parameter(name="--store")]
"""Folder or URL of a store; ./fem-store by default."""
RunName = Annotated[str | None, Parameter(name="--run")]
"""Name of a run."""

PoolType = Literal["process", "docker", "kubernetes"]
"""Kinds of Prefect work pools that there are job templates for."""

DEFAULT_STORE = "./fem-store"
