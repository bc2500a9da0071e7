"""The figures that claims are judged by, computed from the committed results.

A key names a figure, such as ``lofi.lead.random``; `METRICS` holds what computes it. ``@22`` means
22 % of the visual tokens; a key without a budget is a mean over `BUDGETS`. A figure is computed
from `Evidence`, for the images as they are and for each bootstrap sample of them. Here are those of
the hazard and of the IPR.
"""

from collections.abc import Callable, Iterable
from functools import partial
from typing import Any

import numpy as np
import pandas as pd

from book.ledger.evidence import Evidence, Figure
from book.ledger.means import DRAWS, FIELD, PUBLISHED, SEED, Means, NoData
from book.ledger.prediction import arm_correlation
from book.ledger.strata import shuffled

__all__ = ["METRICS", "compute", "metric"]

Metric = Callable[[Evidence], Figure]
METRICS: dict[str, Metric] = {}


def metric(key: str, *arguments: Any) -> Callable[[Callable[..., Figure]], Callable[..., Figure]]:
    """Register a function of the evidence, with further arguments, under a key."""

    def register(function: Callable[..., Figure]) -> Callable[..., Figure]:
        METRICS[key] = partial(_called, function, arguments)
        return function

    return register


def _called(function: Callable[..., Figure], arguments: tuple[Any, ...], e: Evidence) -> Figure:
    return function(e, *arguments)


def compute(evidence: Evidence, keys: Iterable[str] | None = None) -> dict[str, Any]:
    """Compute figures; where there are no data, the reason stands under ``missing``."""
    found: dict[str, Any] = {}
    for key in METRICS if keys is None else keys:
        try:
            found[key] = METRICS[key](evidence).json()
        except NoData as reason:
            found[key] = {"missing": str(reason)}
    return found


def _mean(m: Means, quantity: str, budget: float) -> np.ndarray:
    """Mean over the published methods at one budget."""
    return np.mean([m(quantity, name, budget) for name in m.published([budget])], axis=0)


def _floor(m: Means) -> np.ndarray:
    """Flip rate of the noisiest arm in float32: nothing is pruned there."""
    labels = [label for label in m.labels("noise") if "float" not in label]
    if not labels:
        raise NoData("no arms of noise")
    return np.max([m("flip", label, 1.0, "noise") for label in labels], axis=0)


# --- the hazard ---


@metric("published.accuracy_change@50", "accuracy_change", "change of accuracy")
@metric("published.total_variation@50", "total_variation", "total variation of the answers")
@metric("published.flips@50", "flip", "share of answers that flip")
def _at_half(e: Evidence, quantity: str, what: str) -> Figure:
    return e.sampled(_mean(e.means, quantity, 0.5), "share", f"{what}, mean of published methods")


@metric("published.excess_flips@50")
def _excess(e: Evidence) -> Figure:
    values = _mean(e.means, "flip", 0.5) - _floor(e.means)
    return e.sampled(values, "share", "flips beyond the noise floor, mean of published methods")


@metric("published.hidden_flips@50")
def _hidden(e: Evidence) -> Figure:
    """Mean over methods of what is left of flips beyond three times the change of accuracy."""
    m = e.means
    each = [
        m("flip", name, 0.5) - 3 * np.abs(m("accuracy_change", name, 0.5))
        for name in m.published([0.5])
    ]
    what = "flips minus three times the absolute change of accuracy, mean of published methods"
    return e.sampled(np.mean(each, axis=0), "share", what)


@metric("published.cancelling@50")
def _cancelling(e: Evidence) -> Figure:
    won, lost = (_mean(e.means, q, 0.5) for q in ("wrong_to_right", "right_to_wrong"))
    what = "share from wrong to right of the flips between the two, published methods"
    return e.sampled(won / (won + lost), "share", what)


@metric("published.flips.max", "flip", "flips")
@metric("published.right_to_wrong.max", "right_to_wrong", "flips from right to wrong")
def _largest(e: Evidence, quantity: str, what: str) -> Figure:
    m = e.means
    each = [m(quantity, name, b) for b in FIELD for name in m.published([b])]
    return e.sampled(np.max(each, axis=0), "share", f"largest share of {what}, published methods")


@metric("noise.float32.max")
def _noise(e: Evidence) -> Figure:
    """The interval is the rule-of-three one of `compare` where nothing flips."""
    arms = e.results.arms
    noise = arms[(arms["group"] == "noise") & ~arms["label"].astype(str).str.contains("float")]
    if noise.empty:
        raise NoData("no arms of noise")
    found = [e.results.compare(arm) for arm in noise.index]
    worst = max(found, key=lambda c: c.flip_rate.high)
    rate, n = worst.flip_rate, len(worst.samples)
    images = worst.samples["group"].nunique()
    return e.figure(rate.value, rate.low, rate.high, n, images)(
        "share", "largest share of answers that flip with nothing pruned, float32"
    )


# --- energy and IPR ---


@metric("published.ipr_change.projector@22", "projector", "visual tokens at the projector")
@metric("published.ipr_change.last@22", "last", "visual tokens after the last layer")
@metric("published.ipr_change.text@22", "text", "text tokens after the last layer")
def _ipr_change(e: Evidence, column: str, what: str) -> Figure:
    rows = e.spectra[e.spectra["budget"].eq(0.22) & e.spectra["label"].isin(PUBLISHED)]
    if rows.empty:
        raise NoData("no spectra of published methods at 0.22")
    each = rows.groupby("image")[column].mean().to_numpy()
    rng = np.random.default_rng(SEED)
    sample = each[rng.integers(0, len(each), (DRAWS, len(each)))].mean(1)
    low, high = (float(v) for v in np.quantile(sample, [0.025, 0.975]))
    return e.figure(float(each.mean()), low, high, len(rows), len(each))(
        "ratio", f"absolute relative change of centred IPR, {what}, mean of published methods"
    )


def _over_arms(e: Evidence, rows: pd.DataFrame, column: str, within: str | None) -> Any:
    found = arm_correlation(
        rows, [column], "agreement", "cell", "image", within=within, draws=DRAWS, seed=SEED
    )
    return found.loc[column]


@metric("ipr.pooled.centered", "last", None)
@metric("ipr.pooled.uncentered", "uncentered", None)
@metric("ipr.within_budget.centered", "last", "budget")
@metric("ipr.within_budget.uncentered", "uncentered", "budget")
def _ipr_correlation(e: Evidence, column: str, within: str | None) -> Figure:
    where = "between methods at one budget" if within else "over methods and budgets"
    what = f"rank correlation of IPR change with agreement, {where}, last layer"
    centred = "centred" if column == "last" else "as they are"
    row = _over_arms(e, e.spectra, column, within)
    return e.row(row, "correlation", f"{what}, tokens {centred}")


@metric("ipr.pooled.shuffled")
def _ipr_shuffled(e: Evidence) -> Figure:
    control = shuffled(e.spectra[["last"]], e.spectra["budget"], seed=SEED)
    row = _over_arms(e, e.spectra.assign(last=control["last"]), "last", None)
    what = "rank correlation of IPR changes, shuffled within budgets, with agreement"
    return e.row(row, "correlation", what)


@metric("ipr.auc", "ipr", "", "AUC of telling flips within an arm by the image's IPR change")
@metric("margin.auc", "margin", "", "AUC of telling flips within an arm by the unpruned margin")
@metric("margin.auc_lead", "margin", "difference", "AUC by the margin minus AUC by IPR change")
def _auc(e: Evidence, predictor: str, prefix: str, what: str) -> Figure:
    return e.row(e.per_answer.loc[predictor], "AUC lead" if prefix else "AUC", what, prefix)
