"""Quantities of LoFi against the others: agreement at equal budgets, and its price in accuracy."""

from collections.abc import Sequence

import numpy as np
from scipy import stats
from statsmodels.stats.multitest import multipletests

from book.ledger.evidence import Evidence
from book.ledger.means import BUDGETS, KINDS
from book.ledger.quantities import NoData, Quantity, metric


def _lead(e: Evidence, ahead: str, others: Sequence[str], what: str) -> Quantity:
    """Agreement minus the best other's, which is chosen anew in each sample.

    Each other counts at those of the four budgets that it kept to; where methods reach different
    ones, the smallest lead is that over the best.
    """
    m = e.means
    budgets = {name: m.fair(name) for name in others if m.fair(name)}
    if not budgets:
        raise NoData(f"none of {', '.join(others)} at the asked budgets")
    leads = [m.lead(ahead, name, b) for name, b in budgets.items()]
    nearest = [*budgets][int(np.argmin([lead[0] for lead in leads]))]
    asked = m.counts[:, m.cells["main", nearest, budgets[nearest][0]]]
    images = int((asked > 0).sum())
    n = images * int(np.median(m.counts[m.counts > 0]))
    short = [f"{n} at {' and '.join(f'{x:.0%}' for x in b)}" for n, b in budgets.items()]
    some = "".join(f"; {s}" for s, b in zip(short, budgets.values(), strict=True) if b != BUDGETS)
    what = what.format(", ".join(budgets)) + some
    return e.sampled(np.min(leads, axis=0), "points", what, n, images)


def _lead_kind(e: Evidence, kind: str, names: tuple[str, ...]) -> Quantity:
    which = kind.replace("_", " ")
    return _lead(e, "lofi", names, f"agreement of LoFi minus the best of {{}} ({which})")


def _lead_control(e: Evidence, name: str) -> Quantity:
    return _lead(e, "lofi", [name], f"agreement of LoFi minus that of {name}")


for _kind, _names in KINDS.items():
    metric(f"lofi.lead.{_kind}", _kind, _names)(_lead_kind)
for _name in ("random", "uniform", "norm", "pool", "anti-lofi"):
    metric(f"lofi.lead.{_name}", _name)(_lead_control)


@metric("deflated.lead.lofi")
def _deflated(e: Evidence) -> Quantity:
    what = "agreement of deflated LoFi minus that of LoFi"
    return _lead(e, "deflated-lofi", ["lofi"], what)


@metric("deflated.lead.best_published", "deflated-lofi", "deflated LoFi")
@metric("lofi.lead.best_published", "lofi", "LoFi")
def _lead_best(e: Evidence, label: str, name: str) -> Quantity:
    what = f"agreement of {name} minus the best of the published methods ({{}})"
    return _lead(e, label, e.means.published(), what)


@metric("lofi.lead.published", False)
@metric("lofi.lead.published.relative", True)
def _lead_mean(e: Evidence, relative: bool) -> Quantity:
    m = e.means
    theirs = np.mean([m.over("agreement", name) for name in m.published()], axis=0)
    lead = np.mean([m.lead("lofi", name) for name in m.published()], axis=0)
    what = "agreement of LoFi minus the mean of the published methods'"
    if relative:
        return e.sampled(lead / theirs, "ratio", f"{what}, relative to it")
    return e.sampled(lead, "points", what)


def _accuracy(e: Evidence, budget: float) -> Quantity:
    what = f"change of accuracy by LoFi at {budget:.0%} of the tokens"
    return e.sampled(e.means("accuracy_change", "lofi", budget), "points", what)


for _b in BUDGETS:
    metric(f"lofi.accuracy_change@{100 * _b:.0f}", _b)(_accuracy)


@metric("dynamic.lead")
def _dynamic(e: Evidence) -> Quantity:
    m = e.means
    lead = m.lead("lofi dynamic", "lofi", group="dynamic")
    what = "agreement of LoFi with IPR-driven minus fixed budgets of equal mean"
    return e.sampled(lead, "points", what)


@metric("published.below_random")
def _below_random(e: Evidence) -> Quantity:
    """Methods whose agreement is lower by a one-sided test after Holm's correction."""
    m = e.means
    leads = [m.lead(name, "random") for name in m.published()]
    p = [stats.norm.cdf(lead[0] / lead[1:].std(ddof=1)) for lead in leads]
    count = float((multipletests(p, method="holm")[1] < 0.05).sum())
    what = f"published methods, of {len(leads)}, that agree less often than random choice"
    return e.quantity(count, count, count, len(leads), m.images, "methods", what)


@metric("budget.deviation.max")
def _deviation(e: Evidence) -> Quantity:
    m = e.means
    cells = [(label, b) for group, label, b in m.cells if group == "main" and b in BUDGETS]
    worst = max(float(abs(m("deviation", *cell)[0])) for cell in cells)
    what = "largest deviation of mean measured from asked budgets, registered methods"
    return e.quantity(worst, worst, worst, len(cells), m.images, "share", what)
