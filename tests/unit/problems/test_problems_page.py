"""docs/problems.md: its snippets are configurations, and its figures are what its commands print."""

import re
import shlex
from pathlib import Path

import pytest
import yaml

from fem_core.config_files import load_config, parse_config
from fem_core.problems.profile import lines
from fem_core.problems.registry import load

ROOT = Path(__file__).resolve().parents[3]
PAGE = (ROOT / "docs" / "problems.md").read_text(encoding="utf-8")
FIGURES = re.findall(r"^\| (\d) ([^|]+) \| (\d+) \| (\d+) \| (\d+) \| ([0-9.]+|-) \|$", PAGE, re.MULTILINE)
COMMANDS = re.findall(r"^\.venv/bin/fem (preview .*?)\s+# (\d)$", PAGE, re.MULTILINE)


def test_the_snippets_are_configurations_of_the_sets_they_name() -> None:
    snippets = re.findall(r"^```yaml\n(.*?)^```", PAGE, re.MULTILINE | re.DOTALL)
    hub, file = (parse_config(yaml.safe_load(snippet)).problems for snippet in snippets)
    assert (hub.source, hub.hub, hub.test_split) == ("helpsteer2", "nvidia/HelpSteer2", "validation")  # type: ignore[union-attr]
    assert (file.source, file.hub, file.axis) == ("tldr", None, "accuracy")  # type: ignore[union-attr]


def test_every_row_of_figures_has_its_command() -> None:
    assert [row[0] for row in FIGURES] == [number for _, number in COMMANDS] == list("123456789")


@pytest.mark.parametrize(("row", "command"), zip(FIGURES, COMMANDS, strict=True), ids=[row[1] for row in FIGURES])
def test_the_figures_are_what_the_command_prints(
    shared_data: Path, row: tuple[str, ...], command: tuple[str, str]
) -> None:
    *_, setting = shlex.split(command[0].replace("$DATA", str(shared_data)))
    config = load_config(ROOT / "configs" / "demo.yaml", [setting])
    found = load(config.problems, config.seed)
    said = " ".join(lines(found.train, found.test))
    _, _, train, test, shared, baseline = row
    assert f"{train} training problems in" in said and f"{test} test problems in" in said
    assert f"{shared} groups are on both sides" in said
    assert (f"scores {baseline} on the test problems" in said) if baseline != "-" else ("scores" not in said)
