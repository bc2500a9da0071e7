r"""One method against others, on the same questions, with the price of asking often.

For two columns of a per-question quantity, the difference d_i = x_i - y_i is averaged over all
questions, with an interval clustered by image (`lofi_core.evaluation.statistics`). Its p-value is
the larger of two: the t-test of the ratio estimator, t = d / se with C - 1 degrees of freedom,
which knows about images; and, where the quantity is true or false, McNemar's exact test, which
holds for any number of questions. Holm's correction then runs over all comparisons of the table.
"""

from collections.abc import Sequence
from typing import Any

import numpy as np

from lofi_core.errors import LofiError, extra
from lofi_core.evaluation.statistics import clustered_means

with extra("eval"):
    import pandas as pd
    from scipy import stats
    from statsmodels.stats.contingency_tables import mcnemar
    from statsmodels.stats.multitest import multipletests

__all__ = ["paired_tests"]


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
        One row per question, one column per arm; NaN where an arm was not asked: a pair is compared
        over the questions of both. McNemar's test enters where all values are 0 or 1.
    pairs : sequence of (column, column)
        The second is subtracted from the first.
    groups : sequence of n labels
        The image of each question.
    draws, seed
        Of the bootstrap, see `lofi_core.evaluation.statistics.clustered_means`.

    Returns
    -------
    DataFrame
        One row per pair: ``first``, ``second``, ``difference``, ``low``, ``high``, ``p`` and
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
    found = clustered_means(pd.concat(apart, axis=1), groups, draws=draws, seed=seed)
    rows = []
    for (a, b), e in zip(pairs, found.itertuples(), strict=True):
        ratio = abs(e.value) / e.standard_error if e.standard_error > 0 else np.inf
        p = float(2 * stats.t.sf(ratio, e.clusters - 1)) if e.value else 1.0
        both = pd.DataFrame({"a": values[a], "b": values[b]}).dropna()
        if both.isin((0, 1)).all(axis=None):
            only_a, only_b = int((both["a"] > both["b"]).sum()), int((both["a"] < both["b"]).sum())
            p = max(p, float(mcnemar([[0, only_a], [only_b, 0]], exact=True).pvalue))
        rows.append((a, b, e.value, e.low, e.high, p))
    names = ["first", "second", "difference", "low", "high", "p"]
    table = pd.DataFrame(rows, columns=names)
    return table.assign(p_holm=multipletests(table["p"], method="holm")[1])
