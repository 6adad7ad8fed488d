import json
import os
import socket
import subprocess
import sys
from pathlib import Path

import pytest

from fem_core.store import provenance


def test_provenance_is_json_and_names_no_host_user_or_folder() -> None:
    everything = {"code": provenance.code(), "packages": provenance.packages(), "hardware": provenance.hardware()}
    text = json.dumps(everything, allow_nan=False)
    assert socket.gethostname() not in text
    assert str(Path(__file__).resolve().parents[3]) not in text
    assert os.path.expanduser("~") not in text
    assert set(everything["code"]) == {"version", "commit", "dirty"}
    assert everything["packages"]["pyarrow"]
    assert everything["hardware"]["cores"] >= 1 and everything["hardware"]["memory_gib"] > 0


def test_a_caller_cannot_change_what_the_next_one_sees() -> None:
    provenance.code()["commit"] = "changed"
    assert provenance.code()["commit"] != "changed"


def test_the_store_loads_no_framework() -> None:
    check = (
        "import sys, fem_core.store.store, fem_core.store.provenance as p; p.packages(); p.hardware(); "
        "print([m for m in ('torch', 'vllm', 'prefect', 'transformers', 'botocore') if m in sys.modules])"
    )
    assert subprocess.run([sys.executable, "-c", check], capture_output=True, text=True).stdout.strip() == "[]"


def test_an_image_without_a_checkout_says_its_commit_itself(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr(provenance, "_CHECKOUT", tmp_path)
    monkeypatch.setenv("FEM_COMMIT", "f" * 40)
    assert provenance._code.__wrapped__()["commit"] == "f" * 40
    monkeypatch.setenv("FEM_COMMIT", "")
    assert provenance._code.__wrapped__()["commit"] is None
