r"""Counts of pairs and midranks under resampling of images, after one sort for all draws.

A bootstrap sample that draws image c t_c times gives each of its rows the weight t_c. With rows
sorted by value inside strata, and w(v) the weight of the rows of a stratum whose value is v,

    below(v) = sum_{u < v} w(u) + w(v) / 2

is one cumulative sum; it counts, ties half, the rows that a row of value v beats, and
``below(v) / W`` is its midrank as a fraction of the stratum's weight W.
"""

import numpy as np
from scipy import stats

__all__ = ["SortedColumn", "spearman"]


class SortedColumn:
    """A column sorted within strata, to be counted under any numbers of times t_c (draws, C).

    Parameters
    ----------
    x : ndarray, shape (n,)
        Values.
    stratum, image : ndarray, shape (n,), int
        Codes from 0; image c has the rows with ``image == c``.
    """

    def __init__(self, x: np.ndarray, stratum: np.ndarray, image: np.ndarray) -> None:
        self.order = np.lexsort((x, stratum))
        self.image = image[self.order]
        s, v = stratum[self.order], x[self.order]
        first = np.r_[True, s[1:] != s[:-1]]
        new = first | np.r_[True, v[1:] != v[:-1]]
        self.starts = np.flatnonzero(new)  # of runs of equal values
        self.heads = np.flatnonzero(first[self.starts])  # runs that begin a stratum
        self.stratum = first[self.starts].cumsum() - 1  # of each run
        self.run = np.empty(len(x), dtype=int)
        self.run[self.order] = new.cumsum() - 1

    def auc(self, times: np.ndarray, f: np.ndarray) -> np.ndarray:
        """Share of pairs (f = 1, f = 0) of a stratum in which the first is higher, (draws,).

        Parameters
        ----------
        times : ndarray, shape (draws, C)
            How often each image was drawn.
        f : ndarray, shape (n,), of 0 and 1
            Which rows are flipped.
        """
        weights = times[:, self.image]
        flipped = self._by_run(weights * f[self.order])
        other = self._by_run(weights) - flipped
        mine, theirs = (np.add.reduceat(own, self.heads, axis=1) for own in (flipped, other))
        pairs = (mine * theirs).sum(1)
        beaten = (flipped * self._below(other)).sum(1)
        return beaten / np.where(pairs > 0, pairs, np.nan)

    def ranks(self, times: np.ndarray) -> np.ndarray:
        """Midranks as fractions of the stratum's weight, about 0, (draws, n).

        Parameters
        ----------
        times : ndarray, shape (draws, C)
            How often each image was drawn.
        """
        own = self._by_run(times[:, self.image])
        total = np.add.reduceat(own, self.heads, axis=1)
        fractions = self._below(own) / np.where(total > 0, total, 1)[:, self.stratum] - 0.5
        return fractions[:, self.run]

    def _by_run(self, weights: np.ndarray) -> np.ndarray:
        return np.add.reduceat(weights, self.starts, axis=1)

    def _below(self, own: np.ndarray) -> np.ndarray:
        """Weight below each run's middle, in its stratum, (draws, runs)."""
        under = own.cumsum(1) - own
        if len(self.heads) > 1:
            under -= under[:, self.heads][:, self.stratum]
        return under + own / 2


def spearman(x: np.ndarray, y: np.ndarray, strata: np.ndarray) -> np.ndarray:
    """Correlation of midranks within strata, (draws,); NaN where nothing varies.

    Parameters
    ----------
    x, y : ndarray, shape (draws, A)
        Samples, a row each.
    strata : ndarray, shape (A,), int
        Ranks are taken within these, as fractions of their size, about 0.

    Examples
    --------
    >>> spearman(np.array([[1, 2, 9]]), np.array([[2, 3, 4]]), np.zeros(3)).round(6)
    array([1.])
    """
    a, b = (np.full(x.shape, np.nan) for _ in range(2))
    for s in np.unique(strata):
        mine = strata == s
        for ranks, values in ((a, x), (b, y)):
            ranks[:, mine] = (stats.rankdata(values[:, mine], axis=1) - 0.5) / mine.sum() - 0.5
    scale = np.sqrt((a**2).sum(1) * (b**2).sum(1))
    return (a * b).sum(1) / np.where(scale > 0, scale, np.nan)
