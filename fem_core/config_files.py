"""Configurations as files and text: reading YAML, applying overrides, and saying in words what is wrong.

Contract: whatever is wrong with what somebody wrote is one FemError in sentences, each with the way out. The sections
themselves are in ``config``.
"""

import difflib
import types
import typing
from pathlib import Path
from typing import Annotated, Any, get_args

import yaml
from pydantic import BaseModel, ValidationError

from fem_core.config import RunConfig
from fem_core.config_problems import SOURCES
from fem_core.errors import FemError


def load_config(path: str | Path, overrides: typing.Sequence[str] = (), **top: str) -> RunConfig:
    """Read a YAML file, apply ``a.b=c`` overrides (values are YAML) and validate.

    Args:
        top: top-level fields as plain text, such as ``name`` and ``store``.

    Raises:
        FemError: the file is missing or no YAML mapping, an override is malformed, a key is unknown, a value is wrong.
    """
    data = read_settings(path)
    for text in overrides:
        override(data, text)
    data |= top
    data.setdefault("name", Path(path).stem)
    return parse_config(data)


def read_settings(path: str | Path) -> dict[str, Any]:
    """The mapping in a YAML file.

    Raises:
        FemError: the file is missing or holds no YAML mapping.
    """
    file = Path(path)
    if not file.is_file():
        raise FemError(
            f"There is no configuration file {str(path)!r}. Name an existing YAML file, such as configs/demo.yaml."
        )
    try:
        data = yaml.safe_load(file.read_text(encoding="utf-8"))
    except (yaml.YAMLError, UnicodeDecodeError) as error:
        raise FemError(f"{path} is not valid YAML: {' '.join(str(error).split())}. Mend that line.") from error
    if not isinstance(data, dict):
        raise FemError(f"{path} does not hold a mapping of settings. See docs/configuration.md for its form.")
    return data


def parse_config(data: typing.Mapping[str, Any]) -> RunConfig:
    """Validate a mapping; errors as in ``load_config``."""
    try:
        return RunConfig.model_validate(data)
    except ValidationError as error:
        raise FemError(explain(error)) from error


def override(data: dict[str, Any], text: str) -> None:
    """Apply one ``a.b=c`` to a configuration as plain values; c is YAML.

    Raises:
        FemError: it is malformed.
    """
    key, equals, written = text.partition("=")
    if not equals or not key.strip():
        raise FemError(f"--set {text!r} is not of the form section.key=value. Write for example --set scheme.name=rs.")
    try:
        value = yaml.safe_load(written)
    except yaml.YAMLError as error:
        raise FemError(f"The value in --set {text!r} is not valid YAML. Quote it.") from error
    if isinstance(value, str):
        value = _number(value)
    put(data, key.strip(), value, f"--set {text!r}")


def put(data: dict[str, Any], key: str, value: Any, what: str) -> None:
    """Set the dotted ``key`` of a configuration as plain values; ``what`` names the setting in an error.

    Raises:
        FemError: the key goes through a value.
    """
    *path, last = key.split(".")
    for name in path:
        inner = data.setdefault(name, {})
        if not isinstance(inner, dict):
            raise FemError(f"{what} goes through {name!r}, which is not a section.")
        data = inner
    data[last] = value


def drop_replaced(data: dict[str, Any], fields: typing.Iterable[str]) -> None:
    """Take out of a configuration as plain values the prompt texts that the dotted ``fields``, set next, choose anew.

    A family chooses all texts and a hint the hinted one; texts that stand there would go before those that are asked for.
    """
    section, chosen = data.get("prompts"), set(fields)
    if not isinstance(section, dict):
        return
    for name, texts in {"family": ("system", "plain", "hinted"), "hint": ("hinted",)}.items():
        if f"prompts.{name}" in chosen:
            for text in texts:
                section.pop(text, None)


def _number(text: str) -> str | float:
    """YAML 1.1 reads ``1e-4`` as text; people mean a number."""
    try:
        return float(text) if any(c in "eE" for c in text) and any(c.isdigit() for c in text) else text
    except ValueError:
        return text


def explain(error: ValidationError, model: type[BaseModel] = RunConfig) -> str:
    """All mistakes of a configuration as sentences, each with the way out.

    Args:
        model: what the configuration was to be.
    """
    sentences = []
    for item in error.errors():
        loc, source = [str(part) for part in item["loc"]], None
        if loc[0:1] == ["problems"] and loc[1:2] and loc[1] in SOURCES:
            source = loc.pop(1)  # which class of the union was tried
        where = ".".join(loc) or "the configuration"
        if item["type"] == "extra_forbidden":
            sentences.append(f"Unknown key {where!r}; {nearest(loc, model, source)}")
        elif item["type"] == "missing":
            sentences.append(f"{where} is missing; add it.")
        else:
            message = item["msg"].removeprefix("Value error, ")
            value = None if loc in (["store"], ["s3", "endpoint_url"]) else item.get("input")  # it may hold a secret
            shown = f" (got {value!r})" if isinstance(value, (str, int, float, bool)) else ""
            sentences.append(f"{where}: {message}{shown}.")
    return " ".join(sentences)


def nearest(path: typing.Sequence[str], model: type[BaseModel] = RunConfig, source: str | None = None) -> str:
    """What somebody may have meant by a dotted path whose last name is not known there.

    Args:
        source: of the section ``problems``, where the path is in it: other sources' fields are not meant.
    """
    sections = sections_at(model, path[:-1])
    if source is not None:
        sections = [m for m in sections if source in get_args(m.model_fields["source"].annotation)]
    known = sorted({name for m in sections for name in m.model_fields})
    near = difflib.get_close_matches(path[-1], known, n=1, cutoff=0.5)
    return f"did you mean {'.'.join([*path[:-1], near[0]])!r}?" if near else f"known here: {', '.join(known)}."


def sections_at(model: type[BaseModel], path: typing.Sequence[str]) -> list[type[BaseModel]]:
    """The section classes that may stand at a dotted path (several where the type is a union)."""
    found = [model]
    for name in path:
        if name.isdigit():
            continue
        annotations = [m.model_fields[name].annotation for m in found if name in m.model_fields]
        found = [m for annotation in annotations for m in _models_in(annotation)]
    return found


def _models_in(annotation: Any) -> list[type[BaseModel]]:
    if isinstance(annotation, type) and issubclass(annotation, BaseModel):
        return [annotation]
    if typing.get_origin(annotation) in (typing.Union, types.UnionType, Annotated, tuple):
        return [m for inner in typing.get_args(annotation) for m in _models_in(inner)]
    return []
