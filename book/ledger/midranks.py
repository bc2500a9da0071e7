r"""Counts of pairs and midranks under resampling of images, after one sort for all draws.

A bootstrap sample that draws image c t_c times gives each of its rows the weight t_c. With rows
sorted by value inside strata, and w(v) the weight of the rows of a stratum whose value is v,

    below(v) = sum_{u < v} w(u) + w(v) / 2

is one cumulative sum; it counts, ties half, the rows that a row of value v beats, and
``below(v) / W`` is its midrank as a fraction of the stratum's weight W.
"""

import numpy as np

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
        """Share of pairs (f = 1, f = 0) in which the first is higher, (draws, strata).

        NaN where a stratum has no such pair.

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
        pairs = self._by_stratum(flipped) * self._by_stratum(other)
        beaten = self._by_stratum(flipped * self._below(other))
        return beaten / np.where(pairs > 0, pairs, np.nan)

    def ranks(self, times: np.ndarray) -> np.ndarray:
        """Midranks as fractions of the stratum's weight, about 0, (draws, n).

        Parameters
        ----------
        times : ndarray, shape (draws, C)
            How often each image was drawn.
        """
        own = self._by_run(times[:, self.image])
        total = self._by_stratum(own)
        fractions = self._below(own) / np.where(total > 0, total, 1)[:, self.stratum] - 0.5
        return fractions[:, self.run]

    def _by_run(self, weights: np.ndarray) -> np.ndarray:
        return np.add.reduceat(weights, self.starts, axis=1)

    def _by_stratum(self, runs: np.ndarray) -> np.ndarray:
        return np.add.reduceat(runs, self.heads, axis=1)

    def _below(self, own: np.ndarray) -> np.ndarray:
        """Weight below each run's middle, in its stratum, (draws, runs)."""
        under = own.cumsum(1) - own
        if len(self.heads) > 1:
            under -= under[:, self.heads][:, self.stratum]
        return under + own / 2


def spearman(x: np.ndarray, y: np.ndarray, strata: np.ndarray, times: np.ndarray) -> np.ndarray:
    """Correlation of midranks within strata, (draws,); NaN where nothing varies.

    Parameters
    ----------
    x, y : ndarray, shape (draws, A)
        One sample per row.
    strata : ndarray, shape (A,), int
        Ranks are taken within these, as fractions of their size, about 0.
    times : ndarray, shape (draws, A)
        How often each of the A counts.

    Examples
    --------
    >>> x, y = np.array([[1, 2, 9]]), np.array([[2, 3, 4]])
    >>> spearman(x, y, strata=np.zeros(3), times=np.ones((1, 3))).round(6)
    array([1.])
    """
    same = strata[:, None] == strata
    total = times @ same
    a, b = (_fractions(v, same, times) / np.where(total > 0, total, np.nan) - 0.5 for v in (x, y))
    xy, xx, yy = (np.nansum(times * p * q, axis=1) for p, q in ((a, b), (a, a), (b, b)))
    scale = np.sqrt(xx * yy)
    return xy / np.where(scale > 0, scale, np.nan)


def _fractions(v: np.ndarray, same: np.ndarray, times: np.ndarray) -> np.ndarray:
    """Weight of what is below each value in its stratum, ties half, (draws, A)."""
    below = (v[:, None] < v[:, :, None]) + 0.5 * (v[:, None] == v[:, :, None])
    return ((below * same) @ times[:, :, None])[..., 0]
