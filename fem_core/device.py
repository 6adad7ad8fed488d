"""Which device computes, found without importing torch: the flow's process asks, and it stays light."""

import importlib.metadata
import os
from pathlib import Path
from typing import Literal

Device = Literal["cpu", "cuda"]


def find_device() -> Device:
    """``cuda`` where an NVIDIA driver is loaded, a GPU is not hidden and torch is no CPU build."""
    hidden = os.environ.get("CUDA_VISIBLE_DEVICES", "all") in ("", "-1")
    driver = Path("/dev/nvidiactl").exists() or Path("/dev/dxg").exists()
    return "cuda" if driver and not hidden and not importlib.metadata.version("torch").endswith("+cpu") else "cpu"
