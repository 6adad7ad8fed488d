"""A comparison as one picture: accuracy, utilization and length over iterations, and accuracy against what was drawn."""

from fem_core.compare.results import Line, Results
from fem_core.report.curves import blank, picture


def figures(results: Results, format_: str = "svg") -> bytes:
    """Draw the arms of a comparison; bars are the intervals over seeds.

    Args:
        format_: ``svg`` or ``png``.
    """
    figure = blank((10.5, 7.0))
    (accuracy, utilization), (length, cost) = figure.subplots(2, 2)
    shown = {line.arm: line.exemplars for line in reversed(results.lines)}
    arms = list(dict.fromkeys(line.arm for line in results.lines))
    for number, arm in enumerate(arms):
        lines = [line for line in results.lines if line.arm == arm and line.exemplars == shown[arm]]
        style = {"marker": "osD^v<>P*X"[number // 10 % 10], "color": f"C{number % 10}", "capsize": 3, "label": arm}
        for axes, name in (
            (accuracy, "accuracy"),
            (utilization, "utilization"),
            (length, "mean_rationale_tokens"),
        ):
            xs, ys, bars = _points(lines, name)
            axes.errorbar(xs, ys, yerr=bars, **style)
        xs, ys, bars = _points(lines, "accuracy", "drawn_tokens_so_far")
        cost.errorbar(xs, ys, yerr=bars, **style)
    for axes, title, label in (
        (accuracy, "accuracy", "iteration"),
        (utilization, "data utilization", "iteration"),
        (length, "rationale length, tokens", "iteration"),
        (cost, "accuracy against tokens drawn", "completion tokens drawn so far"),
    ):
        axes.set_title(title, fontsize=10)
        axes.set_xlabel(label)
        axes.spines[["top", "right"]].set_visible(False)
    for axes in (accuracy, utilization, cost):
        axes.set_ylim(0, 1)
    length.set_ylim(bottom=0)
    last = max((line.iteration for line in results.lines), default=0)
    for axes in (accuracy, utilization, length):
        axes.set_xlim(-0.3, last + 0.3)
        if last <= 10:
            axes.set_xticks(range(last + 1))
    if arms:
        accuracy.legend(fontsize=8, frameon=False)
    return picture(figure, format_)


def _points(lines: list[Line], name: str, against: str | None = None) -> tuple[list[float], list[float], list[float]]:
    """Places, heights and half intervals of what an arm has of a figure."""
    there = [line for line in lines if name in line.figures]
    xs = [float(line.iteration) if against is None else line.figures[against].value for line in there]
    return xs, [line.figures[name].value for line in there], [line.figures[name].half or 0.0 for line in there]
