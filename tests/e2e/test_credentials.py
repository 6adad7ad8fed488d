"""The store's credentials from a Secret block of a real Prefect server."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

pytestmark = pytest.mark.slow

SCRIPT = """
import asyncio, os
from prefect.blocks.system import Secret
from fem_core.config_files import parse_config
from fem_core.errors import FemError
from flows.credentials import provide

def config(block):
    problems = {"source": "table", "path": "x.jsonl", "test": 1}
    return parse_config({"problems": problems, "s3": {"credentials_block": block}})

held = '{"AWS_ACCESS_KEY_ID": "a key", "AWS_SECRET_ACCESS_KEY": "a secret"}'
Secret(value=held).save("fem-s3")
asyncio.run(provide(config("fem-s3")))
print(os.environ["AWS_ACCESS_KEY_ID"], os.environ["AWS_SECRET_ACCESS_KEY"])
Secret(value="no json").save("fem-other")
for name in ("fem-other", "fem-none"):
    try:
        asyncio.run(provide(config(name)))
    except FemError as error:
        print(error)
"""


def test_a_secret_block_holds_the_stores_credentials(prefect_server: str, tmp_path: Path) -> None:
    env = {**os.environ, "PREFECT_API_URL": prefect_server, "PREFECT_HOME": str(tmp_path)}
    done = subprocess.run([sys.executable, "-c", SCRIPT], env=env, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    credentials, wrong, absent = done.stdout.splitlines()[-3:]
    assert credentials == "a key a secret"
    assert "'fem-other' does not hold a JSON object" in wrong
    assert "There is no Prefect Secret block 'fem-none'" in absent
