"""`fem browse` and `fem report`: what they serve and write, what they refuse, and how they end."""

import os
import signal
import socket
import subprocess
import sys
import urllib.error
import urllib.request
from pathlib import Path

import pytest

from fem_core.errors import FemError
from flows.commands.browse import browse
from flows.commands.report import report


def test_a_server_is_refused_with_what_to_do(made_folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    store = str(made_folder)
    with pytest.raises(FemError, match="--token-env"):
        browse(store=store, host="0.0.0.0")
    monkeypatch.delenv("NO_TOKEN", raising=False)
    monkeypatch.setenv("LONG", "x" * 20)
    with pytest.raises(FemError, match="NO_TOKEN is not set"):
        browse(store=store, token_env="NO_TOKEN")
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        with pytest.raises(FemError, match="another --port"):
            browse(store=store, port=taken.getsockname()[1])
    with pytest.raises(FemError, match="cannot be listened at"):
        browse(store=store, host="no.such.host.invalid", token_env="LONG")


def test_a_server_says_its_address_keeps_its_token_and_ends_on_ctrl_c(made_folder: Path, tmp_path: Path) -> None:
    token = "a token of some length"
    env = os.environ | {"TOKEN": token, "FEM_CACHE": str(tmp_path)}
    command = [sys.executable, "-m", "flows.cli", "browse", "--store", str(made_folder), "--port", "0"]
    server = subprocess.Popen(
        [*command, "--token-env", "TOKEN"], env=env, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    )
    assert server.stdout is not None
    said = server.stdout.readline()
    address = said.partition(" at ")[2].split()[0]
    asked = urllib.request.Request(f"{address}/runs/made", headers={"Authorization": f"Bearer {token}"})
    with urllib.request.urlopen(asked, timeout=60) as answer:
        assert "made" in answer.read().decode()
    with pytest.raises(urllib.error.HTTPError, match="401"):
        urllib.request.urlopen(f"{address}/runs/made", timeout=60)
    server.send_signal(signal.SIGINT)
    out, err = server.communicate(timeout=60)
    assert err == "" and token not in said + out
    assert server.returncode in (0, 130, -signal.SIGINT)


def test_a_report_is_written_or_refused(
    made_folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("FEM_CACHE", str(tmp_path / "cache"))
    place = tmp_path / "made.html"
    report("made", store=str(made_folder), out=place, attempts=2)
    assert place.read_text().count("<article") == 4 and "made.html" in capsys.readouterr().out
    with pytest.raises(FemError, match="There is no run"):
        report("nowhere", store=str(made_folder), out=place)
    with pytest.raises(FemError, match="cannot be written"):
        report("made", store=str(made_folder), out=tmp_path / "no" / "folder.html")
    with pytest.raises(FemError, match="0 to 200"):
        report("made", store=str(made_folder), attempts=-1)
