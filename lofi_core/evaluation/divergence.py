r"""How far apart two distributions over a question's admissible answers are.

With M = (p + q) / 2,

    JSD(p, q) = (KL(p || M) + KL(q || M)) / 2   in nats, in [0, ln 2],
    TV(p, q)  = sum_i |p_i - q_i| / 2           in [0, 1].

Both are 0 for equal distributions alone. The Jensen-Shannon *distance* of SciPy is sqrt(JSD).
"""

from collections.abc import Iterable, Sequence

import numpy as np

from lofi_core.errors import LofiError, extra

with extra("eval"):
    from scipy.special import rel_entr

__all__ = ["jensen_shannon", "lead", "stack", "total_variation"]


def stack(rows: Iterable[Sequence[float]]) -> np.ndarray:
    """Distributions over unequally many answers as one matrix, filled up with zeros.

    The zeros change neither divergence. Rounding is taken out: each row sums to 1 in float64.

    Raises
    ------
    LofiError
        If a row is negative, not finite, or does not sum to 1 within 0.001.

    Examples
    --------
    >>> stack([[0.5, 0.5], [0.25, 0.25, 0.5]])
    array([[0.5 , 0.5 , 0.  ],
           [0.25, 0.25, 0.5 ]])
    """
    arrays = [np.asarray(row, dtype=float) for row in rows]
    matrix = np.zeros((len(arrays), max(map(len, arrays), default=0)))
    for i, row in enumerate(arrays):
        matrix[i, : len(row)] = row
    sums = matrix.sum(1, keepdims=True)
    bad = ~((matrix >= 0).all(1) & (np.abs(sums[:, 0] - 1) < 1e-3))  # NaN is bad too
    if bad.any():
        i = int(bad.argmax())
        raise LofiError(
            f"stack: row {i} of the probabilities is {arrays[i].tolist()}; expected a "
            "distribution: finite, not negative, summing to 1"
        )
    return matrix / sums


def jensen_shannon(p: np.ndarray, q: np.ndarray) -> np.ndarray:
    """Jensen-Shannon divergence of matching rows, (n,), in nats.

    Examples
    --------
    >>> jensen_shannon(np.array([[1.0, 0.0], [0.5, 0.5]]), np.array([[0.0, 1.0], [0.5, 0.5]]))
    array([0.69314718, 0.        ])
    """
    middle = (p + q) / 2
    halves = rel_entr(p, middle) + rel_entr(q, middle)
    return (halves.sum(-1) / 2).clip(0, np.log(2))


def total_variation(p: np.ndarray, q: np.ndarray) -> np.ndarray:
    """Total variation distance of matching rows, (n,): the probability that would have to move.

    Examples
    --------
    >>> total_variation(np.array([[0.9, 0.1]]), np.array([[0.6, 0.4]])).round(6)
    array([0.3])
    """
    return np.abs(p - q).sum(-1) / 2


def lead(p: np.ndarray, answers: np.ndarray) -> np.ndarray:
    """Probability of an answer minus that of its strongest rival, (n,), in [-1, 1].

    Parameters
    ----------
    p : ndarray, shape (n, A)
        Distributions.
    answers : ndarray, shape (n,), int
        Column of one answer a row; for ``p.argmax(1)`` the lead is the margin.

    Examples
    --------
    >>> lead(np.array([[0.5, 0.25, 0.25], [0.5, 0.25, 0.25]]), np.array([0, 2]))
    array([ 0.25, -0.25])
    """
    rows = np.arange(len(p))
    rivals = p.copy()
    rivals[rows, answers] = 0
    return p[rows, answers] - rivals.max(1)
