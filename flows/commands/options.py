"""What several commands take."""

from typing import Annotated

from cyclopts import Parameter

Set = Annotated[tuple[str, ...], Parameter(name="--set", consume_multiple=False, negative=())]
"""Overrides such as ``--set scheme.name=rs``; may be repeated."""
StoreUrl = Annotated[str | None, Parameter(name="--store")]
"""Folder or URL of a store; ./fem-store by default."""
RunName = Annotated[str | None, Parameter(name="--run")]
"""Name of a run."""

DEFAULT_STORE = "./fem-store"
