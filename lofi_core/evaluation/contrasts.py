r"""One method against all others, on the same questions, with the price of asking often.

For two columns of a per-question quantity, the difference d_i = x_i - y_i is averaged over all
questions, with an interval clustered by image (`lofi_core.evaluation.statistics`). Its p-value is
the larger of two: the t-test of the ratio estimator, t = d / se with C - 1 degrees of freedom,
which knows about images; and, where the quantity is true or false, the exact McNemar test, which
holds for any number of questions. Holm's correction then runs over all comparisons of the table.
"""

from collections.abc import Sequence
from typing import Any

import numpy as np

from lofi_core.errors import LofiError, extra
from lofi_core.evaluation.statistics import Estimate, clustered_means, holm, mcnemar

with extra("eval"):
    import pandas as pd
    from scipy import stats

__all__ = ["means_table", "paired_tests"]


def means_table(
    values: pd.DataFrame,
    groups: Sequence[Any] | np.ndarray | pd.Series,
    bounds: tuple[float, float] = (0.0, 1.0),
    draws: int = 1000,
    seed: int = 0,
) -> pd.DataFrame:
    """Mean of each column with its interval, one row a column.

    Parameters
    ----------
    values : DataFrame, n rows
        One row a question, one column an arm; NaN where an arm was not asked.
    groups : sequence of n labels
        The image of each question.
    bounds : (float, float)
        What a single value can be.
    draws, seed
        Of the bootstrap, see `lofi_core.evaluation.statistics.clustered_means`.

    Returns
    -------
    DataFrame
        Columns ``value``, ``low``, ``high``; index the columns of ``values``.

    Examples
    --------
    >>> flips = pd.DataFrame({"lofi": [1, 0, 0, 0], "random": [1, 1, 0, 0]})
    >>> means_table(flips, [0, 1, 2, 3])["value"].tolist()
    [0.25, 0.5]
    """
    found = _estimates(values, groups, bounds, draws, seed)
    rows = [(e.value, e.low, e.high) for e, _ in found]
    return pd.DataFrame(rows, index=values.columns, columns=["value", "low", "high"])


def paired_tests(
    values: pd.DataFrame,
    pairs: Sequence[tuple[Any, Any]],
    groups: Sequence[Any] | np.ndarray | pd.Series,
    draws: int = 1000,
    seed: int = 0,
) -> pd.DataFrame:
    """Paired differences of columns, with tests corrected over all pairs given.

    Parameters
    ----------
    values : DataFrame, n rows
        One row a question, one column an arm; NaN where an arm was not asked, and a pair is
        compared over the questions of both. McNemar's test enters where all values are 0 or 1.
    pairs : sequence of (column, column)
        The second is subtracted from the first.
    groups : sequence of n labels
        The image of each question.
    draws, seed
        Of the bootstrap, see `lofi_core.evaluation.statistics.clustered_means`.

    Returns
    -------
    DataFrame
        One row a pair: ``first``, ``second``, ``difference``, ``low``, ``high``, ``p`` and
        ``p_holm``. Two equal columns have p = 1.

    Raises
    ------
    LofiError
        If there are no pairs, or a pair names no column.

    Examples
    --------
    >>> same = pd.DataFrame({"a": [True, False, True], "b": [True, False, True]})
    >>> paired_tests(same, [("a", "b")], [0, 1, 2])[["difference", "p_holm"]].values.tolist()
    [[0.0, 1.0]]
    """
    missing = [name for pair in pairs for name in pair if name not in values]
    if missing or not pairs:
        raise LofiError(
            f"paired_tests: {len(pairs)} pairs, of unknown columns {missing}; expected at least "
            f"one pair of columns, among {list(values)}"
        )
    apart = [values[a].astype(float) - values[b].astype(float) for a, b in pairs]
    found = _estimates(pd.concat(apart, axis=1), groups, None, draws, seed)
    rows = []
    for (a, b), (e, clusters) in zip(pairs, found, strict=True):
        ratio = abs(e.value) / e.standard_error if e.standard_error > 0 else np.inf
        p = float(2 * stats.t.sf(ratio, clusters - 1)) if e.value else 1.0
        both = pd.DataFrame({"a": values[a], "b": values[b]}).dropna()
        if both.isin((0, 1)).all(axis=None):
            p = max(p, mcnemar(both["a"], both["b"]))
        rows.append((a, b, e.value, e.low, e.high, p))
    names = ["first", "second", "difference", "low", "high", "p"]
    table = pd.DataFrame(rows, columns=names)
    return table.assign(p_holm=holm(table["p"].to_numpy()))


def _estimates(
    values: pd.DataFrame, groups: Any, bounds: tuple[float, float] | None, draws: int, seed: int
) -> list[tuple[Estimate, int]]:
    """Estimate and number of clusters of each column; columns of the same questions go together."""
    x, labels = values.to_numpy(float), np.asarray(groups)
    asked = ~np.isnan(x)
    found: dict[int, tuple[Estimate, int]] = {}
    for pattern in np.unique(asked.T, axis=0):
        columns = np.flatnonzero((pattern == asked.T).all(1))
        part = pd.DataFrame(x[np.ix_(pattern, columns)], columns=columns.astype(str))
        limits = None if bounds is None else dict.fromkeys(part, bounds)
        means = clustered_means(part, labels[pattern], limits, draws=draws, seed=seed)
        clusters = len(np.unique(labels[pattern]))
        found |= {int(name): (mean, clusters) for name, mean in means.items()}
    return [found[j] for j in range(x.shape[1])]
