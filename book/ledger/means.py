"""Means of arms over questions, with one bootstrap over images for all of them.

A mean is computed once for the images as they are and once for each sample of them; every function
of means then has its sampling distribution for nothing.
"""

from collections.abc import Iterable, Sequence

import numpy as np
import pandas as pd

__all__ = ["BUDGETS", "DRAWS", "FIELD", "FURTHEST", "KINDS", "PUBLISHED", "SEED", "Means", "NoData"]

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


class NoData(Exception):
    """The results hold nothing that the figure could be computed from."""


class Means:
    """Means of arms over questions, for the images as they are and for samples of them.

    A cell is ``(group, label, budget)``, over all seeds; the first row of an array is the images as
    they are.
    """

    QUANTITIES = (
        "agreement",
        "flip",
        "right_to_wrong",
        "wrong_to_right",
        "accuracy_change",
        "total_variation",
        "deviation",
    )

    def __init__(self, answers: pd.DataFrame, draws: int = DRAWS, seed: int = SEED) -> None:
        budget = answers["budget"].fillna(1.0)
        kind, flip = answers["transition"], answers["flip"].astype(float)
        right = answers["right"].astype(float) - answers["reference_right"].astype(float)
        table = pd.DataFrame(
            {
                "group": answers["group"].astype(str),
                "label": answers["label"].astype(str),
                "budget": budget.round(4),
                "image": answers["image"],
                "agreement": 1 - flip,
                "flip": flip,
                "right_to_wrong": (kind == "right to wrong").astype(float),
                "wrong_to_right": (kind == "wrong to right").astype(float),
                "accuracy_change": right,
                "total_variation": answers["total_variation"].astype(float),
                "deviation": answers["budget_measured"].astype(float) - budget,
                "count": 1.0,
            }
        )
        sums = table.groupby(["image", "group", "label", "budget"]).sum()
        wide = sums.unstack(["group", "label", "budget"], fill_value=0.0)
        self.images = len(wide)
        times = np.random.default_rng(seed).multinomial(
            self.images, np.full(self.images, 1 / self.images), size=draws
        )
        times = np.vstack([np.ones(self.images), times])
        count = wide["count"]
        self.cells = {cell: i for i, cell in enumerate(count.columns)}
        self.asked = count.to_numpy().sum(0)
        number = times @ count.to_numpy()
        number[number == 0] = np.nan
        self.sums = {q: wide[q][count.columns].to_numpy() for q in self.QUANTITIES}
        self.of = {q: times @ sums / number for q, sums in self.sums.items()}
        self.times, self.counts = times, count.to_numpy()

    def __call__(self, quantity: str, label: str, budget: float, group: str = "main") -> np.ndarray:
        """Mean of one cell, (1 + draws,)."""
        try:
            return self.of[quantity][:, self.cells[group, label, round(budget, 4)]]
        except KeyError:
            raise NoData(f"no {group} arm {label} at {budget}") from None

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
