"""A lineage graph as text: a tree for the terminal, mermaid for documents, JSON for programs.

Contract: names come from data and models, so control characters are dropped and mermaid's own characters are written
as entities; nothing in a label can end it. The tree shows a node with all below it once, and then as a reference.
"""

import json
from collections.abc import Iterator
from dataclasses import asdict

from fem_core.audit.lineage import Edge, Graph, Node

_MERMAID_SAFE = frozenset(" ._-=/:,()*+")


def printable(text: str) -> str:
    """The text without control characters, on one line."""
    return "".join(c for c in " ".join(text.split()) if c.isprintable())


def tree(graph: Graph) -> Iterator[str]:
    """Lines, the asked node first; what it was made from, or what was made from it, below it and further in."""
    below: dict[str, list[Edge]] = {}
    for edge in graph.edges:
        below.setdefault(edge.output if graph.direction == "up" else edge.input, []).append(edge)
    yield _line(graph.nodes[graph.start])
    shown = {graph.start}
    todo = _branches(below.get(graph.start, []), "")
    while todo:
        edge, prefix, last = todo.pop()
        node = graph.nodes[edge.input if graph.direction == "up" else edge.output]
        head = f"{prefix}{'└─ ' if last else '├─ '}{printable(edge.role)}: "
        note = f"  ! {printable(edge.note)}" if edge.note else ""
        if node.id in shown or edge.note:
            again = "  (see above)" if node.id in shown and (below.get(node.id) or node.step) else ""
            yield f"{head}{printable(node.artifact)}  {node.digest[:12]}{again}{note}"
            continue
        shown.add(node.id)
        yield head + _line(node)
        todo += _branches(below.get(node.id, []), prefix + ("   " if last else "│  "))
    for note in graph.notes:
        yield f"! {printable(note)}"


def mermaid(graph: Graph) -> Iterator[str]:
    """Lines of a mermaid flowchart; arrows point from what was read to what was made of it."""
    names = {node: f"n{i}" for i, node in enumerate(graph.nodes)}
    yield "flowchart TD"
    for node in graph.nodes.values():
        label = "<br/>".join(_escaped(line) for line in (node.artifact, *_facts(node)))
        shape = f'[("{label}")]' if node.state == "source" else f'["{label}"]'
        mark = {"here": "", "source": ""}.get(node.state, ":::broken")
        yield f"  {names[node.id]}{shape}{mark}"
    for edge in graph.edges:
        arrow = "-.->" if edge.note else "-->"
        note = f"<br/>{_escaped(edge.note)}" if edge.note else ""
        yield f'  {names[edge.input]} {arrow}|"{_escaped(edge.role)}{note}"| {names[edge.output]}'
    for i, text in enumerate(graph.notes):
        yield f'  broken{i}["{_escaped(text)}"]:::broken'
    yield "  classDef broken stroke:#c00,stroke-width:2px,stroke-dasharray:5 5"


def to_json(graph: Graph) -> str:
    """One object: ``store``, ``start``, ``direction``, ``nodes``, ``edges`` and ``notes``, with digests in full."""
    return json.dumps(
        {
            "store": graph.store,
            "start": graph.start,
            "direction": graph.direction,
            "nodes": [asdict(node) for node in graph.nodes.values()],
            "edges": [asdict(edge) for edge in graph.edges],
            "notes": graph.notes,
        },
        indent=2,
    )


def _branches(edges: list[Edge], prefix: str) -> list[tuple[Edge, str, bool]]:
    """In the order in which a stack gives them back."""
    return [(edge, prefix, i == len(edges) - 1) for i, edge in enumerate(edges)][::-1]


def _line(node: Node) -> str:
    return "  ".join([printable(node.artifact), *(printable(fact) for fact in _facts(node))])


def _facts(node: Node) -> list[str]:
    facts = [node.digest[:12]]
    if node.step is not None:
        facts.append(f"{node.step} v{node.step_version} key {(node.step_key or '')[:12]}")
        changed = {True: " (dirty)", False: "", None: ""}[node.dirty]
        facts.append(f"code {(node.commit or 'unknown')[:12]}{changed}")
        facts.append(f"config {(node.config or 'unknown')[:12]}")
    if node.location is not None:
        facts.append(f"at {node.location}")
    if node.state == "source":
        facts.append("source")
    if node.note:
        facts.append(f"! {node.note}")
    return facts


def _escaped(text: str) -> str:
    """Letters and digits stay; whatever else could mean something to mermaid or HTML becomes an entity."""
    return "".join(c if c.isalnum() or c in _MERMAID_SAFE else f"#{ord(c)};" for c in printable(text))
