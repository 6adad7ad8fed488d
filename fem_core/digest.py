"""Identity of values: one canonical JSON text and its SHA-256.

Contract: equal values give equal digests on every machine and Python version; a value with no stable
serialisation raises instead of falling back on ``repr``. Step keys and configuration digests are made here.
"""

import hashlib
import json
import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import IO, Any

_CHUNK = 4 * 1024 * 1024


def _check(value: Any, where: str) -> None:
    if value is None or isinstance(value, (str, bool, int)):
        return
    if isinstance(value, float):
        if not math.isfinite(value):
            raise TypeError(f"{where} is {value}, which has no canonical form; use a finite number")
        return
    if isinstance(value, Mapping):
        for key, item in value.items():
            if not isinstance(key, str):
                raise TypeError(f"{where} has the key {key!r}; keys must be strings")
            _check(item, f"{where}.{key}")
        return
    if isinstance(value, Sequence) and not isinstance(value, (bytes, bytearray)):
        for i, item in enumerate(value):
            _check(item, f"{where}[{i}]")
        return
    raise TypeError(f"{where} is a {type(value).__name__}, which has no canonical form; pass plain JSON values")


def canonical_json(value: Any) -> str:
    """Sorted keys, no spaces, UTF-8 kept.

    Raises:
        TypeError: for anything but JSON values (a set, a path, NaN, an object).
    """
    _check(value, "value")
    return json.dumps(value, sort_keys=True, separators=(",", ":"), ensure_ascii=False, allow_nan=False)


def digest(value: Any) -> str:
    """SHA-256 (64 hex digits) of the canonical JSON of ``value``."""
    return hashlib.sha256(canonical_json(value).encode()).hexdigest()


def digest_stream(stream: IO[bytes]) -> str:
    """SHA-256 (64 hex digits) of a byte stream, read in pieces of 4 MiB."""
    sha = hashlib.sha256()
    while piece := stream.read(_CHUNK):
        sha.update(piece)
    return sha.hexdigest()


def digest_file(path: Path) -> str:
    """SHA-256 (64 hex digits) of a local file."""
    with path.open("rb") as stream:
        return digest_stream(stream)


def step_key(step: str, version: int, config: Mapping[str, Any], inputs: Mapping[str, str]) -> str:
    """Identity of a step's result: what was done, with which settings, to which inputs.

    Args:
        step: the step's name, such as ``sample``.
        version: raised by hand whenever the step's code changes what it writes.
        config: the part of the configuration that the step reads, as plain JSON values.
        inputs: digest of each input artifact by its role.
    """
    return digest({"step": step, "version": version, "config": dict(config), "inputs": dict(inputs)})


def derive_seed(*parts: str | int) -> int:
    """A 31-bit seed from its parts, the same everywhere: the run seed, iteration, problem id, attempt."""
    text = canonical_json(list(parts))
    return int.from_bytes(hashlib.sha256(text.encode()).digest()[:4], "big") & 0x7FFFFFFF
