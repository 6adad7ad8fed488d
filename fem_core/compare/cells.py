"""From a comparison to its runs: every arm with every combination of the axes' values, each an ordinary run.

Contract: pure. A run is named ``COMPARISON.ARM.FIELD-VALUE.….seed-SEED``: the arm where there is one, then each axis but
the seed by the last part of its field (by all of it where two axes end alike), with ``_`` for what a name cannot hold; a
long value, a list or a mapping is the first 8 digits of its digest. The same comparison gives the same names, so doing
it again continues it. All of one seed come before the next seed, so that half a comparison compares all arms.
"""

import copy
import itertools
import re
import typing
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from fem_core.compare.comparison import Comparison
from fem_core.config import RunConfig, identity_of, plain_identity
from fem_core.config_files import drop_replaced, nearest, parse_config, put, sections_at
from fem_core.digest import digest
from fem_core.errors import FemError
from fem_core.store import layout

CAP = "filter.max_rationales"
"""What ``fair: accepted`` sets."""

_LONGEST = 40
_OF_ALL = ("name", "store", "s3")
"""What no two runs of a comparison differ in."""


@dataclass(frozen=True)
class Cell:
    """One run of a comparison."""

    name: str
    """The run's name."""
    arm: str
    """What its runs over seeds have in common: the name without the comparison's and the seed's."""
    seed: int
    """The run's seed."""
    config: RunConfig
    """The run's configuration."""

    @property
    def group(self) -> str:
        """Equal for runs with the same problems, base model and seed: these can refer to what others of them made."""
        shared = {"problems": self.config.problems, "model": self.config.model}
        return digest({"seed": self.seed, **{name: part.model_dump(mode="json") for name, part in shared.items()}})


def cells(comparison: Comparison) -> list[Cell]:
    """All runs of a comparison, in the order in which they are done.

    Raises:
        FemError: a field is unknown, an axis is empty, a combination is no valid configuration, two runs would be the
            same, or none is left.
    """
    _check_fields(comparison)
    axes = {field: values for field, values in comparison.axes.items() if field != "seed"}
    seeds = comparison.axes.get("seed", (comparison.base.get("seed", 0),))
    tags, used = _tags(list(axes)), [0] * len(comparison.exclude)
    found = []
    for seed, arm, values in itertools.product(seeds, comparison.arms or (None,), itertools.product(*axes.values())):
        chosen = dict(zip(axes, values, strict=True))
        place = chosen | {"seed": seed} | ({} if arm is None else {"arm": arm.name})
        excluded = [all(place.get(field) == value for field, value in one.items()) for one in comparison.exclude]
        used = [count + hit for count, hit in zip(used, excluded, strict=True)]
        if any(excluded):
            continue
        parts = [] if arm is None else [arm.name]
        label = ".".join([*parts, *(f"{tags[field]}-{_text(value)}" for field, value in chosen.items())]) or "base"
        settings = {**({} if arm is None else arm.set), **chosen, "seed": seed}
        found.append(_cell(comparison, label, settings))
    for one, count in zip(comparison.exclude, used, strict=True):
        if not count:
            raise FemError(f"exclude {one} matches no run. Correct its values, or leave it out.")
    if not found:
        raise FemError(f"Everything in the comparison {comparison.name!r} is excluded. Exclude less.")
    _refuse_doubles(found)
    return found


def beside(found: Iterable[Cell]) -> dict[str, Cell]:
    """By the name of each run, the run of its group that it begins beside, to refer to what that one makes alike: of those
    before it the one with the most steps alike, and of such the first; itself where there is none before it."""
    groups: dict[str, list[Cell]] = {}
    chosen = {}
    for cell in found:
        before = groups.setdefault(cell.group, [])
        chosen[cell.name] = max(before, key=lambda other: _alike(other.config, cell.config), default=cell)
        before.append(cell)
    return chosen


def _alike(one: RunConfig, other: RunConfig) -> tuple[int, int]:
    """How many of an iteration's steps come out alike, which need those before them; and how many parts of an evaluation."""

    def steps(config: RunConfig) -> list[Any]:
        drawn = [identity_of(part) for part in (config.prompts, config.scheme, config.sample)]
        return [
            (drawn, config.filter.looks),
            identity_of(config.filter),
            (identity_of(config.train), config.iterations),
        ]

    same = [a == b for a, b in zip(steps(one), steps(other), strict=True)]
    shown = [plain_identity(config.prompts, config.prompts.train_exemplars) for config in (one, other)]
    asked = [a == b for a, b in (shown, (one.evaluate, other.evaluate))]
    return len(list(itertools.takewhile(bool, same))), sum(asked)


def _cell(comparison: Comparison, label: str, settings: Mapping[str, Any]) -> Cell:
    seed = settings["seed"]
    name = f"{comparison.name}.{label}.seed-{_text(seed)}"
    if not layout.is_run_name(name):
        raise FemError(f"{name!r} is too long for the name of a run. Shorten the comparison's name or its arms' names.")
    data = copy.deepcopy(comparison.base)
    drop_replaced(data, settings)
    for field, value in settings.items():
        put(data, field, copy.deepcopy(value), f"{field} of {name}")
    if comparison.fair == "accepted":
        section = data.get("filter")
        if isinstance(section, dict) and section.get("max_rationales") is not None:
            raise FemError(f"{name} sets {CAP}, and so does fair: accepted. Leave one of them out.")
        put(data, CAP, comparison.accepted, f"{CAP} of {name}")
    try:
        config = parse_config(data | {"name": name})
    except FemError as error:
        raise FemError(f"{name} is no valid configuration: {error}") from error
    return Cell(name, label, config.seed, config)


def _check_fields(comparison: Comparison) -> None:
    for field, values in comparison.axes.items():
        check_field(field, "axes")
        if not values:
            raise FemError(f"The axis {field!r} has no values. Give it one or more, or leave it out.")
    for arm in comparison.arms:
        for field in arm.set:
            check_field(field, f"arm {arm.name!r}")
            if field in comparison.axes or field == "seed":
                raise FemError(f"{field!r} is set by arm {arm.name!r} and is an axis. Leave one of the two out.")
    known = ("arm", *comparison.axes)
    for one in comparison.exclude:
        for field in one:
            if field not in known:
                raise FemError(f"exclude names {field!r}, which is no axis. Known here: {', '.join(known)}.")


def check_field(dotted: str, where: str) -> None:
    """Refuse a dotted name that is no field of a run's configuration, or one in which runs may not differ.

    Raises:
        FemError: with the nearest known name.
    """
    path = dotted.split(".")
    if path[0] in _OF_ALL:
        raise FemError(f"{dotted!r} under {where} cannot differ between the runs of a comparison. Put it into base.")
    for i, name in enumerate(path):
        models = sections_at(RunConfig, path[:i])
        fields = [model.model_fields[name] for model in models if name in model.model_fields]
        if not models or any(typing.get_origin(field.annotation) is dict for field in fields):
            return  # keys of a free mapping, such as the parameters of a generator
        if not fields:
            raise FemError(f"Unknown field {dotted!r} under {where}; {nearest(path[: i + 1])}")
        if i + 1 < len(path) and not sections_at(RunConfig, path[: i + 1]):
            raise FemError(f"{'.'.join(path[: i + 1])!r} is no section, so {dotted!r} under {where} names no field.")


def _tags(fields: Sequence[str]) -> dict[str, str]:
    last = {field: _plain(field.rpartition(".")[2]) for field in fields}
    ends = Counter(last.values())
    return {field: end if ends[end] == 1 else _plain(field.replace(".", "-")) for field, end in last.items()}


def _text(value: Any) -> str:
    if isinstance(value, (dict, list, tuple)):
        return digest(value)[:8]
    text = "none" if value is None else str(value).lower() if isinstance(value, bool) else str(value)
    text = _plain(text)
    return text if len(text) <= _LONGEST else digest(value)[:8]


def _plain(text: str) -> str:
    return re.sub(r"[^A-Za-z0-9._-]", "_", text)


def _refuse_doubles(found: Sequence[Cell]) -> None:
    for name, count in Counter(cell.name for cell in found).items():
        if count > 1:
            raise FemError(f"{count} runs of the comparison would be called {name!r}. Name arms and values apart.")
    seen: dict[tuple[str, str], str] = {}
    for cell in found:
        same = (cell.config.digest(), cell.group)  # the group knows other weights and files
        if same in seen:
            raise FemError(f"{seen[same]} and {cell.name} are the same run under two names. Exclude one of them.")
        seen[same] = cell.name
