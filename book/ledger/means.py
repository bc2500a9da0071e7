"""Means of arms over questions, with one bootstrap over images for all of them.

A mean is computed once for the images as they are and once for each sample of them; every function
of means then has its sampling distribution for nothing.
"""

from collections.abc import Iterable, Sequence

import numpy as np
import pandas as pd

from book.ledger.quantities import NoData
from lofi_core.evaluation.statistics import resamples

__all__ = ["BUDGETS", "DRAWS", "FIELD", "FURTHEST", "KINDS", "PUBLISHED", "SEED", "Means"]

BUDGETS = (0.5, 0.33, 0.22, 0.11)
FIELD = (0.33, 0.22, 0.11)  # 192, 128 and 64 of 576 tokens
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


class Means:
    """Means of arms over questions, for the images as they are and for samples of them.

    A cell is ``(group, label, budget)``, over all seeds; the first row of an array is the images as
    they are.
    """

    def __init__(self, answers: pd.DataFrame) -> None:
        budget = answers["budget"].fillna(1.0)
        kind, flip = answers["transition"], answers["flip"].astype(float)
        right = answers["right"].astype(float) - answers["reference_right"].astype(float)
        cell = {
            "group": answers["group"].astype(str),
            "label": answers["label"].astype(str),
            "budget": budget.round(4),
        }
        values = {
            "agreement": 1 - flip,
            "flip": flip,
            "right_to_wrong": (kind == "right to wrong").astype(float),
            "wrong_to_right": (kind == "wrong to right").astype(float),
            "accuracy_change": right,
            "total_variation": answers["total_variation"].astype(float),
            "deviation": answers["budget_measured"].astype(float) - budget,
            "count": 1.0,
        }
        table = pd.DataFrame({**cell, **values, "image": answers["image"]})
        wide = table.groupby(["image", *cell]).sum().unstack([*cell], fill_value=0.0)
        sums = {name: wide[name] for name in values}
        self.cells = {cell: i for i, cell in enumerate(sums["count"].columns)}
        self.counts = sums["count"].to_numpy()
        self.sums = {name: sums[name][[*self.cells]].to_numpy() for name in values}
        self.images, self.asked = len(wide), self.counts.sum(0)
        whole = np.ones((1, self.images))
        self.times = np.concatenate([whole, *resamples(self.images, DRAWS, SEED)])
        self.number = self.times @ self.counts
        self.number[self.number == 0] = np.nan

    def __call__(self, quantity: str, label: str, budget: float, group: str = "main") -> np.ndarray:
        """Mean of one cell, (1 + draws,)."""
        try:
            cell = self.cells[group, label, round(budget, 4)]
        except KeyError:
            raise NoData(f"no {group} arm {label} at {budget}") from None
        return self.times @ self.sums[quantity][:, cell] / self.number[:, cell]

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
        for b in (round(budget, 4) for budget in budgets):
            try:
                pair = [self.cells[group, ahead, b], self.cells["main", other, b]]
            except KeyError:
                raise NoData(f"no arms {ahead} and {other} at {b}") from None
            both = (self.counts[:, pair] > 0).all(1)
            sums, counts = (x[both][:, pair] for x in (self.sums["agreement"], self.counts))
            means = (self.times[:, both] @ sums) / (self.times[:, both] @ counts)
            each.append(means[:, 0] - means[:, 1])
        return np.mean(each, axis=0)

    def labels(self, group: str) -> list[str]:
        """Labels of a group's arms."""
        return sorted({label for g, label, _ in self.cells if g == group})

    def fair(self, label: str) -> tuple[float, ...]:
        """Those of the four budgets that a method was run at, and kept to."""
        return tuple(
            b
            for b in BUDGETS
            if ("main", label, b) in self.cells and abs(self("deviation", label, b)[0]) <= FURTHEST
        )

    def published(self, budgets: Sequence[float] = BUDGETS) -> list[str]:
        """Methods of other papers that kept to these budgets."""
        names = [name for name in PUBLISHED if {*budgets} <= {*self.fair(name)}]
        if not names:
            raise NoData(f"no published method at {budgets}")
        return names
