"""Quantities from beside the main run: kept tokens that make up for others, and other trainings."""

from functools import cache

import numpy as np
from scipy import stats

from book.experiments.plan import CHOICE_BUDGETS
from book.experiments.trainings import trainings
from book.ledger.evidence import Evidence
from book.ledger.means import BUDGETS, Means
from book.ledger.quantities import NoData, Quantity, metric

RESTORED = {  # variants with the covariance of all tokens, and the same choice as it is
    "covariance restored": "lofi",
    "deflated, covariance restored": "deflated, ridge 1",
    "random, covariance restored": "random",
}


@metric("restored.lead")
def _restored(e: Evidence) -> Quantity:
    answers = e.results.answers
    rows = answers[answers["group"] == "ablation"]
    if not {*RESTORED} <= {*rows["label"].unique()}:
        raise NoData("no variants with covariance restored")
    m = Means(rows)
    means = [
        [m.over("agreement", label, CHOICE_BUDGETS, "ablation") for label in pair]
        for pair in RESTORED.items()
    ]
    lead = np.mean([restored - plain for restored, plain in means], axis=0)
    what = "agreement with mean and covariance restored minus that without, mean of three methods"
    return e.sampled(lead, "points", what, int(np.median(m.asked)), m.images)


@cache
def _means(e: Evidence) -> list[Means]:
    """Means over the same questions, the shipped model first; images are resampled alike."""
    try:
        table, _ = trainings(e.results)
    except OSError as error:
        raise NoData("no models from other seeds") from error
    # `Means` takes more than is kept of the other models, and than is needed here
    table = table.assign(group="main", label=table["pruner"], transition="", total_variation=0.0)
    table["budget_measured"] = table["budget"]
    return [Means(rows) for _, rows in table.groupby("training", sort=False)]


def _lowest(e: Evidence, found: list[np.ndarray], unit: str, what: str) -> Quantity:
    """Return the quantity of that other model where it is lowest."""
    of = f"{what}, the lowest of {len(found)} other trainings" if len(found) > 1 else what
    m = _means(e)[0]
    return e.sampled(np.min(found, axis=0), unit, of, int(np.median(m.asked)), m.images)


@metric("trainings.rank_correlation")
def _rank_correlation(e: Evidence) -> Quantity:
    shipped, *others = _means(e)
    found = []
    for other in others:
        each = []
        for b in BUDGETS:
            names = [name for name in shipped.labels("main") if b in e.means.fair(name)]
            x, y = (
                stats.zscore(stats.rankdata([m("agreement", n, b) for n in names], axis=0), axis=0)
                for m in (shipped, other)
            )
            each.append((x * y).mean(0))
        found.append(np.mean(each, axis=0))
    what = "rank correlation of the methods' agreement at one budget with that in another training"
    return _lowest(e, found, "correlation", what)


@metric("trainings.lead.lofi.random", "lofi", "random", "LoFi")
@metric("trainings.lead.deflated.lofi", "deflated-lofi", "lofi", "deflated LoFi")
@metric("trainings.lead.deflated.divprune", "deflated-lofi", "divprune", "deflated LoFi")
def _lead(e: Evidence, ahead: str, other: str, name: str) -> Quantity:
    found = [m.lead(ahead, other) for m in _means(e)[1:]]
    return _lowest(e, found, "points", f"agreement of {name} minus {other}'s in another training")
