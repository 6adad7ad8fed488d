"""What the README tells people to type: the targets exist, the commands parse, the snippets compile."""

import re
import shlex
from pathlib import Path

import pytest
import yaml

from fem_core.config_files import parse_config

ROOT = Path(__file__).parents[2]
PAGES = [ROOT / "README.md", *sorted((ROOT / "docs").rglob("*.md"))]


def blocks(page: Path, language: str) -> list[str]:
    return re.findall(rf"^```{language}\n(.*?)^```", page.read_text(encoding="utf-8"), flags=re.MULTILINE | re.DOTALL)


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_commands_name_what_exists(page: Path) -> None:
    targets = set(re.findall(r"^([a-z0-9-]+):", (ROOT / "Makefile").read_text(), flags=re.MULTILINE))
    for line in (line for block in blocks(page, "bash") for line in block.splitlines() if line.strip()):
        words = shlex.split(line, comments=True)
        if words[0] == "make":
            assert set(words[1:]) <= targets, line
        elif words[0].endswith("/fem"):
            from flows.cli import app

            app.parse_args(words[1:], exit_on_error=False, print_error=False)
            assert all((ROOT / word).is_file() for word in words if word.endswith(".yaml")), line
        else:
            assert (ROOT / words[0]).exists() or (ROOT / words[-1]).exists() or words[0].startswith(".venv/"), line


def test_the_readmes_own_problems_example_is_a_valid_configuration() -> None:
    (example,) = (block for block in blocks(ROOT / "README.md", "yaml"))
    config = parse_config(yaml.safe_load(example))
    assert config.problems.source == "table"


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_links_lead_somewhere(page: Path) -> None:
    for target in re.findall(r"\]\(([^)#]+)\)", page.read_text(encoding="utf-8")):
        if "://" not in target:
            assert (page.parent / target).exists(), target


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_no_page_waits_for_its_figures(page: Path) -> None:
    assert "@" + "@" not in page.read_text(encoding="utf-8")
