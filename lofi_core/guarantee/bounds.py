r"""Is the mean of [0, 1] losses at most alpha? p-values, and the upper bounds that they imply.

Each p-value tests "the mean is more than alpha" on n independent images, and is at most u with
probability at most u if that is true:

    binomial             P(Bin(n, alpha) <= K),  K = sum x_i,  for losses of 0 or 1
    Hoeffding-Bentkus    min( exp(-n h(min(m, alpha), alpha)),  e P(Bin(n, alpha) <= ceil(n m)) )
    betting              min( 1,  1 / max_t prod_{i<=t} (1 - lambda_i (x_i - alpha)) )

with the mean m, h(a, b) = a log(a/b) + (1-a) log((1-a)/(1-b)), and bets lambda_i in [0, 0.99] that
depend on the images before i alone. The wealth of a bettor who bets that losses stay below alpha is
a supermartingale if they do not, so that by Ville's inequality it exceeds 1/u with probability at
most u. The bets are the predictable plug-in of Waudby-Smith and Ramdas (JRSS B, 2024, section 3.2);
Hoeffding-Bentkus is from Bates et al. (J. ACM, 2021) and "Learn then test" (arXiv 2110.01052).
"""

from collections.abc import Callable
from fractions import Fraction
from math import ceil, lcm
from typing import Literal, get_args

import numpy as np

from lofi_core.errors import LofiError, extra

with extra("eval"):
    from scipy import stats
    from scipy.special import rel_entr

__all__ = ["Bound", "betting", "binomial", "check_level", "hoeffding_bentkus", "p_value", "upper"]

Bound = Literal["betting", "hoeffding-bentkus", "binomial"]
MOST = 0.99  # of a bettor's wealth: a loss of 1 then leaves something


def check_level(caller: str, name: str, value: float) -> None:
    """Refuse a level that is not strictly between 0 and 1.

    Raises
    ------
    LofiError
        With the caller's name and the level's.
    """
    if isinstance(value, bool) or not isinstance(value, int | float) or not 0 < value < 1:
        raise LofiError(f"{caller}: {name}={value!r}; expected a number in (0, 1), e.g. 0.05")


def binomial(bad: int | np.ndarray, n: int, alpha: float) -> np.ndarray:
    """Exact p-value of ``bad`` losses of 1 among ``n`` losses of 0 or 1.

    Parameters
    ----------
    bad : int or ndarray of int, shape (...)
        How many losses are 1.
    n : int
        How many there are.
    alpha : float in (0, 1)
        The limit.

    Returns
    -------
    ndarray, shape (...), float64

    Examples
    --------
    >>> float(binomial(0, 58, 0.05)) > 0.05 > float(binomial(0, 59, 0.05))
    True
    """
    return np.asarray(stats.binom.cdf(bad, n, alpha))


def hoeffding_bentkus(bad: np.ndarray, asked: np.ndarray, alpha: float) -> np.ndarray:
    """p-value from the losses ``bad / asked`` of n images, given as integer counts.

    The sum of the losses is added up as a fraction: from rounded means, ``ceil`` can be one off.

    Parameters
    ----------
    bad, asked : ndarray of int, shape (..., n) and (n,)
        Questions about each image that count as a loss, and all that were asked.
    alpha : float in (0, 1)
        The limit.

    Returns
    -------
    ndarray, shape (...), float64

    Examples
    --------
    >>> losses = np.array([[0] * 99 + [1]])
    >>> hoeffding_bentkus(losses, np.full(100, 2), 0.05).round(4)
    array([0.0316])
    """
    bad, asked = np.asarray(bad), np.asarray(asked)
    n, common = bad.shape[-1], lcm(*np.unique(asked).tolist())
    # Python's integers where the common denominator is too large for those of 64 bits.
    kind: type = np.int64 if common * n < 2**62 else object
    weights: np.ndarray = np.array([common // int(m) for m in asked], dtype=kind)
    totals = np.asarray(bad.astype(kind) @ weights)
    up = np.array([ceil(Fraction(int(total), common)) for total in totals.flat])
    mean = np.array([int(total) / common / n for total in totals.flat])
    least = np.minimum(mean, alpha)
    hoeffding = np.exp(-n * (rel_entr(least, alpha) + rel_entr(1 - least, 1 - alpha)))
    bentkus = np.e * stats.binom.cdf(up, n, alpha)
    return np.minimum(hoeffding, bentkus).reshape(bad.shape[:-1])


def betting(losses: np.ndarray, alpha: float, delta: float) -> np.ndarray:
    """p-value from the largest wealth of a bettor, image after image in the order given.

    Parameters
    ----------
    losses : ndarray, shape (..., n)
        In [0, 1], in an order that does not depend on them.
    alpha : float in (0, 1)
        The limit.
    delta : float in (0, 1)
        The level that the bets aim at; the p-value is valid at every level.

    Returns
    -------
    ndarray, shape (...), float64

    Examples
    --------
    >>> betting(np.zeros((1, 100)), 0.05, 0.05).round(4)
    array([0.0085])
    """
    x = np.asarray(losses, dtype=float)
    n = x.shape[-1]
    seen = np.arange(1, n + 1)
    mean = (0.5 + x.cumsum(-1)) / (seen + 1)
    variance = (0.25 + ((x - mean) ** 2).cumsum(-1)) / (seen + 1)
    before = np.concatenate([np.full((*x.shape[:-1], 1), 0.25), variance[..., :-1]], -1)
    bets = np.minimum(np.sqrt(2 * np.log(1 / delta) / (n * before)), MOST)
    wealth = np.log1p(-bets * (x - alpha)).cumsum(-1).max(-1)
    return np.exp(-np.maximum(wealth, 0))


def p_value(
    bound: Bound, bad: np.ndarray, asked: np.ndarray, alpha: float, delta: float
) -> np.ndarray:
    """p-value of "the mean of ``bad / asked`` over images is more than alpha", by name.

    Parameters
    ----------
    bound : {"betting", "hoeffding-bentkus", "binomial"}
        "binomial" needs one question per image, ``asked`` being 1 throughout.
    bad, asked : ndarray of int, shape (..., n) and (n,)
        As `hoeffding_bentkus` takes them.
    alpha, delta : float in (0, 1)
        The limit, and the level that bets aim at.

    Raises
    ------
    LofiError
        If the bound is unknown, or exact counts are asked of images with several questions.
    """
    if bound == "betting":
        return betting(bad / asked, alpha, delta)
    if bound == "hoeffding-bentkus":
        return hoeffding_bentkus(bad, asked, alpha)
    if bound != "binomial":
        raise LofiError(f"p_value: bound={bound!r}; expected one of {get_args(Bound)}")
    if (np.asarray(asked) != 1).any():
        raise LofiError(
            f"p_value: 'binomial' with up to {int(np.max(asked))} questions per image, which are "
            "not independent; expected one: draw one per image, or take bound='betting'"
        )
    return binomial(bad.sum(-1), bad.shape[-1], alpha)


def upper(p: Callable[[float], float], delta: float) -> float:
    """Upper confidence bound: the largest limit that its p-value does not refute.

    Parameters
    ----------
    p : callable
        Maps a limit in (0, 1) to its p-value, which falls as the limit grows.
    delta : float in (0, 1)
        The mean is above the bound with probability at most delta.

    Returns
    -------
    float
        To 1e-7, from above.

    Examples
    --------
    >>> round(upper(lambda alpha: float(binomial(0, 59, alpha)), 0.05), 4)
    0.0495
    """
    low, high = 0.0, 1.0
    while high - low > 1e-7:
        middle = (low + high) / 2
        low, high = (low, middle) if p(middle) <= delta else (middle, high)
    return high
