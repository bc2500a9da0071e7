r"""How many images a promise takes.

With losses of 0 or 1 the exact test certifies "at most alpha" if it sees at most k errors among the
n_k images at which P(Bin(n_k, alpha) <= k) first falls to delta. If the true risk is r < alpha, it
succeeds with probability P(Bin(n_k, r) <= k), which grows with k: the answer is the first n_k whose
probability reaches the power asked for. For losses between 0 and 1 the growth of a bettor's wealth
tells: at the best bet it is g per image with deviation s, and n solves n g - z s sqrt(n) =
log(1 / delta), z being the normal quantile of the power.
"""

import math

import numpy as np

from lofi_core.errors import LofiError, extra
from lofi_core.guarantee.bounds import MOST, check_level

with extra("eval"):
    from scipy import optimize, stats

__all__ = ["images_needed", "images_to_certify"]

LARGEST = 10**9  # images; nobody has more


def images_needed(alpha: float, risk: float, delta: float = 0.05, power: float = 0.9) -> int:
    """Images that certify a risk below the limit with the given power, by the exact binomial test.

    Parameters
    ----------
    alpha : float in (0, 1)
        The limit to be certified.
    risk : float in [0, alpha)
        The true share of bad answers, one question being asked about each image.
    delta : float in (0, 1)
        Error of the promise.
    power : float in (0, 1)
        Probability that so many images suffice.

    Returns
    -------
    int

    Raises
    ------
    LofiError
        If a level is outside (0, 1), the risk is not below alpha, or no billion images suffice.

    Examples
    --------
    >>> images_needed(0.05, 0.0), images_needed(0.01, 0.0), images_needed(0.05, 0.025)
    (59, 299, 506)
    """
    for name, value in (("alpha", alpha), ("delta", delta), ("power", power)):
        check_level("images_needed", name, value)
    if not 0 <= risk < alpha:
        raise LofiError(
            f"images_needed: risk={risk!r}, alpha={alpha}; expected 0 <= risk < alpha: no number "
            "of images certifies what is not true"
        )

    def images(k: int) -> int:
        """Smallest n with P(Bin(n, alpha) <= k) <= delta."""
        low, high = k, max(2 * k, 2)
        while stats.binom.cdf(k, high, alpha) > delta:
            low, high = high, 2 * high
            if low > LARGEST:
                raise LofiError(
                    f"images_needed: more than {LARGEST} images for alpha={alpha}, risk={risk}; "
                    "expected a risk further below the limit"
                )
        while high - low > 1:
            middle = (low + high) // 2
            enough = stats.binom.cdf(k, middle, alpha) <= delta
            low, high = (low, middle) if enough else (middle, high)
        return high

    def succeeds(k: int) -> bool:
        return bool(stats.binom.cdf(k, images(k), risk) >= power)

    if succeeds(0):
        return images(0)
    fails, works = 0, 1
    while not succeeds(works):
        fails, works = works, 2 * works
    while works - fails > 1:
        middle = (fails + works) // 2
        fails, works = (fails, middle) if succeeds(middle) else (middle, works)
    return images(works)


def images_to_certify(
    losses: np.ndarray, alpha: float, delta: float = 0.05, power: float = 0.9
) -> int | None:
    """Images with losses like these that the betting test would take.

    Parameters
    ----------
    losses : ndarray, shape (n,)
        In [0, 1], one per image, from a pilot.
    alpha, delta, power
        As `images_needed` takes them.

    Returns
    -------
    int or None
        An estimate, as good as the pilot; None if its mean is at or above the limit, so that no
        number of images would do.

    Examples
    --------
    >>> images_to_certify(np.zeros(20), 0.01)
    305
    >>> images_to_certify(np.full(20, 0.5), 0.01) is None
    True
    """
    x = np.asarray(losses, dtype=float)
    if x.mean() >= alpha:
        return None

    def growth(bet: float) -> np.ndarray:
        return np.log1p(-bet * (x - alpha))

    best = optimize.minimize_scalar(
        lambda bet: -growth(bet).mean(), bounds=(0, MOST), method="bounded"
    ).x
    steps = growth(best)
    if steps.mean() <= 0:
        return None
    reach = stats.norm.ppf(power) * steps.std()
    root = (reach + math.sqrt(reach**2 + 4 * steps.mean() * math.log(1 / delta))) / (
        2 * steps.mean()
    )
    return math.ceil(root**2)
