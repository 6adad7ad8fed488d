"""Two configurations side by side, as the lines that differ.

Contract: values go in, lines such as ``sample.temperature: 1.0 -> 0.7`` come out, sorted by name; every message that
refuses something for being different shows these.
"""

import json
from collections.abc import Mapping
from typing import Any

_LONGEST = 80


def differences(old: Any, new: Any) -> list[str]:
    """One line ``section.field: old -> new`` for each field that differs; none when both say the same."""
    was, now = _fields(old, ""), _fields(new, "")
    return [
        f"{name}: {_shown(was, name)} -> {_shown(now, name)}"
        for name in sorted(was.keys() | now.keys())
        if _shown(was, name, whole=True) != _shown(now, name, whole=True)
    ]


def _fields(value: Any, where: str) -> dict[str, Any]:
    """Leaves by dotted name; lists of records are entered, lists of plain values are leaves."""
    items: list[tuple[str, Any]] = []
    if isinstance(value, Mapping):
        items = [(str(name), item) for name, item in value.items()]
    elif isinstance(value, (list, tuple)) and any(isinstance(item, Mapping) for item in value):
        items = [(str(i), item) for i, item in enumerate(value)]
    if not items:
        return {where: value}
    found: dict[str, Any] = {}
    for name, item in items:
        found |= _fields(item, f"{where}.{name}" if where else name)
    return found


def _shown(fields: Mapping[str, Any], name: str, whole: bool = False) -> str:
    if name not in fields:
        return "(absent)"
    text = json.dumps(fields[name], sort_keys=True, ensure_ascii=False, default=str)
    return text if whole or len(text) <= _LONGEST else f"{text[:_LONGEST]}…"
