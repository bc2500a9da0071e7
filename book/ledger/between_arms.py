"""Does a quantity tell which arms (a pruner at a budget) stay consistent? Correlations of means.

Ranks are those of `book.ledger.prediction`, of the arms' means: pooled, or within the budgets.
"""

from collections.abc import Sequence

import numpy as np
import pandas as pd

from book.ledger.intervals import summary, two_way
from book.ledger.midranks import spearman
from book.ledger.strata import checked, coded, constant

__all__ = ["arm_correlation", "permuted_correlation"]


def arm_correlation(
    rows: pd.DataFrame,
    predictors: Sequence[str],
    outcome: str,
    arm: str,
    groups: str,
    within: str | None = None,
    methods: str | None = None,
    level: float = 0.95,
    draws: int = 1000,
    seed: int = 0,
) -> pd.DataFrame:
    """Spearman's correlation over arms (a pruner at a budget) of the arms' means.

    Without ``methods`` the arms are the ones there are: the interval is about other images only.
    With it, methods are drawn as well, each with the arms it has.

    Parameters
    ----------
    rows : DataFrame
        One row per question and arm.
    predictors, outcome, arm, groups, within, methods : str
        Its columns, the first a sequence. The last two have to be constant in an arm.
    level, draws, seed
        Of the bootstrap.

    Returns
    -------
    DataFrame
        As `rank_correlation` does; ``n`` counts arms.

    Raises
    ------
    LofiError
        As `rank_correlation`, or if ``within`` or ``methods`` varies in an arm.
    """
    X = rows[[*predictors]]
    sums, strata, of = _arms(
        "arm_correlation", rows, predictors, outcome, arm, groups, within, methods
    )

    def statistic(times: np.ndarray, drawn: np.ndarray) -> np.ndarray:
        totals = np.tensordot(times, sums, 1)  # (draws, A, columns)
        means = totals[..., :-1] / np.where(totals[..., -1:] > 0, totals[..., -1:], np.nan)
        pairs = (means[..., j] for j in range(len(predictors)))
        return np.stack([spearman(x, means[..., -1], strata, drawn[:, of]) for x in pairs], -1)

    C, A, _ = sums.shape
    M = 0 if methods is None else of.max() + 1
    value, sample = two_way(statistic, C, M, draws, seed, size=A * A)
    return summary(X, value, sample, np.arange(C), level).assign(n=A, methods=M)


def permuted_correlation(
    rows: pd.DataFrame,
    predictor: str,
    outcome: str,
    arm: str,
    within: str | None,
    level: float = 0.95,
    draws: int = 1000,
    seed: int = 0,
) -> pd.Series:
    """Control of `arm_correlation`: the predictor's means dealt out anew among the arms.

    What is left is what arms of one stratum share. The interval holds ``level`` of the deals.

    Parameters
    ----------
    rows, predictor, outcome, arm
        As in `arm_correlation`.
    within : str, optional
        A column: arms exchange with arms of the same value. None: with any.
    level, draws, seed
        Share of the deals, their number, and what seeds them.

    Returns
    -------
    Series
        ``value``, the mean over deals, ``low``, ``high`` and the number ``n`` of arms.

    Examples
    --------
    >>> rows = pd.DataFrame({"arm": [*"abcd"], "budget": [1, 1, 2, 2], "x": [1, 2, 8, 9]})
    >>> rows = rows.assign(y=rows.x)
    >>> found = permuted_correlation(rows, "x", "y", "arm", within="budget")
    >>> round(float(found["value"]), 1), int(found["n"])
    (0.8, 4)
    """
    means = rows.groupby(arm).agg({predictor: "mean", outcome: "mean"})
    label = np.zeros(len(means)) if within is None else rows.groupby(arm)[within].first()
    stratum = coded("permuted_correlation", np.asarray(label), len(means))
    noise = np.random.default_rng(seed).random((draws, len(means)))
    x = np.empty_like(noise)
    x[:, stratum.argsort(kind="stable")] = means[predictor].to_numpy()[(stratum + noise).argsort(1)]
    y = np.broadcast_to(means[outcome].to_numpy(), x.shape)
    found = spearman(x, y, np.zeros(len(means)), np.ones_like(x))
    low, high = np.quantile(found, [(1 - level) / 2, (1 + level) / 2])
    return pd.Series({"value": found.mean(), "low": low, "high": high, "n": len(means)})


def _arms(
    caller: str,
    rows: pd.DataFrame,
    predictors: Sequence[str],
    outcome: str,
    arm: str,
    groups: str,
    within: str | None,
    methods: str | None,
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Sums of the arms by image (C, A, columns), and their strata and methods, (A,)."""
    X = rows[[*predictors]]
    _, y, image, _ = checked(caller, X, rows[outcome], rows[groups], None)
    code, names = pd.factorize(rows[arm])
    strata = constant(caller, "within", None if within is None else rows[within], code)
    of = constant(caller, "methods", None if methods is None else rows[methods], code)
    columns = np.column_stack([X.to_numpy(float), y, np.ones(len(y))])
    sums = np.zeros((image.max() + 1, len(names), columns.shape[1]))
    np.add.at(sums, (image, code), columns)
    return sums, strata, of
