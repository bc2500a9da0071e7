r"""Means over questions that come in images: intervals, and tests of paired differences.

Questions about one image are not independent, so every interval here treats the image, not the
question, as the unit that was sampled. With C clusters (images), sums S_c of a quantity over the
n_c questions of cluster c, and n = sum n_c, the mean is the ratio m = sum_c S_c / n, and

    se^2 = C / (C - 1) sum_c (S_c - m n_c)^2 / n^2,        m +- t_{C-1} se,

the ratio estimator of cluster sampling (Cochran, Sampling Techniques, 3rd ed., eq. 6.13 and 9A).
Beside it stands the percentile bootstrap that draws C clusters with replacement.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from lofi_core.errors import LofiError, extra

with extra("eval"):
    import pandas as pd
    from scipy import stats

__all__ = ["Estimate", "clustered_means", "holm", "mcnemar"]

_BLOCK = 1 << 22  # entries of the bootstrap's weights held at a time


@dataclass(frozen=True)
class Estimate:
    """A mean over questions, with what is uncertain about it.

    Parameters
    ----------
    value : float
        The mean.
    low, high : float
        Interval from the bootstrap over clusters.
    standard_error : float
        Of the ratio estimator, in closed form.
    closed_low, closed_high : float
        Interval that follows from it.
    """

    value: float
    low: float
    high: float
    standard_error: float
    closed_low: float
    closed_high: float

    def __str__(self) -> str:
        """Render value and bootstrap interval."""
        return f"{self.value:.4f} [{self.low:.4f}, {self.high:.4f}]"


def clustered_means(
    values: pd.DataFrame,
    groups: Sequence[Any] | np.ndarray | pd.Series,
    bounds: Mapping[str, tuple[float, float]] | None = None,
    level: float = 0.95,
    draws: int = 2000,
    seed: int = 0,
) -> dict[str, Estimate]:
    """Mean of each column, with intervals clustered by group.

    All columns share the bootstrap's draws. Where a column is one and the same number c throughout,
    both formulas would give an interval of length 0, which claims too much. If the column's bounds
    are given, it then gets the "rule of three": a cluster that differs has probability at most
    ``b = 1 - (1 - level)^(1 / C)``, or none would have been missed, and so the mean lies within
    ``[c - b (c - low), c + b (high - c)]`` (for clusters of equal size).

    Parameters
    ----------
    values : DataFrame, n rows
        One row a question. A column with NaN gives an estimate of NaN.
    groups : sequence of n labels
        The cluster of each row.
    bounds : mapping of column to (low, high), optional
        What its values can be at all.
    level : float in (0, 1)
        Confidence level.
    draws : int
        Bootstrap samples.
    seed : int
        Of the bootstrap.

    Returns
    -------
    dict of str to Estimate
        By column.

    Raises
    ------
    LofiError
        If there are no rows, fewer than two clusters, or not one label a row.

    Examples
    --------
    >>> flips = pd.DataFrame({"flip": [1, 1, 0, 0, 0, 0]})
    >>> estimate = clustered_means(flips, ["a", "a", "b", "b", "c", "c"])["flip"]
    >>> round(estimate.value, 4), round(estimate.standard_error, 4)
    (0.3333, 0.3333)
    """
    codes, names = pd.factorize(np.asarray(groups))
    C, n = len(names), len(values)
    if len(codes) != n or C < 2 or (codes < 0).any():
        raise LofiError(
            f"clustered_means: {len(codes)} labels of {C} groups for {n} rows; expected one label "
            "a row and at least two groups: an interval over images needs more than one image"
        )
    if not 0 < level < 1 or draws < 1:
        raise LofiError(
            f"clustered_means: level={level}, draws={draws}; expected a level in (0, 1) and at "
            "least one draw, e.g. 0.95 and 2000"
        )
    x = values.to_numpy(dtype=float)  # (n, q)
    sums = np.zeros((C, x.shape[1]))
    np.add.at(sums, codes, x)
    sizes = np.bincount(codes, minlength=C).astype(float)
    means = x.mean(0)
    error = np.sqrt(C / (C - 1) * ((sums - np.outer(sizes, means)) ** 2).sum(0)) / n
    reach = stats.t.ppf((1 + level) / 2, C - 1) * error
    tail = (1 - level) / 2
    low, high = np.quantile(_bootstrap(sums, sizes, draws, seed), [tail, 1 - tail], axis=0)
    estimates = {}
    rare = 1 - (1 - level) ** (1 / C)
    for j, column in enumerate(values.columns):
        edges = [low[j], high[j], means[j] - reach[j], means[j] + reach[j]]
        if bounds and column in bounds and np.ptp(x[:, j]) == 0:
            least, most = bounds[column]
            edges = [means[j] - rare * (means[j] - least), means[j] + rare * (most - means[j])] * 2
        numbers = [means[j], *edges[:2], error[j], *edges[2:]]
        estimates[str(column)] = Estimate(*(float(number) for number in numbers))
    return estimates


def _bootstrap(sums: np.ndarray, sizes: np.ndarray, draws: int, seed: int) -> np.ndarray:
    """Ratios of ``draws`` samples of the clusters, (draws, q); blocks only bound the memory."""
    C = len(sizes)
    rng = np.random.default_rng(seed)
    shares, block, ratios = np.full(C, 1 / C), max(1, _BLOCK // C), []
    for start in range(0, draws, block):
        weights = rng.multinomial(C, shares, size=min(block, draws - start)).astype(float)
        ratios.append(weights @ sums / (weights @ sizes)[:, None])
    return np.concatenate(ratios)


def mcnemar(first: Sequence[bool] | pd.Series, second: Sequence[bool] | pd.Series) -> float:
    """Exact McNemar test of whether two paired columns are true equally often.

    If they are, a pair that differs is of either kind with equal chance, so that of b + c such
    pairs the rarer kind is binomial: ``p = min(1, 2 P(Bin(b + c, 1/2) <= min(b, c)))``. The test
    takes pairs for independent; where questions share images, see the clustered interval too.

    Parameters
    ----------
    first, second : sequences of bool
        For example the ``right`` columns of two tables in the same order, or the ``agreement`` of
        two `lofi_core.evaluation.consistency.Comparison.samples`. Series must have the same index.

    Returns
    -------
    float
        Two-sided p-value in (0, 1]; 1 if no pair differs.

    Raises
    ------
    LofiError
        If the columns are empty, of unequal length, or Series of unequal index.

    Examples
    --------
    >>> mcnemar([True] * 8 + [False] * 2, [True] * 2 + [False] * 8)
    0.03125
    """
    labels = [x.index for x in (first, second) if isinstance(x, pd.Series)]
    if len(labels) == 2 and not labels[0].equals(labels[1]):
        raise LofiError(
            "mcnemar: two Series with other rows, or in another order; expected the same index: "
            "take them from Comparison.samples, where rows are matched"
        )
    a, b = np.asarray(first, dtype=bool), np.asarray(second, dtype=bool)
    if a.shape != b.shape or a.ndim != 1 or not len(a):
        raise LofiError(
            f"mcnemar: columns of shape {a.shape} and {b.shape}; expected the same length, >= 1"
        )
    only_first, only_second = int((a & ~b).sum()), int((b & ~a).sum())
    differ = only_first + only_second
    if differ == 0:
        return 1.0
    return float(stats.binomtest(only_first, differ).pvalue)


def holm(pvalues: Sequence[float] | np.ndarray) -> np.ndarray:
    """Holm's step-down correction of the p-values of one table's comparisons.

    Sorted ascending, ``p~_(i) = max_{j <= i} min(1, (M - j + 1) p_(j))``: the chance of a single
    false finding among those with ``p~ <= a`` is at most a, whatever their dependence (Holm 1979).

    Returns
    -------
    ndarray, shape (M,), float64
        Corrected p-values in the order given.

    Raises
    ------
    LofiError
        If one is not in [0, 1].

    Examples
    --------
    >>> holm([0.01, 0.04, 0.03])
    array([0.03, 0.06, 0.06])
    """
    p = np.asarray(pvalues, dtype=float)
    if p.ndim != 1 or not ((p >= 0) & (p <= 1)).all():
        raise LofiError(f"holm: p-values {p}; expected one dimension, numbers in [0, 1]")
    order = p.argsort(kind="stable")
    steps = np.maximum.accumulate(np.minimum(1, (len(p) - np.arange(len(p))) * p[order]))
    corrected = np.empty_like(p)
    corrected[order] = steps
    return corrected
