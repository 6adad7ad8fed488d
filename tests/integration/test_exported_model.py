"""An exported checkpoint is a model that transformers loads."""

import re
import subprocess
import sys
from pathlib import Path

import pytest
from made_run import made_config, make_run

from fem_core.report.export import export
from fem_core.store import layout
from fem_core.store.manifest import artifact_digest
from fem_core.store.store import Store

pytestmark = pytest.mark.slow


def test_transformers_loads_it_and_the_cards_own_snippet_runs(tiny_model: Path, tmp_path: Path) -> None:
    import torch
    from transformers import AutoModelForCausalLM, AutoTokenizer

    store = Store.open(str(tmp_path / "store"))
    make_run(store, made_config(sample={"max_tokens": 4}), iterations=1)
    artifact = layout.iteration("made", 1, "checkpoint")
    made = store.manifest(artifact)
    assert made is not None
    store.root.remove(f"{artifact}/{layout.MANIFEST}")
    files = store.put_directory(artifact, tiny_model)
    store.commit(made.model_copy(update={"files": files, "digest": artifact_digest("checkpoint", files)}))

    out = tmp_path / "out"
    export(store, "made", 1, str(out))
    exported = AutoModelForCausalLM.from_pretrained(out, dtype=torch.float32).state_dict()
    original = AutoModelForCausalLM.from_pretrained(tiny_model, dtype=torch.float32).state_dict()
    assert exported.keys() == original.keys()
    assert all(torch.equal(exported[name], original[name]) for name in original)
    chat = [{"role": "user", "content": "What is 1 + 1?"}]
    ids = [AutoTokenizer.from_pretrained(folder).apply_chat_template(chat) for folder in (out, tiny_model)]
    assert ids[0] == ids[1]

    (code,) = re.findall(r"^```python\n(.*?)^```", (out / "README.md").read_text(), re.M | re.S)
    child = subprocess.run([sys.executable, "-c", code], cwd=out, capture_output=True, text=True, timeout=300)
    assert child.returncode == 0, child.stderr
