r"""Does a quantity tell which answers flip? Rank statistics, pooled and within strata.

For a predictor x and flips f over questions, each under some pruner and budget (a *stratum*),

    AUC = (#{x_i > x_j} + #{x_i = x_j} / 2) / #{pairs},   i flipped, j did not,

and Spearman's correlation is Pearson's of midranks. Pruning harder moves every quantity and flips
more answers, so pooled statistics are high for anything that notices the budget. *Within* strata,
only pairs of one stratum are compared, and the AUC is the mean of the strata's, each once, so that
strata with many flips do not weigh more; ranks are taken inside each, as fractions of its size,
about their mean, which is 0. Partial correlation, with C the covariance of the ranks and Z
covariates, is

    C_{xy.Z} / sqrt(C_{xx.Z} C_{yy.Z}),   C_{ab.Z} = C_{ab} - C_{aZ} C_{ZZ}^+ C_{Zb}.

Intervals are percentiles of the bootstrap over images and, for statements about methods, over
methods too.
"""

from collections.abc import Sequence
from typing import Any

import numpy as np
import pandas as pd

from book.ledger.intervals import summary, two_way
from book.ledger.midranks import SortedColumn
from book.ledger.strata import checked, constant
from lofi_core.errors import LofiError

__all__ = ["flip_auc", "rank_correlation"]


def flip_auc(
    predictors: pd.DataFrame,
    flips: Sequence[bool] | pd.Series,
    groups: Sequence[Any] | pd.Series,
    within: Sequence[Any] | pd.Series | pd.DataFrame | None = None,
    methods: Sequence[Any] | pd.Series | None = None,
    against: str | None = None,
    level: float = 0.95,
    draws: int = 1000,
    seed: int = 0,
) -> pd.DataFrame:
    """AUC of telling flipped rows from others by each predictor.

    Parameters
    ----------
    predictors : DataFrame, n rows
        A column each. 0.5 means no better than chance, and less that *low* values flip.
    flips : sequence of n bool
        What happened.
    groups : sequence of n labels
        The image of each row, resampled as a whole.
    within : sequence of n labels or DataFrame, optional
        The stratum of each row; only pairs of one stratum count.
    methods : sequence of n labels, optional
        The method of each row, constant in a stratum, to be resampled as well.
    against : str, optional
        A column; each predictor's AUC minus that one's is reported too, over the same draws.
    level, draws, seed
        Of the bootstrap.

    Returns
    -------
    DataFrame
        By predictor: ``value``, ``low``, ``high``, rows ``n``, images ``groups``, resampled
        ``methods``, and with ``against`` also ``difference``, ``difference_low``,
        ``difference_high``. NaN if no stratum has both flipped and other rows.

    Raises
    ------
    LofiError
        If lengths differ, a predictor is not finite, ``flips`` holds anything but 0 and 1, there
        are fewer than two groups, or ``against`` is no column.

    Examples
    --------
    >>> x = pd.DataFrame({"good": [3, 2, 1, 0], "useless": [1, 1, 1, 1]})
    >>> flip_auc(x, [True, True, False, False], groups=range(4), draws=50)["value"].tolist()
    [1.0, 0.5]
    """
    X, f, image, stratum = checked("flip_auc", predictors, flips, groups, within)
    if not np.isin(f, (0, 1)).all():
        raise LofiError("flip_auc: flips other than 0 and 1; expected whether each answer changed")
    if against is not None and against not in predictors:
        raise LofiError(f"flip_auc: against={against!r}; expected one of {list(predictors)}")
    columns = [SortedColumn(x, stratum, image) for x in X.T]
    of = constant("flip_auc", "methods", methods, stratum)

    def statistic(times: np.ndarray, drawn: np.ndarray) -> np.ndarray:
        return np.stack([_mean(column.auc(times, f), drawn[:, of]) for column in columns], -1)

    counts = image.max() + 1, 0 if methods is None else of.max() + 1
    value, sample = two_way(statistic, *counts, draws, seed, size=len(f))
    table = summary(predictors, value, sample, image, level).assign(methods=counts[1])
    if against is not None:
        j = predictors.columns.get_loc(against)
        rival = summary(predictors, value - value[j], sample - sample[:, [j]], image, level)
        names = {"value": "difference", "low": "difference_low", "high": "difference_high"}
        table = table.join(rival[[*names]].rename(columns=names))
    return table


def rank_correlation(
    predictors: pd.DataFrame,
    outcome: Sequence[float] | pd.Series,
    groups: Sequence[Any] | pd.Series,
    within: Sequence[Any] | pd.Series | pd.DataFrame | None = None,
    given: pd.DataFrame | None = None,
    level: float = 0.95,
    draws: int = 1000,
    seed: int = 0,
) -> pd.DataFrame:
    """Spearman's correlation of each predictor with an outcome, or the partial one.

    Parameters
    ----------
    predictors, groups, within, level, draws, seed
        As in `flip_auc`.
    outcome : sequence of n numbers
        For example flips, or divergences.
    given : DataFrame, n rows, optional
        Numeric covariates to hold fixed, by ranks. Categories belong in ``within``.

    Returns
    -------
    DataFrame
        By predictor: ``value``, ``low``, ``high``, ``n``, ``groups``. NaN where nothing of the
        predictor, or of the outcome, is left to vary.

    Raises
    ------
    LofiError
        If lengths differ, a number is not finite, or there are fewer than two groups.

    Examples
    --------
    >>> budget = pd.Series([0, 0, 0, 9, 9, 9])  # x and y rise with it, and are opposed within
    >>> x, y = pd.DataFrame({"x": [1, 2, 3, 4, 5, 6]}), [3, 2, 1, 6, 5, 4]
    >>> float(rank_correlation(x, y, range(6), draws=9)["value"].iloc[0].round(3))
    0.543
    >>> float(rank_correlation(x, y, range(6), within=budget, draws=9)["value"].iloc[0].round(3))
    -1.0
    """
    covariates = pd.DataFrame(index=predictors.index) if given is None else given
    X, y, image, stratum = checked("rank_correlation", predictors, outcome, groups, within)
    Z = checked("rank_correlation", covariates, outcome, groups, within)[0]
    columns = [SortedColumn(x, stratum, image) for x in (*X.T, y, *Z.T)]
    q = X.shape[1]

    def statistic(times: np.ndarray, _: np.ndarray) -> np.ndarray:
        R = np.stack([column.ranks(times) for column in columns], 1)  # (draws, columns, n)
        C = (R * times[:, None, image]) @ R.transpose(0, 2, 1)
        rest = C[:, : q + 1, q + 1 :]
        inverse = np.linalg.pinv(C[:, q + 1 :, q + 1 :], rcond=1e-10, hermitian=True)
        left = C[:, : q + 1, : q + 1] - rest @ inverse @ rest.transpose(0, 2, 1)
        variance, whole = (np.diagonal(a, axis1=1, axis2=2) for a in (left, C[:, : q + 1, : q + 1]))
        scale = np.sqrt(np.where(variance > 1e-10 * whole, variance, np.nan))
        return left[:, :q, q] / scale[:, :q] / scale[:, [q]]

    value, sample = two_way(statistic, image.max() + 1, 0, draws, seed, size=len(y) * len(columns))
    return summary(predictors, value, sample, image, level)


def _mean(values: np.ndarray, times: np.ndarray) -> np.ndarray:
    """Weighted mean of what is defined, (draws,)."""
    times = np.where(np.isnan(values), 0.0, times)
    total = times.sum(1)
    return np.nansum(values * times, axis=1) / np.where(total > 0, total, np.nan)
