"""Accuracy, utilization and rationale length over iterations, as one picture: the paper's three curves."""

import io
from typing import Any

from fem_core.report.summary import Summary


def curves(summary: Summary, format_: str = "svg") -> bytes:
    """Draw the curves of a run.

    Args:
        format_: ``svg`` or ``png``.
    """
    figure = blank((10.5, 3.2))
    accuracy, utilization, length = figure.subplots(1, 3)
    scored = [row for row in summary.rows if row.scores and row.exemplars == summary.rows[0].exemplars]
    xs = [row.iteration for row in scored]
    ys = [row.scores["accuracy"] for row in scored if row.scores]
    # Where nothing or all is right, rounding may put the end of the interval 1e-17 beyond the accuracy.
    low = [max(y - row.scores["low"], 0.0) for y, row in zip(ys, scored, strict=True) if row.scores]
    high = [max(row.scores["high"] - y, 0.0) for y, row in zip(ys, scored, strict=True) if row.scores]
    accuracy.errorbar(xs, ys, yerr=[low, high], marker="o", capsize=3, color="tab:blue", label="held out, 95 %")
    for row in summary.rows:
        if row.iteration == 0 and row.scores and row.exemplars != summary.rows[0].exemplars:
            label = f"base with {row.exemplars} exemplars"
            accuracy.axhline(row.scores["accuracy"], ls="--", color="tab:gray", label=label)
            accuracy.axhspan(row.scores["low"], row.scores["high"], color="tab:gray", alpha=0.15, lw=0)
    if summary.majority_baseline is not None:
        accuracy.axhline(summary.majority_baseline, ls=":", color="black", label="majority class")
    accuracy.legend(fontsize=8, frameon=False)
    used = [row for row in summary.rows if row.filtered]
    drawn = [row for row in used if not row.given]
    for axes, name, key, rows in (
        (utilization, "data utilization", "utilization", used),
        (length, "rationale length, tokens", "mean_rationale_tokens", drawn),
    ):
        axes.plot([row.iteration for row in rows], [row.filtered[key] for row in rows if row.filtered], marker="o")
        axes.set_title(name, fontsize=10)
    accuracy.set_title("accuracy", fontsize=10)
    accuracy.set_ylim(0, 1)
    utilization.set_ylim(0, 1)
    length.set_ylim(
        0, 1.2 * max((row.filtered["mean_rationale_tokens"] for row in drawn if row.filtered), default=1.0) or 1
    )
    for axes in (accuracy, utilization, length):
        axes.set_xlabel("iteration")
        axes.set_xlim(-0.3, summary.iterations + 0.3)
        if summary.iterations <= 10:
            axes.set_xticks(range(summary.iterations + 1))
        axes.spines[["top", "right"]].set_visible(False)
    return picture(figure, format_)


def blank(size: tuple[float, float]) -> Any:
    """An empty figure, width and height in inches, that needs no display."""
    import matplotlib

    matplotlib.use("agg")
    matplotlib.rcParams["svg.hashsalt"] = "fem"  # equal runs give equal files
    from matplotlib.figure import Figure

    return Figure(figsize=size, layout="constrained")


def picture(figure: Any, format_: str) -> bytes:
    """The figure as a file, ``svg`` or ``png``."""
    out = io.BytesIO()
    figure.savefig(out, format=format_, dpi=150, metadata={"Date": None} if format_ == "svg" else None)
    return out.getvalue()
