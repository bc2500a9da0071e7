r"""Means over questions that come in images, and the bootstrap over images behind every interval.

Questions about one image are not independent, so every interval here treats the image, not the
question, as the unit that was sampled. With C clusters (images), sums S_c of a quantity over the
n_c questions of cluster c, and n = sum n_c, the mean is the ratio m = sum_c S_c / n, and

    se^2 = C / (C - 1) sum_c (S_c - m n_c)^2 / n^2,

the ratio estimator of cluster sampling (Cochran, Sampling Techniques, 3rd ed., eq. 6.13 and 9A).
Intervals are percentiles of the bootstrap that draws C clusters with replacement: `resamples` says
how often each sample holds each cluster, so that any statistic which can be written with weights
has its sampling distribution from the same draws.
"""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from lofi_core.errors import LofiError, extra

with extra("eval"):
    import pandas as pd

__all__ = ["Estimate", "clustered_means", "resamples"]

_BLOCK = 1 << 18  # entries of a block, of which a few fit into a core's cache


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
    """

    value: float
    low: float
    high: float
    standard_error: float

    def __str__(self) -> str:
        """Render value and interval."""
        return f"{self.value:.4f} [{self.low:.4f}, {self.high:.4f}]"


def resamples(
    clusters: int, draws: int, seed: int = 0, entries: int | None = None
) -> Iterator[np.ndarray]:
    """Draw clusters with replacement, as many as there are, and count them.

    Parameters
    ----------
    clusters : int
        Their number C.
    draws : int
        Number of samples.
    seed : int
        Of the draws; the samples do not depend on the size of a block.
    entries : int, optional
        Entries that the caller needs for one draw, where those are more than C: it bounds the
        block.

    Yields
    ------
    ndarray, shape (block, C), float64
        How often each sample holds each cluster; rows sum to C.

    Examples
    --------
    >>> (times,) = resamples(clusters=3, draws=5)
    >>> times.sum(1).tolist()
    [3.0, 3.0, 3.0, 3.0, 3.0]
    """
    rng = np.random.default_rng(seed)
    shares, block = np.full(clusters, 1 / clusters), max(1, _BLOCK // (entries or clusters))
    for start in range(0, draws, block):
        yield rng.multinomial(clusters, shares, size=min(block, draws - start)).astype(float)


def clustered_means(
    values: pd.DataFrame,
    groups: Sequence[Any] | np.ndarray | pd.Series,
    bounds: tuple[float, float] | Mapping[Any, tuple[float, float]] | None = None,
    level: float = 0.95,
    draws: int = 2000,
    seed: int = 0,
) -> pd.DataFrame:
    """Mean of each column, with intervals clustered by group.

    Columns of the same rows share the bootstrap's draws. Where a column is one and the same number
    c throughout, both formulas would give an interval of length 0, which claims too much. If the
    column's bounds are given, it then gets the "rule of three": a cluster that differs has
    probability at most ``b = 1 - (1 - level)^(1 / C)``, or none would have been missed, and so the
    mean lies within ``[c - b (c - low), c + b (high - c)]`` (for clusters of equal size).

    Parameters
    ----------
    values : DataFrame, n rows
        One row per question; NaN where a question does not count for a column.
    groups : sequence of n labels
        The cluster of each row.
    bounds : (low, high) or mapping of column to (low, high), optional
        What single values can be at all.
    level : float in (0, 1)
        Confidence level.
    draws, seed : int
        Of the bootstrap.

    Returns
    -------
    DataFrame
        One row per column: ``value``, ``low``, ``high``, ``standard_error`` and the number of
        ``clusters``; NaN for a column without a number.

    Raises
    ------
    LofiError
        If there is not one label per row, or a column's rows are of a single cluster.

    Examples
    --------
    >>> flips = pd.DataFrame({"flip": [1, 1, 0, 0, 0, 0]})
    >>> means = clustered_means(flips, ["a", "a", "b", "b", "c", "c"])
    >>> means.loc["flip", ["value", "standard_error"]].round(4).tolist()
    [0.3333, 0.3333]
    """
    x, labels = values.to_numpy(dtype=float), np.asarray(groups)
    if len(labels) != len(x) or not len(x):
        raise LofiError(
            f"clustered_means: {len(labels)} labels for {len(x)} rows; expected one label per row, "
            "and at least two rows"
        )
    if not 0 < level < 1 or draws < 1:
        raise LofiError(
            f"clustered_means: level={level}, draws={draws}; expected a level in (0, 1) and at "
            "least one draw, e.g. 0.95 and 2000"
        )
    limits = bounds if isinstance(bounds, Mapping) else dict.fromkeys(values, bounds)
    edges = np.array([limits.get(column) or (np.nan, np.nan) for column in values])
    found = np.full((x.shape[1], 5), np.nan)
    asked = ~np.isnan(x)
    for pattern in np.unique(asked[:, asked.any(0)].T, axis=0):
        columns = np.flatnonzero((pattern[:, None] == asked).all(0))
        part = x[np.ix_(pattern, columns)]
        found[columns] = _means(part, labels[pattern], edges[columns], level, draws, seed)
    names = ["value", "low", "high", "standard_error", "clusters"]
    return pd.DataFrame(found, index=values.columns, columns=names)


def _means(
    x: np.ndarray, groups: np.ndarray, bounds: np.ndarray, level: float, draws: int, seed: int
) -> np.ndarray:
    """Value, limits, standard error and clusters of columns without NaN, (q, 5)."""
    codes, names = pd.factorize(groups)
    C, n = len(names), len(x)
    if C < 2 or (codes < 0).any():
        raise LofiError(
            f"clustered_means: {n} rows of {C} groups; expected at least two groups: an interval "
            "over images needs more than one image"
        )
    sums = np.zeros((C, x.shape[1]))
    np.add.at(sums, codes, x)
    sizes, means = np.bincount(codes, minlength=C).astype(float), x.mean(0)
    error = np.sqrt(C / (C - 1) * ((sums - np.outer(sizes, means)) ** 2).sum(0)) / n
    ratios = [times @ sums / (times @ sizes)[:, None] for times in resamples(C, draws, seed)]
    tail = (1 - level) / 2
    low, high = np.quantile(np.concatenate(ratios), [tail, 1 - tail], axis=0)
    least, most = bounds.T
    constant = (np.ptp(x, axis=0) == 0) & ~np.isnan(least)
    rare = 1 - (1 - level) ** (1 / C)
    low = np.where(constant, means - rare * (means - least), low)
    high = np.where(constant, means + rare * (most - means), high)
    return np.stack([means, low, high, error, np.full(len(means), C)], axis=1)
