"""Quantities of the hazard: flips, what accuracy hides of them, and the noise floor."""

import numpy as np
import pandas as pd

from book.ledger.evidence import Evidence
from book.ledger.means import SEED, Means
from book.ledger.quantities import NoData, Quantity, metric
from book.ledger.worlds import COUNTING
from lofi_core.evaluation.statistics import clustered_means

HALF = 0.5


def _mean(w: np.ndarray, values: np.ndarray) -> np.ndarray:
    """Weighted mean over methods, (rows,)."""
    return (values * w).sum(1) / np.where(w.sum(1) > 0, w.sum(1), np.nan)


def _at_half(e: Evidence, values: dict[str, np.ndarray], unit: str, what: str) -> Quantity:
    sample, without = e.means.across(_mean, {name: [value] for name, value in values.items()})
    return e.sampled(sample, unit, f"{what}, mean of published methods", without=without)


@metric("published.accuracy_change@50", "accuracy_change", "change of accuracy", views=COUNTING)
@metric("published.total_variation@50", "total_variation", "total variation", views=COUNTING)
@metric("published.flips@50", "flip", "share of answers that flip", views=COUNTING)
def _plain(e: Evidence, quantity: str, what: str) -> Quantity:
    names = e.means.published([HALF])
    unit = "points" if quantity == "accuracy_change" else "share"
    return _at_half(e, {name: e.means(quantity, name, HALF) for name in names}, unit, what)


@metric("published.excess_flips@50", views=COUNTING)
def _excess(e: Evidence) -> Quantity:
    """Beyond the flip rate of the noisiest arm in float32, where nothing is pruned."""
    m, labels = e.means, _noise_labels(e.means)
    floor = np.max([m("flip", label, 1.0, "noise") for label in labels], axis=0)
    values = {name: m("flip", name, HALF) - floor for name in m.published([HALF])}
    return _at_half(e, values, "share", "flips beyond the noise floor")


@metric("published.hidden_flips@50", views=COUNTING)
def _hidden(e: Evidence) -> Quantity:
    m = e.means
    values = {
        name: m("flip", name, HALF) - 3 * np.abs(m("accuracy_change", name, HALF))
        for name in m.published([HALF])
    }
    return _at_half(e, values, "points", "flips minus three times the absolute change of accuracy")


@metric("published.cancelling@50", views=COUNTING)
def _cancelling(e: Evidence) -> Quantity:
    def share(w: np.ndarray, won: np.ndarray, lost: np.ndarray) -> np.ndarray:
        return _mean(w, won) / (_mean(w, won) + _mean(w, lost))

    m, kinds = e.means, ("wrong_to_right", "right_to_wrong")
    values = {name: [m(kind, name, HALF) for kind in kinds] for name in m.published([HALF])}
    sample, without = m.across(share, values)
    what = "share from wrong to right of the flips between the two, published methods"
    return e.sampled(sample, "share", what, without=without)


@metric("noise.float32.max")
def _noise(e: Evidence) -> Quantity:
    """The interval is by the rule of three where nothing flips."""
    m, rows = e.means, []
    for label in _noise_labels(m):
        flips, counts = (m.sums[q][:, m.columns(label, 1.0, "noise")[0]] for q in ("flip", "count"))
        asked = counts > 0
        shares = pd.DataFrame({"flip": flips[asked] / counts[asked]})  # of equally many questions
        (row,) = clustered_means(shares, range(len(shares)), (0, 1), seed=SEED).itertuples()
        rows.append((row.value, row.low, row.high, int(counts.sum()), len(shares)))
    what = "largest share of answers that flip with nothing pruned, float32"
    return e.quantity(*max(rows, key=lambda row: row[2]), "share", what)


def _noise_labels(m: Means) -> list[str]:
    """Return the numerical conditions that keep to float32."""
    labels = [label for label in m.labels("noise") if "float" not in label]
    if not labels:
        raise NoData("no arms of noise")
    return labels
