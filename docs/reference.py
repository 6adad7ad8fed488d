"""Writes docs/configuration.md from the docstrings of the configuration, and checks that the two have not drifted.

``python -m docs.reference`` writes, ``python -m docs.reference --check`` exits 1 when the file is out of date.
"""

import sys
import types
import typing
from pathlib import Path

from pydantic import BaseModel
from pydantic_core import PydanticUndefined

from fem_core.config import RunConfig
from fem_core.config_files import sections_at

PAGE = Path(__file__).with_name("configuration.md")

HEAD = """# Configuration

One YAML file says a whole run; `fem run FILE --set section.field=value` overrides a field. Unknown keys are refused.
Fields marked *place* say where or how wide a run executes: they take no part in the configuration's digest, so a run
may continue with other values of them. Everything else is fixed for a run's life.

This page is written by `make docs` from the docstrings in `fem_core/config.py` and `fem_core/config_problems.py`.
"""


def render() -> str:
    """The page."""
    parts = [HEAD]
    for path in _sections(RunConfig, ()):
        for model in sections_at(RunConfig, path):
            name = ".".join(path) or "Top level"
            several = len(sections_at(RunConfig, path)) > 1
            parts.append(f"## {name}{f' ({model.__name__})' if several else ''}\n\n{_flat(model.__doc__ or '')}\n")
            parts.append("| field | type | default | meaning |\n|---|---|---|---|")
            parts += [_row(field, model.model_fields[field]) for field in model.model_fields]
            parts.append("")
    return "\n".join(parts)


def _sections(model: type[BaseModel], path: tuple[str, ...]) -> list[tuple[str, ...]]:
    found = [path]
    for name in model.model_fields:
        inner = sections_at(model, (name,))
        if inner:
            found += [p for m in inner[:1] for p in _sections(m, (*path, name))]
    return found


def _row(name: str, field: typing.Any) -> str:
    extra = field.json_schema_extra
    place = " *Place.*" if isinstance(extra, dict) and extra.get("identity") is False else ""
    limits = ", ".join(_limit(m) for m in field.metadata if _limit(m))
    type_ = _type(field.annotation) + (f", {limits}" if limits else "")
    return f"| `{name}` | {_cell(type_)} | {_cell(_default(field))} | {_cell(_flat(field.description or ''))}{place} |"


def _default(field: typing.Any) -> str:
    if field.default is PydanticUndefined:
        return "required"
    if isinstance(field.default, BaseModel):
        return "see below"
    if field.default is None:
        return "none"
    return (
        f"`{field.default!r}`"
        if not isinstance(field.default, str)
        else f"`{field.default.encode('unicode_escape').decode()}`"
    )


def _limit(item: typing.Any) -> str:
    for attribute, sign in (("ge", "≥"), ("gt", ">"), ("le", "≤"), ("lt", "<")):
        if (value := getattr(item, attribute, None)) is not None:
            return f"{sign} {value}"
    return ""


def _type(annotation: typing.Any) -> str:
    origin = typing.get_origin(annotation)
    arguments = typing.get_args(annotation)
    if origin is typing.Literal:
        return ", ".join(f"`{value}`" for value in arguments)
    if origin in (typing.Union, types.UnionType):
        return " or ".join(dict.fromkeys(_type(a) for a in arguments if a is not type(None)))
    if origin is typing.Annotated:
        return _type(arguments[0])
    if origin in (list, tuple):
        return f"list of {_type(arguments[0])}"
    if origin is dict:
        return "mapping"
    if isinstance(annotation, type) and issubclass(annotation, BaseModel):
        return "section"
    return {"str": "text", "int": "integer", "float": "number", "bool": "true or false"}.get(
        annotation.__name__, annotation.__name__
    )


def _flat(text: str) -> str:
    return " ".join(text.split())


def _cell(text: str) -> str:
    return text.replace("|", "\\|")


def main() -> None:
    """Write or check the page."""
    page = render()
    if "--check" in sys.argv[1:]:
        if not PAGE.is_file() or PAGE.read_text(encoding="utf-8") != page:
            sys.exit("docs/configuration.md has drifted from the configuration's docstrings. Run `make docs`.")
        return
    PAGE.write_text(page, encoding="utf-8")


if __name__ == "__main__":
    main()
