r"""Learn-then-test: thresholds tested in a fixed order, until the first that cannot be certified.

For thresholds t_1 > t_2 > ..., fixed beforehand, each test's hypothesis is "the mean loss at t_j is
more than alpha". The last threshold that was *certified* is the answer; the first that was refused
is not. A threshold of too much risk is certified with probability at most delta, since the first
such one in the order would have to be refuted (arXiv 2110.01052, section 2.3).
"""

import numpy as np

from lofi_core.guarantee.bounds import Bound, p_value
from lofi_core.guarantee.evidence import Evidence

__all__ = ["THRESHOLDS", "certified", "fixed_sequence"]

# For two answers of log-odds z the margin is tanh(z / 2). At 0 every answer stays pruned.
THRESHOLDS = np.tanh(np.arange(48, -1, -1) / 8)


def fixed_sequence(p: np.ndarray, delta: float) -> np.ndarray:
    """Count the tests, in order, that succeed before the first that fails.

    Parameters
    ----------
    p : ndarray, shape (..., T)
        p-values in the order of the tests.
    delta : float
        The level of each test, and of all together.

    Returns
    -------
    ndarray, shape (...), int
        0 if nothing is certified; else the last certified test has position ``count - 1``.

    Examples
    --------
    >>> int(fixed_sequence(np.array([0.01, 0.04, 0.2, 0.01]), 0.05))
    2
    """
    return np.asarray(np.logical_and.accumulate(np.asarray(p) <= delta, -1).sum(-1))


def certified(
    evidence: Evidence,
    alpha: float,
    delta: float,
    bound: Bound = "betting",
    thresholds: np.ndarray = THRESHOLDS,
) -> int | None:
    """Position of the last certified threshold; None if the first is refused.

    Parameters
    ----------
    evidence : Evidence
        Of the calibration images.
    alpha, delta : float in (0, 1)
        Limit of the mean loss, and the probability of certifying one that is above it.
    bound : {"betting", "hoeffding-bentkus", "binomial"}
        See `lofi_core.guarantee.bounds`.
    thresholds : ndarray, shape (T,)
        Fixed before the evidence was seen, the ones to test first in front.

    Examples
    --------
    >>> sure, wrong = np.ones((1, 80)), np.zeros((1, 80), dtype=bool)
    >>> evidence = Evidence(sure, wrong, sure / 4, np.arange(80))
    >>> certified(evidence, 0.05, 0.05), certified(evidence, 0.01, 0.05)
    (48, None)
    """
    p = p_value(bound, evidence.losses(thresholds), evidence.asked, alpha, delta)
    count = int(fixed_sequence(p, delta))
    return count - 1 if count else None
