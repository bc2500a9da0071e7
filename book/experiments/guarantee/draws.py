"""Many draws of calibration images at once: how often a promise is certified, kept, and its cost.

A draw without replacement leaves images to test on; a lucky draw leaves the unlucky ones, which
makes that a harder check than fresh images would be. In a draw with replacement the mean loss of
the whole pool is the true risk: the exact check.
"""

from dataclasses import dataclass

import numpy as np

from lofi_core.guarantee.bounds import Bound, p_value
from lofi_core.guarantee.evidence import Evidence
from lofi_core.guarantee.testing import THRESHOLDS, fixed_sequence

__all__ = ["Outcome", "certify_draws", "draw", "outcome", "summary", "tables"]


def draw(images: int, n: int, draws: int, seed: int, again: bool = False) -> np.ndarray:
    """Draw images to calibrate on, shape (draws, n), with or without replacement."""
    rng = np.random.default_rng(seed)
    if again:
        return rng.integers(images, size=(draws, n))
    return rng.random((draws, images)).argsort(1)[:, :n]


def certify_draws(
    losses: np.ndarray,
    asked: np.ndarray,
    draws: np.ndarray,
    alpha: float,
    delta: float = 0.05,
    bound: Bound = "betting",
) -> np.ndarray:
    """Certify every draw at once.

    Parameters
    ----------
    losses : ndarray, shape (T, n), int
        Bad answers by threshold and image, see `Evidence.losses`.
    asked : ndarray, shape (n,), int
        Questions, the same number about each image.
    draws : ndarray, shape (R, m), int
        Images of each draw.
    alpha, delta, bound
        As `lofi_core.guarantee.calibrate` takes them.

    Returns
    -------
    ndarray, shape (R,), int
        Position of the last certified threshold; -1 if none is.
    """
    p = np.ones((len(draws), len(losses)))
    still = np.arange(len(draws))
    for t, row in enumerate(losses):
        p[still, t] = p_value(bound, row[draws[still]], asked[: draws.shape[1]], alpha, delta)
        still = still[p[still, t] <= delta]
        if not len(still):
            break
    return fixed_sequence(p, delta) - 1


@dataclass(frozen=True)
class Outcome:
    """What came of many draws.

    Parameters
    ----------
    alpha : float
    images : int
        To calibrate on.
    certified : float
        Share of draws that certified a threshold; the others ask everything again.
    cost, coverage, risk : float
        Means over draws, on the images tested: visual tokens of all passes as a share of all
        tokens; share of answers that stay pruned; mean loss.
    broken : float
        Share of draws in which the risk is above alpha.
    """

    alpha: float
    images: int
    certified: float
    cost: float
    coverage: float
    risk: float
    broken: float


def outcome(
    evidence: Evidence,
    draws: np.ndarray,
    alpha: float,
    delta: float = 0.05,
    *,
    thresholds: np.ndarray = THRESHOLDS,
    bound: Bound = "betting",
    rest: bool = True,
    test: Evidence | None = None,
) -> Outcome:
    """Calibrate on each draw, and test.

    Parameters
    ----------
    evidence : Evidence
        Of all images.
    draws : ndarray, shape (R, m), int
        Images to calibrate on.
    rest : bool
        Test on the images not drawn; otherwise on the whole pool.
    test : Evidence, optional
        What to test on, of the same images; by default the same evidence.
    """
    test = evidence if test is None else test
    place = certify_draws(evidence.losses(thresholds), evidence.asked, draws, alpha, delta, bound)
    return summary(place, tables(test, thresholds), draws, alpha, rest)


def tables(evidence: Evidence, thresholds: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Loss, cost and coverage by threshold and image, (T + 1, n) each.

    The last row is for draws that certify nothing: then nothing is pruned.
    """
    steps = np.append(thresholds, np.inf)
    cost = evidence.cost(steps)
    cost[-1] = 1.0
    stays = evidence.level(steps) < len(evidence.confidence)
    kept = np.stack([np.bincount(evidence.image, weights=row) for row in stays]) / evidence.asked
    return evidence.losses(steps) / evidence.asked, cost, kept


def summary(
    place: np.ndarray,
    found: tuple[np.ndarray, np.ndarray, np.ndarray],
    draws: np.ndarray,
    alpha: float,
    rest: bool = True,
) -> Outcome:
    """Average loss, cost and coverage, (T + 1, n) each, over the images that are tested.

    Draw r takes row ``place[r]``; -1 is the last, where nothing is pruned.
    """
    weight = np.ones((len(draws), found[0].shape[1]))
    if rest:
        np.put_along_axis(weight, draws, 0.0, 1)
    weight /= weight.sum(1, keepdims=True)
    risk, cost, kept = (np.einsum("rn,rn->r", weight, table[place]) for table in found)
    return Outcome(
        alpha=alpha,
        images=draws.shape[1],
        certified=float((place >= 0).mean()),
        cost=float(cost.mean()),
        coverage=float(kept.mean()),
        risk=float(risk.mean()),
        broken=float((risk > alpha).mean()),
    )
