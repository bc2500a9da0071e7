"""Quantities from beside the main run: kept tokens that make up for others, other trainings."""

from functools import cache

import numpy as np
import pandas as pd

from book.experiments.plan import CHOICE_BUDGETS
from book.experiments.trainings import trainings
from book.ledger.evidence import Evidence
from book.ledger.means import BUDGETS, SEED, Means, times_drawn
from book.ledger.midranks import spearman
from book.ledger.quantities import NoData, Quantity, metric
from book.ledger.worlds import COUNTING, RESTORED, reversed_ranking


@metric("restored.lead", views=COUNTING)
def _restored(e: Evidence) -> Quantity:
    m = e.validation
    if not {*RESTORED} <= {*m.labels("ablation")}:
        raise NoData("no variants with covariance restored")
    means = [
        [m.over("agreement", label, CHOICE_BUDGETS, "ablation") for label in pair]
        for pair in RESTORED.items()
    ]
    lead = np.mean([restored - plain for restored, plain in means], axis=0)
    what = "agreement with mean and covariance restored minus that without, mean of three methods"
    counted = m.asked("ablation", next(iter(RESTORED)), CHOICE_BUDGETS[0])
    return e.sampled(lead, "points", what, counted)


@cache
def _means(e: Evidence) -> list[Means]:
    """Means over the same questions, the shipped model first; images are resampled alike."""
    try:
        table, _ = trainings(e.results)
    except OSError as error:
        raise NoData("no models from other seeds") from error
    if "uncounted" in e.worlds:
        family = e.results.questions["family"].loc["test"]
        where = pd.MultiIndex.from_frame(table[["image", "number"]])
        table = table[(family.reindex(where) != "counting").to_numpy()]
    # `Means` takes more than is kept of the other models, and than is needed here
    table = table.assign(transition="", total_variation=0.0, budget_measured=table["budget"])
    table["arm"] = table.groupby(["pruner", "budget", "seed"], dropna=False).ngroup()
    arms = table.drop_duplicates("arm").set_index("arm").rename(columns={"pruner": "label"})
    arms = arms.assign(group="main")
    shipped, *others = (Means(rows, arms) for _, rows in table.groupby("training", sort=False))
    if "reversed" in e.worlds:
        others = [other.seen(reversed_ranking) for other in others]
    return [shipped, *others]


def _lowest(e: Evidence, found: list[np.ndarray], unit: str, what: str) -> Quantity:
    """Return the quantity of that other model where it is lowest."""
    of = f"{what}, the lowest of {len(found)} other trainings" if len(found) > 1 else what
    counted = _means(e)[0].asked("main", "lofi", BUDGETS[0])
    return e.sampled(np.min(found, axis=0), unit, of, counted)


@metric("trainings.rank_correlation", views=COUNTING)
def _rank_correlation(e: Evidence) -> Quantity:
    """Spearman's, of a sample of the methods in each sample of the images."""
    shipped, *others = _means(e)
    methods, found = np.array(shipped.labels("main")), []
    drawn = times_drawn(len(methods), SEED + 1)
    for other in others:
        each = []
        for b in BUDGETS:
            there = {name for _, name, at in other.cells if at == b}
            used = np.array([name in there and b in e.means.fair(name) for name in methods])
            x, y = (
                np.stack([m("agreement", name, b) for name in methods[used]], axis=1)
                for m in (shipped, other)
            )
            each.append(spearman(x, y, np.zeros(used.sum()), drawn[:, used]))
        found.append(np.mean(each, axis=0))
    what = "rank correlation of the methods' agreement at one budget with that in another training"
    return _lowest(e, found, "correlation", what)


@metric("trainings.lead.lofi.random", "lofi", "random", "LoFi", views=COUNTING)
@metric("trainings.lead.deflated.lofi", "deflated-lofi", "lofi", "deflated LoFi", views=COUNTING)
@metric(
    "trainings.lead.deflated.divprune", "deflated-lofi", "divprune", "deflated LoFi", views=COUNTING
)
def _lead(e: Evidence, ahead: str, other: str, name: str) -> Quantity:
    found = [m.lead(ahead, other) for m in _means(e)[1:]]
    return _lowest(e, found, "points", f"agreement of {name} minus {other}'s in another training")
