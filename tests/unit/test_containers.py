"""The container files: linted, safe by default, and with no command that the tests do not run outside of containers.

Nothing here starts a container.
"""

import json
import re
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import yaml
from compose_spec import PyCompose
from docker.utils import exclude_paths
from prefect.settings import Settings

from deployments.s3 import arguments
from deployments.up import server_command, worker_command

ROOT = Path(__file__).parents[2]
FOLDER = ROOT / "deployments" / "containers"
IMAGES = sorted(FOLDER.glob("*.Dockerfile"))


@pytest.fixture
def compose() -> dict[str, Any]:
    return dict(yaml.safe_load((FOLDER / "compose.yaml").read_text()))


def here(command: list[str]) -> list[str]:
    """A container's command as it is outside of one."""
    return [sys.executable, *command[1:]] if command[0] == "python" else command


def instructions(image: Path, word: str) -> list[str]:
    joined = image.read_text().replace("\\\n", " ")
    return [" ".join(text.split()) for text in re.findall(rf"^ *{word} (.*)$", joined, flags=re.MULTILINE)]


@pytest.mark.parametrize("image", IMAGES, ids=lambda image: image.stem)
def test_an_image_is_linted_and_runs_as_nobody_in_particular(image: Path) -> None:
    lint = [str(Path(sys.executable).with_name("hadolint")), "--no-color", str(image)]
    done = subprocess.run(lint, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    assert instructions(image, "USER") == ["10001"]
    assert len(instructions(image, "FROM")) == 2 and len(set(instructions(image, "FROM"))) == 2
    assert all(re.search(r":\d+\.\d+\.\d+-", base) for base in instructions(image, "FROM")), "pinned to a release"


@pytest.mark.parametrize("image", IMAGES, ids=lambda image: image.stem)
def test_an_image_does_what_make_does(image: Path) -> None:
    assert f"deployments/setup.sh {image.stem}" in instructions(image, "RUN")
    (start,) = [text for text in instructions(image, "CMD") if "worker" in text]
    assert here(json.loads(start)) == worker_command()
    (check,) = instructions(image, "HEALTHCHECK")
    assert '["python", "-m", "deployments.health", "http://127.0.0.1:8080/health"]' in check


def test_the_server_in_an_image_copies_its_pages_to_where_its_user_may_write(monkeypatch: pytest.MonkeyPatch) -> None:
    image = FOLDER / "cpu.Dockerfile"
    assert any(text.endswith("install -d -o fem -g fem /work") for text in instructions(image, "RUN"))
    for text in instructions(image, "ENV"):
        for name, _, value in (pair.partition("=") for pair in text.split()):
            if name.startswith("PREFECT_SERVER_"):
                monkeypatch.setenv(name, value)
    assert Settings().server.ui.static_directory == "/work/prefect/ui"


def test_no_secret_is_copied_into_an_image_or_committed(tmp_path: Path) -> None:
    beside = tmp_path / "deployments" / "containers"
    beside.mkdir(parents=True)
    for folder in (tmp_path, beside):
        (folder / ".env").write_text("POSTGRES_PASSWORD=secret")
    (beside / "compose.yaml").touch()
    patterns = (ROOT / ".dockerignore").read_text().split()
    copied = exclude_paths(str(tmp_path), patterns)
    assert "deployments/containers/compose.yaml" in copied and not [path for path in copied if ".env" in path]
    assert ".env" in (ROOT / ".gitignore").read_text().split()


def test_compose_is_of_the_specification(compose: dict[str, Any]) -> None:
    PyCompose.from_yaml(yaml.safe_dump(compose))
    compose["services"]["worker"]["imag"] = "fem:cpu"
    with pytest.raises(ValueError, match="imag"):
        PyCompose.from_yaml(yaml.safe_dump(compose))


def test_compose_publishes_on_loopback_alone_and_holds_no_secret(compose: dict[str, Any]) -> None:
    services = compose["services"]
    assert all(port.startswith("127.0.0.1:") for one in services.values() for port in one.get("ports", ()))
    for service in services.values():
        for name, value in service.get("environment", {}).items():
            if re.search("PASSWORD|SECRET|KEY|DATABASE", name):
                assert "${" in value, name
    named = {one["image"] for one in services.values()} - {"fem:cpu"}
    assert all(re.search(r":\d+\.\d+", image) for image in named)


def test_compose_starts_what_make_up_starts(compose: dict[str, Any]) -> None:
    services = compose["services"]
    assert here(services["server"]["command"]) == server_command("0.0.0.0", 4200)
    assert services["s3"]["command"] == arguments("/data", 8333, "s3", "0.0.0.0")
    assert services["deploy"]["command"][:4] == ["python", "-m", "flows.cli", "deploy"]
    assert "command" not in services["worker"], "the image's own"
