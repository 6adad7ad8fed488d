"""What answer-only training says of the gain of arms that draw rationales: whether it is label fitting.

Contract: pure over pairs and rows of a comparison. A gain over the base model that training on the right answers alone gives
as well needs no rationale, so it does not show that the model has learnt to reason (the paper has no such control).
"""

from collections.abc import Mapping, Sequence
from statistics import mean
from typing import TYPE_CHECKING, Any

from fem_core.compare.cells import Cell
from fem_core.sample.given import is_given

if TYPE_CHECKING:
    from fem_core.compare.results import Pair

CONTROL = "answer_only"


def label_fitting(
    pairs: "Sequence[Pair]", done: Sequence[Cell], rows: Sequence[Mapping[str, Any]], reached: Mapping[str, int]
) -> list[str]:
    """A sentence for each arm that gains over its base model, and not beyond the interval more than answers alone give it.

    Args:
        done: the runs that ``pairs`` are of.
        rows: as ``schemas.COMPARISON``.
        reached: the iteration at which each run is read.
    """
    by_arm: dict[str, dict[int, Cell]] = {}
    for cell in done:
        by_arm.setdefault(cell.arm, {})[cell.seed] = cell
    said = []
    for pair in pairs:
        for arm, control, sign in ((pair.first, pair.second, -1), (pair.second, pair.first, 1)):
            drew, answered = by_arm[arm], by_arm[control]
            seeds = [seed for seed in drew if seed in answered and drew[seed].group == answered[seed].group]
            if not seeds or not _drawn_beside_control(drew[seeds[0]], answered[seeds[0]]):
                continue
            low, high = sorted((sign * pair.low, sign * pair.high))
            gains = [mean(_gain(rows, one[seed], reached) for seed in seeds) for one in (drew, answered)]
            if gains[0] > 0 and low <= 0:
                said.append(
                    f"{arm} gains {gains[0]:+.3f} over its base model, and {control}, which trains on the right answers "
                    f"alone, {gains[1]:+.3f}. The difference of {sign * pair.difference:+.3f} ({low:+.3f} to {high:+.3f} "
                    "over problems) does not lie above 0: a gain that answers alone give as well is label fitting, and no "
                    "sign of reasoning."
                )
    return said


def _drawn_beside_control(drew: Cell, answered: Cell) -> bool:
    return answered.config.scheme.name == CONTROL and drew.config.iterations > 0 and not is_given(drew.config.scheme)


def _gain(rows: Sequence[Mapping[str, Any]], cell: Cell, reached: Mapping[str, int]) -> float:
    """Accuracy where a run is read, less that of its base model, the better one where the base model is scored twice."""
    own = [row for row in rows if row["run"] == cell.name and row["accuracy"] is not None]
    shown = cell.config.prompts.train_exemplars
    base = max(row["accuracy"] for row in own if row["iteration"] == 0)
    last = [row["accuracy"] for row in own if (row["iteration"], row["exemplars"]) == (reached[cell.name], shown)]
    return float(last[0] - base)
