r"""May this pruner go live? One rule from answers to pass, warn, block or inconclusive.

The rule, fixed before any number is looked at. For image c, F_c is the share of its questions whose
answer pruning flips, N_c the share that the unpruned model flips under another batch size (the
noise floor), and E_c = F_c - N_c the excess. All bounds are one-sided, of error ``delta``, valid
for any number of images: the betting bound of `lofi_core.guarantee.bounds` on the mean over images,
read in an order drawn at random with a fixed seed.

1. **block** if the lower bound of the mean of E is above the limit.
2. Otherwise **pass** if the upper bound of the mean of F is at or below the limit; **warn** instead
   of pass if a group of questions has a lower bound of F above the limit (``delta`` shared among
   the groups), if true answers are known and accuracy is not shown to be equivalent, or if rows of
   the data were skipped.
3. Otherwise **warn** if the upper bound of the mean of E is at or below the limit: pruning adds no
   more than is allowed, but with the noise more flips than the limit may be seen.
4. Otherwise **inconclusive**, with an estimate of how many images would settle it.

Accuracy is equivalent if two one-sided t-tests of level ``delta`` (TOST), clustered by image, both
reject: the interval of level 1 - 2 delta of the accuracy's change lies within -limit and limit.
"""

import math
from dataclasses import dataclass
from typing import Literal

import numpy as np

from lofi_core.errors import LofiError, extra
from lofi_core.evaluation.consistency import compare, difference
from lofi_core.evaluation.statistics import Estimate
from lofi_core.guarantee.bounds import betting, check_level, upper
from lofi_core.guarantee.samples import images_to_certify

with extra("eval"):
    import pandas as pd
    from scipy import stats

__all__ = ["Accuracy", "Decision", "Verdict", "decide", "worst"]

Verdict = Literal["pass", "warn", "inconclusive", "block"]
ORDER: tuple[Verdict, ...] = ("pass", "warn", "inconclusive", "block")
SIMULATED = 50_000  # images; beyond, the cost of learning the bet is small


@dataclass(frozen=True)
class Accuracy:
    """What became of right answers, over the ``questions`` whose true answer is known.

    Parameters
    ----------
    questions : int
    unpruned, pruned, change : Estimate
        Shares of right answers, and pruned minus unpruned.
    broken, repaired, changed_but_wrong : Estimate
        Shares of questions whose answer went from right to wrong, from wrong to right, and from
        one wrong answer to another.
    low, high : float
        Interval of the change, of level 1 - 2 delta, for TOST.
    equivalent : bool
        Whether it lies within -limit and limit.
    """

    questions: int
    unpruned: Estimate
    pruned: Estimate
    change: Estimate
    broken: Estimate
    repaired: Estimate
    changed_but_wrong: Estimate
    low: float
    high: float
    equivalent: bool


@dataclass(frozen=True, eq=False)
class Decision:
    """What `decide` found about one pruner.

    Parameters
    ----------
    verdict : {"pass", "warn", "inconclusive", "block"}
    reasons : list of str
        One sentence for each thing that led to it.
    images, questions, flipped : int
        How many there are, and how many answers flipped.
    flips, excess : Estimate
        Mean over questions, with intervals clustered by image.
    at_least, at_most : float
        One-sided bounds of the mean flip rate of an image.
    excess_at_least, excess_at_most : float
        The same of its excess over the noise floor.
    accuracy : Accuracy or None
        None where fewer than two images have a known true answer.
    groups : DataFrame
        One row per group: ``questions``, ``images``, ``flips``, ``at_least``, ``at_most``.
    images_to_settle : int or None
        For an inconclusive: images, with answers like these, that settle it with a power of 0.9;
        None where no number would.
    """

    verdict: Verdict
    reasons: list[str]
    images: int
    questions: int
    flipped: int
    flips: Estimate
    excess: Estimate
    at_least: float
    at_most: float
    excess_at_least: float
    excess_at_most: float
    accuracy: Accuracy | None
    groups: pd.DataFrame
    images_to_settle: int | None


def worst(verdicts: list[Verdict]) -> Verdict:
    """Return the verdict on all: block, or else inconclusive, warn, pass.

    Examples
    --------
    >>> worst(["pass", "inconclusive", "warn"])
    'inconclusive'
    """
    return max(verdicts, key=ORDER.index)


def decide(
    unpruned: pd.DataFrame,
    pruned: pd.DataFrame,
    repeated: pd.DataFrame,
    limit: float = 0.01,
    delta: float = 0.05,
    skipped: int = 0,
    draws: int = 2000,
) -> Decision:
    """Apply the rule above to records of one pruner.

    Parameters
    ----------
    unpruned, pruned, repeated : DataFrame
        Records, as `lofi_core.evaluation.records.read_records` returns them, of the unpruned model,
        the pruned one, and the unpruned one under another batch size. An empty ``answer`` means
        that the true one is unknown.
    limit : float in (0, 1)
        Largest share of flipped answers that is acceptable.
    delta : float in (0, 0.5)
        Error of each bound.
    skipped : int
        Rows of the data that were left out.
    draws : int
        Of the bootstrap, for the intervals; no bound depends on it.

    Raises
    ------
    LofiError
        If limit or delta are out of range, there are fewer than two images, or as
        `lofi_core.evaluation.consistency.compare`.
    """
    check_level("decide", "limit", limit)
    check_level("decide", "delta", delta)
    if delta >= 0.5 or unpruned["scene"].nunique() < 2:
        raise LofiError(
            f"decide: delta={delta}, {unpruned['scene'].nunique()} image(s); expected delta < 0.5 "
            "and at least two images: an interval over images needs more than one"
        )
    # Free text has no probabilities, and `compare` reads them of all answers or of none.
    a, b, c = (
        t.drop(columns="probabilities", errors="ignore") for t in (unpruned, pruned, repeated)
    )
    flips, noise = (compare(a, other, draws=draws) for other in (b, c))
    samples = flips.samples
    F = _by_image(samples["flip_rate"], samples["group"])
    E = F - _by_image(noise.samples["flip_rate"], noise.samples["group"])
    at_most, at_least = _at_most(F, delta), 1 - _at_most(1 - F, delta)
    excess_at_most = 2 * _at_most((1 + E) / 2, delta) - 1
    excess_at_least = 1 - 2 * _at_most((1 - E) / 2, delta)
    groups = _groups(samples, delta)
    accuracy = _accuracy(a, b, limit, delta, draws)
    reasons: list[str] = []
    settle = None
    if excess_at_least > limit:
        verdict: Verdict = "block"
        reasons.append(f"pruning flips at least {excess_at_least:.2%} beyond the noise")
    elif at_most <= limit:
        verdict = "pass"
        reasons.append(f"at most {at_most:.2%} of the answers flip")
        reasons += (warnings := _warnings(groups, accuracy, skipped, limit))
        verdict = "warn" if warnings else "pass"
    elif excess_at_most <= limit:
        verdict = "warn"
        reasons.append(
            f"pruning adds at most {excess_at_most:.2%}, but with the noise up to {at_most:.2%} of "
            "the answers flip"
        )
    else:
        verdict = "inconclusive"
        settle = _images_to_settle(F, E, limit, delta)
        needed = (
            "no number of images like these would settle it"
            if settle is None
            else f"about {settle:,} images like these would settle it; there are {len(F):,}"
        )
        reasons.append(
            f"the share of flips may be anything from {at_least:.2%} to {at_most:.2%}; {needed}"
        )
    return Decision(
        verdict,
        reasons,
        len(F),
        len(samples),
        int(samples["flip_rate"].sum()),
        flips.flip_rate,
        difference(flips, noise, "flip_rate"),
        at_least,
        at_most,
        excess_at_least,
        excess_at_most,
        accuracy,
        groups,
        settle,
    )


def _by_image(values: pd.Series, images: pd.Series) -> np.ndarray:
    """Mean per image, in an order that no sorting of the data can have shaped."""
    means = values.astype(float).groupby(images.to_numpy(), sort=False).mean().to_numpy()
    return np.asarray(np.random.default_rng(0).permutation(means))


def _at_most(losses: np.ndarray, delta: float) -> float:
    """Upper bound of the mean of losses in [0, 1], one per image."""
    return upper(lambda alpha: float(betting(losses, alpha, delta)), delta)


def _groups(samples: pd.DataFrame, delta: float) -> pd.DataFrame:
    """Flips by group, with bounds that hold for all groups together."""
    families = samples.index.get_level_values("family")
    share = delta / families.nunique()
    rows = []
    for name, some in samples.groupby(families, sort=False):
        losses = _by_image(some["flip_rate"], some["group"])
        rows.append(
            {
                "group": name,
                "questions": len(some),
                "images": len(losses),
                "flips": float(some["flip_rate"].mean()),
                "at_least": 1 - _at_most(1 - losses, share),
                "at_most": _at_most(losses, share),
            }
        )
    return pd.DataFrame(rows)


def _accuracy(
    unpruned: pd.DataFrame, pruned: pd.DataFrame, limit: float, delta: float, draws: int
) -> Accuracy | None:
    a, b = (table[table["answer"] != ""] for table in (unpruned, pruned))
    if a["scene"].nunique() < 2:
        return None
    found = compare(a, b, draws=draws)
    change = found.accuracy_change
    reach = float(stats.t.ppf(1 - delta, a["scene"].nunique() - 1)) * change.standard_error
    low, high = change.value - reach, change.value + reach  # two one-sided tests of error delta
    if change.standard_error == 0:  # no change was seen, which does not show that none exists
        seen = compare(a, b, level=1 - 2 * delta, draws=1).accuracy_change
        low, high = seen.low, seen.high
    return Accuracy(
        len(a),
        found.accuracy_reference,
        found.accuracy_candidate,
        found.accuracy_change,
        found.right_to_wrong,
        found.wrong_to_right,
        found.wrong_to_other,
        low,
        high,
        -limit < low and high < limit,
    )


def _warnings(
    groups: pd.DataFrame, accuracy: Accuracy | None, skipped: int, limit: float
) -> list[str]:
    """Say what stands against a pass."""
    found = [
        f"in the group {row.group!r} at least {row.at_least:.2%} flip"
        for row in groups.itertuples()
        if row.at_least > limit
    ]
    if accuracy is not None and not accuracy.equivalent:
        found.append(
            f"accuracy is not shown to be equivalent: its change is within {accuracy.low:+.2%} and "
            f"{accuracy.high:+.2%}, the margin is ±{limit:.2%}"
        )
    if skipped:
        found.append(f"{skipped} row(s) of the data were skipped")
    return found


def _images_to_settle(F: np.ndarray, E: np.ndarray, limit: float, delta: float) -> int | None:
    """Images for a pass if flips are below the limit so far; else for a block, or a warning."""
    if F.mean() < limit:
        return _images(F, limit, delta)
    if E.mean() > limit:
        return _images((1 - E) / 2, (1 - limit) / 2, delta)
    return _images((1 + E) / 2, (1 + limit) / 2, delta)


def _images(losses: np.ndarray, alpha: float, delta: float) -> int | None:
    """Images, drawn from these, whose betting test succeeds in 9 of 10 cases.

    `images_to_certify` assumes the best bet from the first image on; the test has to learn it, so
    its number is where the search starts.
    """
    n = images_to_certify(losses, alpha, delta)
    rng = np.random.default_rng(0)
    while n is not None and n <= SIMULATED:
        drawn = rng.choice(losses, (40, n))
        if (betting(drawn, alpha, delta) <= delta).mean() >= 0.9:
            return n
        n = math.ceil(1.05 * n)
    return n
