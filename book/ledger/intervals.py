"""Intervals of a statistic over images and, where it is about methods, over methods too."""

from collections.abc import Callable

import numpy as np
import pandas as pd

from lofi_core.evaluation.statistics import resamples

__all__ = ["summary", "two_way"]


def two_way(
    statistic: Callable[[np.ndarray, np.ndarray], np.ndarray],
    C: int,
    M: int,
    draws: int,
    seed: int,
    size: int,
) -> tuple[np.ndarray, np.ndarray]:
    """Return a statistic of C images and M methods, (q,), and of samples of them, (draws, q).

    With M = 0 methods are not drawn: there is one, and it counts once.
    """
    images = resamples(C, draws, seed, size)
    if M:
        sample = [*map(statistic, images, resamples(M, draws, seed + 1, size))]
    else:
        sample = [statistic(times, np.ones((len(times), 1))) for times in images]
    return statistic(np.ones((1, C)), np.ones((1, max(1, M))))[0], np.concatenate(sample)


def summary(
    predictors: pd.DataFrame, value: np.ndarray, sample: np.ndarray, image: np.ndarray, level: float
) -> pd.DataFrame:
    """One row per predictor; draws without a defined value are left out of its interval."""
    edges = [(1 - level) / 2, (1 + level) / 2]
    limits = [np.quantile(s[~np.isnan(s)], edges) if (s == s).any() else edges for s in sample.T]
    low, high = np.where(np.isnan(value)[:, None], np.nan, limits).T
    rows = {"value": value, "low": low, "high": high, "n": len(image), "groups": image.max() + 1}
    return pd.DataFrame(rows, index=pd.Index(predictors.columns, name="predictor"))
