r"""Does a quantity tell which answers flip? Rank statistics, pooled and within strata.

For a predictor x and flips f over questions, each under some pruner and budget (a *stratum*),

    AUC = (#{x_i > x_j} + #{x_i = x_j} / 2) / #{pairs},   i flipped, j did not,

and Spearman's correlation is Pearson's of midranks. Pruning harder moves every quantity and flips
more answers, so pooled statistics are high for anything that notices the budget. *Within* strata,
only pairs of one stratum are compared; ranks are taken inside each, as fractions of its size, about
their mean, which is 0. Partial correlation, with C the covariance of the ranks and Z covariates, is

    C_{xy.Z} / sqrt(C_{xx.Z} C_{yy.Z}),   C_{ab.Z} = C_{ab} - C_{aZ} C_{ZZ}^+ C_{Zb}.

Intervals are percentiles of the bootstrap over images.
"""

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import pandas as pd

from book.ledger.midranks import SortedColumn, spearman
from lofi_core.errors import LofiError
from lofi_core.evaluation.statistics import resamples

__all__ = ["arm_correlation", "flip_auc", "rank_correlation", "shuffled"]


def flip_auc(
    predictors: pd.DataFrame,
    flips: Sequence[bool] | pd.Series,
    groups: Sequence[Any] | pd.Series,
    within: Sequence[Any] | pd.Series | pd.DataFrame | None = None,
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
    against : str, optional
        A column; each predictor's AUC minus that one's is reported too, over the same draws.
    level, draws, seed
        Of the bootstrap.

    Returns
    -------
    DataFrame
        By predictor: ``value``, ``low``, ``high``, rows ``n``, images ``groups``, and with
        ``against`` also ``difference``, ``difference_low``, ``difference_high``. NaN if no stratum
        has both flipped and other rows.

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
    X, f, image, stratum = _checked("flip_auc", predictors, flips, groups, within)
    if not np.isin(f, (0, 1)).all():
        raise LofiError("flip_auc: flips other than 0 and 1; expected whether each answer changed")
    if against is not None and against not in predictors:
        raise LofiError(f"flip_auc: against={against!r}; expected one of {list(predictors)}")
    columns = [SortedColumn(x, stratum, image) for x in X.T]

    def statistic(times: np.ndarray) -> np.ndarray:
        return np.stack([column.auc(times, f) for column in columns], -1)

    value, sample = _bootstrap(statistic, image.max() + 1, draws, seed, size=len(f))
    table = _summary(predictors, value, sample, image, level)
    if against is not None:
        j = predictors.columns.get_loc(against)
        rival = _summary(predictors, value - value[j], sample - sample[:, [j]], image, level)
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
    X, y, image, stratum = _checked("rank_correlation", predictors, outcome, groups, within)
    Z = _checked("rank_correlation", covariates, outcome, groups, within)[0]
    columns = [SortedColumn(x, stratum, image) for x in (*X.T, y, *Z.T)]
    q = X.shape[1]

    def statistic(times: np.ndarray) -> np.ndarray:
        R = np.stack([column.ranks(times) for column in columns], 1)  # (draws, columns, n)
        C = (R * times[:, None, image]) @ R.transpose(0, 2, 1)
        rest = C[:, : q + 1, q + 1 :]
        inverse = np.linalg.pinv(C[:, q + 1 :, q + 1 :], rcond=1e-10, hermitian=True)
        left = C[:, : q + 1, : q + 1] - rest @ inverse @ rest.transpose(0, 2, 1)
        variance, whole = (np.diagonal(a, axis1=1, axis2=2) for a in (left, C[:, : q + 1, : q + 1]))
        scale = np.sqrt(np.where(variance > 1e-10 * whole, variance, np.nan))
        return left[:, :q, q] / scale[:, :q] / scale[:, [q]]

    value, sample = _bootstrap(statistic, image.max() + 1, draws, seed, size=len(y) * len(columns))
    return _summary(predictors, value, sample, image, level)


def arm_correlation(
    rows: pd.DataFrame,
    predictors: Sequence[str],
    outcome: str,
    arm: str,
    groups: str,
    within: str | None = None,
    level: float = 0.95,
    draws: int = 1000,
    seed: int = 0,
) -> pd.DataFrame:
    """Spearman's correlation over arms (a pruner at a budget) of the arms' means.

    The arms are the ones there are, not a sample: the interval is about other images only.

    Parameters
    ----------
    rows : DataFrame
        One row per question and arm.
    predictors, outcome, arm, groups, within : str
        Its columns, the first a sequence. ``within`` has to be constant in an arm.
    level, draws, seed
        Of the bootstrap.

    Returns
    -------
    DataFrame
        As `rank_correlation` does; ``n`` counts arms.

    Raises
    ------
    LofiError
        As `rank_correlation`, or if ``within`` varies in an arm.
    """
    X = rows[[*predictors]]
    _, y, image, stratum = _checked(
        "arm_correlation", X, rows[outcome], rows[groups], None if within is None else rows[within]
    )
    code, names = pd.factorize(rows[arm])
    A, C = len(names), image.max() + 1
    strata = np.full(A, -1)
    strata[code] = stratum
    if (strata[code] != stratum).any():
        raise LofiError(f"arm_correlation: within={within!r} varies in an arm; expected a constant")
    columns = np.column_stack([X.to_numpy(float), y, np.ones(len(y))])
    sums = np.zeros((C, A, columns.shape[1]))
    np.add.at(sums, (image, code), columns)

    def statistic(times: np.ndarray) -> np.ndarray:
        totals = np.tensordot(times, sums, 1)  # (draws, A, columns)
        means = totals[..., :-1] / np.where(totals[..., -1:] > 0, totals[..., -1:], np.nan)
        pairs = (spearman(means[..., j], means[..., -1], strata) for j in range(X.shape[1]))
        return np.stack([*pairs], -1)

    value, sample = _bootstrap(statistic, C, draws, seed, size=A * (1 + len(predictors)))
    return _summary(X, value, sample, np.arange(C), level).assign(n=A)


def _bootstrap(
    statistic: Callable[[np.ndarray], np.ndarray], C: int, draws: int, seed: int, size: int
) -> tuple[np.ndarray, np.ndarray]:
    """Return a statistic of C images, (q,), and of samples of them, (draws, q)."""
    sample = [statistic(times) for times in resamples(C, draws, seed, size)]
    return statistic(np.ones((1, C)))[0], np.concatenate(sample)


def _summary(
    predictors: pd.DataFrame, value: np.ndarray, sample: np.ndarray, image: np.ndarray, level: float
) -> pd.DataFrame:
    """One row per predictor; draws without a defined value are left out of its interval."""
    edges = [(1 - level) / 2, (1 + level) / 2]
    limits = [np.quantile(s[~np.isnan(s)], edges) if (s == s).any() else edges for s in sample.T]
    low, high = np.where(np.isnan(value)[:, None], np.nan, limits).T
    rows = {"value": value, "low": low, "high": high, "n": len(image), "groups": image.max() + 1}
    return pd.DataFrame(rows, index=pd.Index(predictors.columns, name="predictor"))


def shuffled(
    predictors: pd.DataFrame, within: Sequence[Any] | pd.Series | pd.DataFrame, seed: int = 0
) -> pd.DataFrame:
    """Control: rows permuted within strata, which cuts all ties but those through the strata.

    Parameters
    ----------
    predictors : DataFrame, n rows
        The columns stay together.
    within : sequence of n labels or DataFrame
        The strata, such as budgets, or budgets and images.
    seed : int
        Of the permutation.

    Returns
    -------
    DataFrame
        Of the same index and columns.

    Examples
    --------
    >>> x = pd.DataFrame({"x": [1, 2, 3, 40, 50, 60]})
    >>> shuffled(x, ["loose"] * 3 + ["tight"] * 3)["x"].gt(9).tolist()
    [False, False, False, True, True, True]
    """
    stratum = _coded("shuffled", within, len(predictors))
    noise = np.random.default_rng(seed).random(len(predictors))
    result = predictors.copy()
    result.iloc[np.argsort(stratum, kind="stable")] = predictors.to_numpy()[
        np.lexsort((noise, stratum))
    ]
    return result


def _coded(caller: str, labels: Any, n: int) -> np.ndarray:
    """Codes 0, 1, ... of labels, or of the combinations in a table of them."""
    if labels is None:
        return np.zeros(n, dtype=int)
    if isinstance(labels, pd.DataFrame):
        labels = labels.groupby([*labels], sort=False, dropna=False).ngroup()
    codes, _ = pd.factorize(np.asarray(labels), use_na_sentinel=False)
    if len(codes) != n:
        raise LofiError(f"{caller}: {len(codes)} labels for {n} rows; expected one per row")
    return codes


def _checked(
    caller: str, predictors: pd.DataFrame, outcome: Any, groups: Any, within: Any
) -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]:
    """Return predictors (n, q), outcome (n,), image and stratum codes, or say what is wrong."""
    X, y = predictors.to_numpy(dtype=float), np.asarray(outcome, dtype=float)
    if len(X) != len(y):
        raise LofiError(f"{caller}: {len(X)} rows, {len(y)} outcomes; expected one outcome per row")
    bad = [str(c) for c, x in zip(predictors, X.T, strict=True) if not np.isfinite(x).all()]
    if bad or not np.isfinite(y).all():
        raise LofiError(
            f"{caller}: NaN or infinity in {bad or 'the outcome'}; expected finite numbers: leave "
            "out rows that lack a value, such as those of pruners inside the model"
        )
    image, stratum = _coded(caller, groups, len(y)), _coded(caller, within, len(y))
    if image.max(initial=0) < 1:
        raise LofiError(f"{caller}: rows of one image, or none; expected at least two images")
    return X, y, image, stratum
