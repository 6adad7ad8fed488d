"""A comparison as text: the tables that the terminal and report.md show, and what was done to make arms comparable.

Contract: made from ``Results`` alone; the same results give the same text.
"""

from collections.abc import Sequence

from fem_core.compare.results import FINISHED, OTHER, Line, Mean, Results
from fem_core.digest import digest
from fem_core.store import layout, tables
from fem_core.store.store import Store

_FIGURES = {
    "accuracy": ("accuracy", 3),
    "calibration_error": ("calibration error", 3),
    "bound": ("bound, nats", 2),
    "utilization": ("utilization", 3),
    "mean_rationale_tokens": ("rationale tokens", 1),
    "rationales": ("rationales", 0),
    "draws_so_far": ("draws so far", 0),
    "drawn_tokens_so_far": ("tokens drawn so far", 0),
}
"""Columns of the first table by figure: header and digits."""

_WHERE_ASKED = ("calibration_error", "bound")
"""Figures that have a column only where some run has them."""

PAIR_HEADERS = (
    *("first", "second", "iterations", "seeds", "pairs", "only first right", "only second right"),
    *("second - first", "95 % over problems", "over seeds", "McNemar p", "p, Holm"),
)

_MEANING = "Figures are means over seeds; ± is half of the 95 % Student interval over seeds, absent for one seed."
_TESTS = """Pairs are test problems that two arms answered under the same seed. The interval over problems is a percentile
interval of 10,000 bootstrap resamples, in which problems of one group stay together; McNemar's exact test takes every pair
as independent, which holds where seeds have test problems of their own and every group one problem. Neither knows how much
training varies: the column over seeds does. Holm's p-values bound the chance of any false difference in this table."""


def line_table(lines: Sequence[Line]) -> list[tuple[str, ...]]:
    """The first table, its headers first; what there is not is a dash."""
    shown = {line.arm: line.exemplars for line in reversed(lines)}
    names = [n for n in _FIGURES if n not in _WHERE_ASKED or any(n in line.figures for line in lines)]
    found: list[tuple[str, ...]] = [("arm", "iteration", "seeds", *(_FIGURES[name][0] for name in names))]
    for line in lines:
        k = str(line.iteration) if line.iteration == line.last else f"{line.iteration} to {line.last}"
        if line.exemplars != shown[line.arm]:
            k += f", {line.exemplars} exemplars"
        figures = (_mean(line.figures.get(name), _FIGURES[name][1]) for name in names)
        found.append((line.arm, k, str(line.seeds), *figures))
    return found


def pair_table(results: Results) -> list[tuple[str, ...]]:
    """The second table, its headers first."""
    return [
        PAIR_HEADERS,
        *(
            (
                pair.first,
                pair.second,
                pair.iterations,
                str(pair.seeds),
                str(pair.pairs),
                str(pair.only_first),
                str(pair.only_second),
                f"{pair.difference:+.3f}",
                f"{pair.low:+.3f} to {pair.high:+.3f}",
                _mean(pair.over_seeds, 3, "+") if pair.over_seeds.half is not None else "-",
                _p(pair.p),
                _p(pair.p_holm),
            )
            for pair in results.pairs
        ),
    ]


def title(results: Results) -> str:
    """One line that says which comparison this is and how far it has come."""
    done = sum(state == FINISHED for state in results.states.values())
    return f"{results.comparison.name}: {done} of {len(results.states)} runs finished"


def fairness(results: Results) -> str:
    """What was done to make the arms comparable, in sentences."""
    comparison = results.comparison
    if comparison.fair == "accepted":
        return (
            f"Equal rationales: every iteration of every run trains on at most {comparison.accepted} rationales, a random "
            "subset that the draws' seeds decide (filter.max_rationales); the rest are over_size. A control arm keeps one "
            "fixed subset in all iterations and under all seeds. Draws differ."
        )
    if comparison.fair == "draws":
        spent = ", ".join(f"{draws} (seed {seed})" for seed, draws in sorted(results.budget.items()))
        return (
            "Equal draws: under each seed all arms may use as many draws as the arm that drew least over its whole run: "
            f"{spent or 'none, as no finished arm draws'}. An arm is read at its last iteration within that, so it may have "
            "used less; iteration 0 means that its first iteration alone draws more. Control arms draw nothing, set no "
            "budget and are read at their last iteration. Training is not changed."
        )
    return "Nothing is made equal: arms differ in draws and in rationales."


def notes(results: Results) -> list[str]:
    """What the tables do not say by themselves."""
    said = list(results.notes)
    open_ = [f"{name} ({state})" for name, state in results.states.items() if state != FINISHED]
    if open_:
        said.append(f"Not finished: {', '.join(open_)}.")
    if OTHER in results.states.values():
        said.append(
            "A run with another configuration is left out: an earlier form of this comparison made it. Give the comparison "
            "another name."
        )
    return said


def markdown(results: Results) -> str:
    """The whole report."""
    parts = [f"# {title(results)}", fairness(results), _table(line_table(results.lines)), _MEANING]
    if results.at_budget:
        parts += ["## At equal draws", _table(line_table(results.at_budget))]
    if results.pairs:
        parts += ["## Arms against each other", _table(pair_table(results)), _TESTS]
    parts += [f"- {note}" for note in notes(results)]
    return "\n\n".join(parts) + "\n"


def write(store: Store, results: Results) -> str:
    """Put ``report.md``, ``figures.svg`` and ``results.parquet`` where the comparison's report lies, and say where.

    An earlier report is replaced: it was made from the same runs when they had come less far.
    """
    from fem_core.compare.figures import figures

    folder = layout.comparison(results.comparison.name)
    contents = {
        "report.md": (markdown(results) + "\n![figures](figures.svg)\n").encode(),
        "figures.svg": figures(results),
        "results.parquet": tables.encode(results.table(), digest(sorted(results.states))),
    }
    for name, data in contents.items():
        store.root.replace(f"{folder}/{name}", data)
    return f"{store.url}/{folder}"


def _mean(value: Mean | None, digits: int, sign: str = "") -> str:
    if value is None:
        return "-"
    text = f"{value.value:{sign}.{digits}f}"
    return text if value.half is None else f"{text} ± {value.half:.{digits}f}"


def _p(value: float) -> str:
    return f"{value:.3f}" if value >= 0.001 else f"{value:.1e}"


def _table(rows: Sequence[Sequence[str]]) -> str:
    """Markdown; the first row is the headers."""
    lines = ["| " + " | ".join(row) + " |" for row in rows]
    return "\n".join([lines[0], "|" + " --- |" * len(rows[0]), *lines[1:]])
