"""Rows in strata: codes of labels, what has to hold of them, and a control shuffled inside."""

from collections.abc import Sequence
from typing import Any

import numpy as np
import pandas as pd

from lofi_core.errors import LofiError

__all__ = ["checked", "coded", "constant", "shuffled"]


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
    stratum = coded("shuffled", within, len(predictors))
    noise = np.random.default_rng(seed).random(len(predictors))
    result = predictors.copy()
    result.iloc[np.argsort(stratum, kind="stable")] = predictors.to_numpy()[
        np.lexsort((noise, stratum))
    ]
    return result


def coded(caller: str, labels: Any, n: int) -> np.ndarray:
    """Codes 0, 1, ... of labels, or of the combinations in a table of them."""
    if labels is None:
        return np.zeros(n, dtype=int)
    if isinstance(labels, pd.DataFrame):
        labels = labels.groupby([*labels], sort=False, dropna=False).ngroup()
    codes, _ = pd.factorize(np.asarray(labels), use_na_sentinel=False)
    if len(codes) != n:
        raise LofiError(f"{caller}: {len(codes)} labels for {n} rows; expected one per row")
    return codes


def checked(
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
    image, stratum = coded(caller, groups, len(y)), coded(caller, within, len(y))
    if image.max(initial=0) < 1:
        raise LofiError(f"{caller}: rows of one image, or none; expected at least two images")
    return X, y, image, stratum


def constant(caller: str, name: str, labels: Any, code: np.ndarray) -> np.ndarray:
    """Codes of labels that are constant in an arm, one per arm; zeros for no labels."""
    of = np.zeros(code.max(initial=0) + 1, dtype=int)
    if labels is not None:
        labels = coded(caller, labels, len(code))
        of[code] = labels
        if (of[code] != labels).any():
            raise LofiError(f"{caller}: {name} varies in an arm; expected a constant")
    return of
