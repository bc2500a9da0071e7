"""The questions of the chapter "Prune safely", each answered by one function."""

from collections.abc import Sequence
from dataclasses import asdict
from typing import Any

import numpy as np
import pandas as pd

from book.experiments.guarantee.baselines import (
    RANDOM,
    evidence_of,
    fixed_budget,
    only,
    oracle,
    randomly,
)
from book.experiments.guarantee.draws import certify_draws, draw, outcome, summary, tables
from lofi_core.guarantee.evidence import Evidence
from lofi_core.guarantee.monitor import Monitor
from lofi_core.guarantee.testing import THRESHOLDS, certified

__all__ = [
    "baselines",
    "chain_name",
    "cheapest",
    "families",
    "one_chain",
    "shifts",
    "watching",
]

DRAWS = 1000
DELTA = 0.05
ALPHAS = (0.05, 0.02, 0.01, 0.005)
BUDGETS = (0.5, 0.33, 0.22, 0.11, 0.05)
CHAINS: tuple[tuple[float, ...], ...] = (*((budget,) for budget in BUDGETS), (0.11, 0.33))
CALIBRATION = {0.05: 500, 0.02: 500, 0.01: 500, 0.005: 800}  # images; 500 can't certify 0.5 %


def one_chain(evidence: Evidence, alpha: float, images: int, **options: Any) -> dict[str, Any]:
    """Calibrate one chain on many draws; test on the rest, and exactly."""
    n = len(evidence.asked)
    halves = outcome(evidence, draw(n, images, DRAWS, 0), alpha, DELTA, **options)
    again = draw(n, images, DRAWS, 1, again=True)
    exact = outcome(evidence, again, alpha, DELTA, rest=False, **options)
    return {"splits": asdict(halves), "exact": asdict(exact)}


def cheapest(table: pd.DataFrame, method: str, alpha: float, images: int) -> dict[str, Any]:
    """Let each draw take the chain of a method that costs it least; the chains share delta."""
    parts = [evidence_of(table, method, chain) for chain in CHAINS]
    draws = draw(len(parts[0].asked), images, DRAWS, 0)
    last = len(THRESHOLDS)  # the row where nothing is pruned
    found = [tables(part, THRESHOLDS) for part in parts]
    places = []
    for part in parts:
        losses = part.losses(THRESHOLDS)
        place = certify_draws(losses, part.asked, draws, alpha, DELTA / len(parts))
        places.append(np.where(place < 0, last, place))
    costs = [
        np.take_along_axis(cost[place], draws, 1).mean(1)
        for (_, cost, _), place in zip(found, places, strict=True)
    ]
    best = np.argmin(costs, 0)
    rows = np.take_along_axis(np.stack(places), best[None], 0)[0]
    stacked = [np.concatenate(each) for each in zip(*found, strict=True)]
    whole = (stacked[0], stacked[1], stacked[2])
    result = asdict(summary(rows + best * (last + 1), whole, draws, alpha))
    shares = np.bincount(best, minlength=len(CHAINS)) / len(best)
    chosen = {chain_name(c): float(x) for c, x in zip(CHAINS, shares, strict=True) if x}
    return result | {"certified": float((rows < last).mean()), "chosen": chosen}


def baselines(table: pd.DataFrame, method: str, budget: float, alpha: float) -> dict[str, Any]:
    """Cost of a certified fixed budget, of random routing, and of the two oracles."""
    evidence = evidence_of(table, method, [budget])
    draws = draw(len(evidence.asked), CALIBRATION[alpha], DRAWS, 0)
    fixed = fixed_budget(table, method, [0.75, *BUDGETS], draws, alpha)
    random = outcome(randomly(evidence), draws, alpha, DELTA, thresholds=RANDOM)
    return {
        "fixed budget": asdict(fixed),
        "random routing": asdict(random),
        "oracle by image": oracle(evidence, alpha),
        "oracle by answer": oracle(evidence, alpha, "answer"),
    }


def families(evidence: Evidence, family: np.ndarray, alpha: float) -> dict[str, Any]:
    """Coverage and loss of each family of questions, under the policy of all images."""
    place = certified(evidence, alpha, DELTA)
    if place is None:
        return {}
    at = THRESHOLDS[[place]]
    level = evidence.level(at)[0]
    stays = level < len(evidence.confidence)
    bad = stays & evidence.bad[np.minimum(level, len(evidence.bad) - 1), np.arange(len(level))]
    frame = pd.DataFrame({"family": family, "coverage": stays, "loss": bad})
    frame["flips"] = evidence.bad[0]  # of the first budget, if every answer stood
    return {"threshold": float(at[0]), "by": frame.groupby("family").mean().to_dict("index")}


def shifts(evidence: Evidence, family: np.ndarray, alpha: float, images: int) -> dict[str, Any]:
    """Calibrate on all families but one, and test on that one."""
    draws = draw(len(evidence.asked), images, DRAWS, 0)
    found = {}
    for name in sorted(set(family)):
        rest, one = only(evidence, family != name), only(evidence, family == name)
        found[str(name)] = asdict(outcome(rest, draws, alpha, DELTA, test=one))
    return found


def watching(
    alpha: float,
    before: float,
    after: float,
    share: float,
    good: int,
    draws: int = 200,
    longest: int = 20_000,
) -> dict[str, Any]:
    """Draw traffic whose flip rate rises after so many good units, and see when the alarm comes.

    Parameters
    ----------
    alpha, before, after : float
        Limit, and flip rates before and after the drift.
    share : float
        Of the units that the monitor draws.
    good : int
        Units before the drift.
    longest : int
        Drawn units after which a run is given up.
    """
    false, waits = 0, []
    for seed in range(draws):
        monitor = Monitor(alpha, DELTA, share, seed)
        rng = np.random.default_rng(seed)
        if _feed(monitor, rng.random(round(good * share)) < before):
            false += 1
            continue
        start = monitor.drawn
        if _feed(monitor, rng.random(longest) < after):
            waits.append((monitor.drawn - start) / share)
    quantiles = np.quantile(waits, [0.5, 0.9]) if waits else [float("nan")] * 2
    return {
        **{"alpha": alpha, "before": before, "after": after, "share": share, "good": good},
        "runs": draws,
        "false_alarms": false / draws,
        "seen": len(waits) / max(1, draws - false),
        "median_units": float(quantiles[0]),
        "ninth_decile_units": float(quantiles[1]),
        "predicted_units": Monitor(alpha, DELTA, share).units_to_see(after, good)
        if after > alpha
        else None,
    }


def _feed(monitor: Monitor, flips: np.ndarray) -> bool:
    """Enter one answer after the other until the alarm comes; say whether it did."""
    for flip in flips:
        monitor.update([float(flip)], [0])
        if monitor.alarm:
            return True
    return False


def chain_name(chain: Sequence[float]) -> str:
    """Name a chain by its budgets."""
    return "-".join(str(budget) for budget in chain)
