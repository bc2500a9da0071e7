"""Means of arms over questions, with one bootstrap over images for all of them.

A mean is computed once for the images as they are and once for each sample of them; every function
of means then has its sampling distribution for nothing. Methods, and the masks of random choice,
are resampled beside the images where a mean is over them.
"""

from collections.abc import Callable, Iterable, Mapping, Sequence
from copy import copy

import numpy as np
import pandas as pd

from book.ledger.quantities import NoData
from lofi_core.evaluation.statistics import resamples

__all__ = [
    "BUDGETS",
    "DRAWS",
    "FURTHEST",
    "KINDS",
    "PUBLISHED",
    "SEED",
    "Cells",
    "Means",
    "times_drawn",
]

BUDGETS = (0.5, 0.33, 0.22, 0.11)
FURTHEST = 0.02  # of the measured from the asked budget; arms beyond are not compared
DRAWS, SEED = 1000, 0

KINDS: dict[str, tuple[str, ...]] = {
    "attention": ("fastervlm", "visionzip", "vispruner", "hired", "prumerge", "prumerge+"),
    "inside": ("fastv", "pyramiddrop", "sparsevlm", "sparsevlm+"),
    "diversity": ("divprune", "dart", "cdpruner"),
    "merging": ("tome",),
    "text": ("trim",),
    "low_rank": ("lrcp",),
}
"""The published methods, by what they rank tokens by or where they act."""

PUBLISHED = tuple(name for names in KINDS.values() for name in names)
Cells = dict[tuple[str, str, float], list[int]]


def times_drawn(count: int, seed: int) -> np.ndarray:
    """How often each of ``count`` units counts: once, then as drawn, (1 + draws, count)."""
    return np.concatenate([np.ones((1, count)), *resamples(count, DRAWS, seed)])


class Means:
    """Means of arms over questions, for the images as they are and for samples of them.

    A cell is ``(group, label, budget)``, and holds the columns of its arms: one, or one per random
    mask. The first row of an array is the images as they are.
    """

    def __init__(self, answers: pd.DataFrame, arms: pd.DataFrame) -> None:
        kind, flip = answers["transition"], answers["flip"].astype(float)
        right = answers["right"].astype(float) - answers["reference_right"].astype(float)
        values = {
            "agreement": 1 - flip,
            "flip": flip,
            "right_to_wrong": (kind == "right to wrong").astype(float),
            "wrong_to_right": (kind == "wrong to right").astype(float),
            "accuracy_change": right,
            "total_variation": answers["total_variation"].astype(float),
            "measured": answers["budget_measured"].astype(float),
            "count": 1.0,
        }
        table = pd.DataFrame({**values, "image": answers["image"], "arm": answers["arm"]})
        wide = table.groupby(["image", "arm"]).sum().unstack("arm", fill_value=0.0)
        self.sums = {name: wide[name].to_numpy() for name in values}
        self.cells: Cells = {}
        facts = arms.loc[wide["count"].columns, ["group", "label", "budget"]]
        for column, (group, label, budget) in enumerate(facts.itertuples(index=False)):
            cell = (str(group), str(label), 1.0 if pd.isna(budget) else round(float(budget), 4))
            self.cells.setdefault(cell, []).append(column)
        self.images = len(wide)
        self.times = times_drawn(self.images, SEED)
        self._fair = {label: self._kept_to(label) for label in self.labels("main")}

    def seen(self, change: Callable[["Means"], Cells]) -> "Means":
        """Return the same means with other arms in some of the cells."""
        other = copy(self)
        other.cells, other.sums = dict(self.cells), dict(self.sums)
        other.cells = change(other)
        return other

    def mixed(self, columns: list[int]) -> list[list[int]]:
        """Add arms that take the given ones in turn, image by image, and return their columns."""
        turn, count = np.arange(self.images), len(columns)
        first = self.sums["count"].shape[1]
        for name, sums in self.sums.items():
            new = [sums[turn, np.array(columns)[(turn + j) % count]] for j in range(count)]
            self.sums[name] = np.column_stack([sums, *new])
        return [[first + j] for j in range(count)]

    def columns(self, label: str, budget: float, group: str = "main") -> list[int]:
        """Return the columns of a cell."""
        try:
            return self.cells[group, label, round(budget, 4)]
        except KeyError:
            raise NoData(f"no {group} arm {label} at {budget}") from None

    def __call__(self, quantity: str, label: str, budget: float, group: str = "main") -> np.ndarray:
        """Mean of one cell, (1 + draws,)."""
        return self._mean(quantity, self.columns(label, budget, group), slice(None))

    def _mean(self, quantity: str, columns: list[int], rows: np.ndarray | slice) -> np.ndarray:
        """Mean of some arms over some images; several arms are resampled as well."""
        sums, counts = (self.sums[name][rows][:, columns] for name in (quantity, "count"))
        times = self.times[:, rows]
        masks = times_drawn(len(columns), SEED + 2) if len(columns) > 1 else np.ones((1, 1))
        number = ((times @ counts) * masks).sum(1)
        return ((times @ sums) * masks).sum(1) / np.where(number > 0, number, np.nan)

    def over(
        self, quantity: str, label: str, budgets: Iterable[float] = BUDGETS, group: str = "main"
    ) -> np.ndarray:
        """Mean over budgets, (1 + draws,)."""
        return np.mean([self(quantity, label, b, group) for b in budgets], axis=0)

    def lead(
        self, ahead: str, other: str, budgets: Sequence[float] = BUDGETS, group: str = "main"
    ) -> np.ndarray:
        """Agreement of one minus that of another, on the images that both were asked about."""
        each = []
        for b in budgets:
            pair = self.columns(ahead, b, group), self.columns(other, b)
            both = np.all([(self.sums["count"][:, c] > 0).all(1) for c in pair], axis=0)
            first, second = (self._mean("agreement", columns, both) for columns in pair)
            each.append(first - second)
        return np.mean(each, axis=0)

    def across(
        self, statistic: Callable[..., np.ndarray], values: Mapping[str, Sequence[np.ndarray]]
    ) -> tuple[np.ndarray, dict[str, float]]:
        """Resample methods beside the images, and leave each of them out once.

        Parameters
        ----------
        statistic : callable
            From weights of the methods (rows, M) and one array (rows, M) per quantity to (rows,).
        values : mapping of method to (1 + draws,) arrays, one per quantity

        Returns
        -------
        ndarray, shape (1 + draws,)
            All methods and images as they are, then the samples.
        dict of str to float
            The first of these without one method.
        """
        arrays = [np.stack(columns, axis=1) for columns in zip(*values.values(), strict=True)]
        M = len(values)
        sample = statistic(times_drawn(M, SEED + 1), *arrays)
        heads = [array[:1] for array in arrays]
        rest = {name: 1 - np.eye(M)[[j]] for j, name in enumerate(values)} if M > 1 else {}
        return sample, {name: float(statistic(w, *heads)[0]) for name, w in rest.items()}

    def asked(self, group: str, label: str, budget: float) -> tuple[int, int]:
        """Count answers and images of one arm of a cell."""
        counts = self.sums["count"][:, self.columns(label, budget, group)[0]]
        return int(counts.sum()), int((counts > 0).sum())

    def labels(self, group: str) -> list[str]:
        """Labels of a group's arms."""
        return sorted({label for g, label, _ in self.cells if g == group})

    def deviation(self, label: str, budget: float) -> float:
        """Mean measured minus asked budget."""
        return float(self("measured", label, budget)[0]) - budget

    def fair(self, label: str) -> tuple[float, ...]:
        """Those of the four budgets that a method was run at, and kept to."""
        return self._fair.get(label, ())

    def _kept_to(self, label: str) -> tuple[float, ...]:
        run = [b for b in BUDGETS if ("main", label, b) in self.cells]
        return tuple(b for b in run if abs(self.deviation(label, b)) <= FURTHEST)

    def published(self, budgets: Sequence[float] = BUDGETS) -> list[str]:
        """Distinct methods of other papers that kept to these budgets."""
        names = [name for name in self.distinct() if {*budgets} <= {*self.fair(name)}]
        if not names:
            raise NoData(f"no published method at {budgets}")
        return names

    def distinct(self) -> list[str]:
        """Published methods, but for those that answer exactly as an earlier one does."""
        found: dict[str, dict[float, np.ndarray]] = {}
        for name in PUBLISHED:
            moved = {
                b: self.sums["total_variation"][:, columns]
                for (group, label, b), columns in self.cells.items()
                if group == "main" and label == name
            }
            twins = (
                moved.keys() == other.keys() and all(np.allclose(moved[b], other[b]) for b in moved)
                for other in found.values()
            )
            if moved and not any(twins):
                found[name] = moved
        return [*found]
