"""`fem lineage`: what an artifact was made from, and what was made from it."""

import os
from typing import Annotated, Literal

from cyclopts import Parameter

from flows.commands.options import DEFAULT_STORE, StoreUrl


def lineage(
    artifact: str,
    *,
    store: StoreUrl = None,
    down: Annotated[bool, Parameter(negative="--up")] = False,
    format: Literal["tree", "mermaid", "json", "openlineage"] = "tree",
) -> None:
    """Show what an artifact was made from, or everything that was made from it.

    Each with its digest, step, code and configuration. What is missing or has another digest than was recorded is
    shown with a ``!``.

    Parameters
    ----------
    artifact
        Its path in the store, ``demo@3`` for the checkpoint of iteration 3, or ``demo@3/attempts``.
    store
        Folder or URL of the store; ./fem-store by default.
    down
        What was made from it, in all runs of the store; by default, what it was made from.
    format
        A tree, a mermaid flowchart, one JSON object, or OpenLineage events, one per line.
    """
    from fem_core.audit import lineage as graphs
    from fem_core.audit import render
    from fem_core.store.store import Store

    opened = Store.open(store or DEFAULT_STORE, check=False)
    manifest = graphs.find(opened, artifact)
    graph = graphs.down(opened, manifest) if down else graphs.up(opened, manifest)
    if format == "json":
        print(render.to_json(graph))
    elif format == "openlineage":
        from fem_core.audit import openlineage

        for line in openlineage.lines(graph, os.environ.get("OPENLINEAGE_NAMESPACE") or openlineage.NAMESPACE):
            print(line)
    else:
        for line in render.tree(graph) if format == "tree" else render.mermaid(graph):
            print(line)
