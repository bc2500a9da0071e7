"""Quantities of the hazard: flips, what accuracy hides of them, and the noise floor."""

import numpy as np

from book.ledger.evidence import Evidence
from book.ledger.means import FIELD, Means
from book.ledger.quantities import NoData, Quantity, metric


def _mean(m: Means, quantity: str, budget: float) -> np.ndarray:
    """Mean over the published methods at one budget."""
    return np.mean([m(quantity, name, budget) for name in m.published([budget])], axis=0)


def _floor(m: Means) -> np.ndarray:
    """Flip rate of the noisiest arm in float32: nothing is pruned there."""
    labels = [label for label in m.labels("noise") if "float" not in label]
    if not labels:
        raise NoData("no arms of noise")
    return np.max([m("flip", label, 1.0, "noise") for label in labels], axis=0)


@metric("published.accuracy_change@50", "accuracy_change", "change of accuracy")
@metric("published.total_variation@50", "total_variation", "total variation of the answers")
@metric("published.flips@50", "flip", "share of answers that flip")
def _at_half(e: Evidence, quantity: str, what: str) -> Quantity:
    return e.sampled(_mean(e.means, quantity, 0.5), "share", f"{what}, mean of published methods")


@metric("published.excess_flips@50")
def _excess(e: Evidence) -> Quantity:
    values = _mean(e.means, "flip", 0.5) - _floor(e.means)
    return e.sampled(values, "share", "flips beyond the noise floor, mean of published methods")


@metric("published.hidden_flips@50")
def _hidden(e: Evidence) -> Quantity:
    """Mean over methods of what is left of flips beyond three times the change of accuracy."""
    m = e.means
    each = [
        m("flip", name, 0.5) - 3 * np.abs(m("accuracy_change", name, 0.5))
        for name in m.published([0.5])
    ]
    what = "flips minus three times the absolute change of accuracy, mean of published methods"
    return e.sampled(np.mean(each, axis=0), "share", what)


@metric("published.cancelling@50")
def _cancelling(e: Evidence) -> Quantity:
    won, lost = (_mean(e.means, q, 0.5) for q in ("wrong_to_right", "right_to_wrong"))
    what = "share from wrong to right of the flips between the two, published methods"
    return e.sampled(won / (won + lost), "share", what)


@metric("published.flips.max", "flip", "flips")
@metric("published.right_to_wrong.max", "right_to_wrong", "flips from right to wrong")
def _largest(e: Evidence, quantity: str, what: str) -> Quantity:
    m = e.means
    each = [m(quantity, name, b) for b in FIELD for name in m.published([b])]
    return e.sampled(np.max(each, axis=0), "share", f"largest share of {what}, published methods")


@metric("noise.float32.max")
def _noise(e: Evidence) -> Quantity:
    """The interval is the rule-of-three one of `compare` where nothing flips."""
    arms = e.results.arms
    noise = arms[(arms["group"] == "noise") & ~arms["label"].astype(str).str.contains("float")]
    if noise.empty:
        raise NoData("no arms of noise")
    found = [e.results.compare(arm) for arm in noise.index]
    worst = max(found, key=lambda c: c.flip_rate.high)
    rate, n = worst.flip_rate, len(worst.samples)
    images = worst.samples["group"].nunique()
    what = "largest share of answers that flip with nothing pruned, float32"
    return e.quantity(rate.value, rate.low, rate.high, n, images, "share", what)
