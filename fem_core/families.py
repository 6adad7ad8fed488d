"""Prompt families: the words of plain and hinted prompts for one kind of question, one file each in ``prompt_families/``.

Contract: a family's texts are copied into the configuration when it is loaded, so that they, and not the file's name,
are what a run is known by; a file that changes later changes no run. Needs nothing but YAML.
"""

import difflib
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, get_args

import yaml

Hint = Literal["answer", "candidates", "answer_with_reason_request", "solution"]
"""What a hinted prompt shows beside the question."""

FOLDER = Path(__file__).with_name("prompt_families")


@dataclass(frozen=True)
class Family:
    """The texts of one file."""

    system: str | None
    plain: str
    hinted: dict[str, str]
    """One prompt for each strength of the hint."""


def names() -> list[str]:
    """The families that there are."""
    return sorted(file.stem for file in FOLDER.glob("*.yaml"))


def read(name: str) -> Family:
    """A family by its name.

    Raises:
        ValueError: there is no such family, or its file is not one.
    """
    known = names()
    if name not in known:
        near = difflib.get_close_matches(name, known, n=1, cutoff=0.5)
        way = f"did you mean {near[0]!r}?" if near else f"known: {', '.join(known)}"
        raise ValueError(f"there is no prompt family {name!r}; {way}")
    return parse((FOLDER / f"{name}.yaml").read_text(encoding="utf-8"), f"prompt_families/{name}.yaml")


def parse(text: str, where: str) -> Family:
    """The family that a file's text holds.

    Raises:
        ValueError: it holds something else; the message names the file.
    """
    try:
        data = yaml.safe_load(text)
    except yaml.YAMLError as error:
        raise ValueError(f"{where} is not valid YAML: {' '.join(str(error).split())}") from error
    if not isinstance(data, dict) or not {"plain", "hinted"} <= data.keys() <= {"system", "plain", "hinted"}:
        raise ValueError(f"{where} must hold plain, hinted and, if wanted, system, and nothing else")
    system, plain, hinted = data.get("system"), data["plain"], data["hinted"]
    if not isinstance(hinted, dict) or hinted.keys() != set(get_args(Hint)):
        raise ValueError(f"{where} must hold under hinted one prompt for each of {', '.join(get_args(Hint))}")
    texts: list[Any] = [plain, *hinted.values(), *([] if system is None else [system])]
    if not all(isinstance(one, str) and one for one in texts):
        raise ValueError(f"{where} holds a prompt that is no text")
    return Family(system, plain, hinted)
