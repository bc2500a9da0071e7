"""Promises are kept as often as they say: in a world whose risk is known, and on real answers.

With R draws and delta, broken promises may number at most the quantile 1 - 1e-4 of Bin(R, delta):
an honest test exceeds that once in ten thousand. Broken variants of the method must exceed it.
"""

from dataclasses import replace

import numpy as np
import pytest
from scipy import stats

from book.experiments import load
from book.experiments.guarantee.baselines import evidence_of, records
from book.experiments.guarantee.draws import certify_draws, draw, outcome
from lofi_core.guarantee.bounds import Bound, binomial, p_value
from lofi_core.guarantee.evidence import Evidence
from lofi_core.guarantee.testing import fixed_sequence

DRAWS = 1000
COARSE = np.array([0.9, 0.8, 0.7, 0.6, 0.5, 0.4, 0.3, 0.0])  # its last step is a large one
METHODS = {"deflated-lofi": 0.11, "divprune": 0.11, "lofi": 0.22}


def allowed(delta: float, draws: int = DRAWS) -> float:
    return float(stats.binom.ppf(1 - 1e-4, draws, delta)) / draws


class World:
    """Images of 7 questions; in one image of ten, answers flip with chance 0.8 (1 - confidence)."""

    questions = 7

    def __init__(self, images: int, seed: int) -> None:
        rng = np.random.default_rng(seed)
        shape = (DRAWS, images, self.questions)
        self.confidence = rng.random(shape, dtype=np.float32)
        hard = rng.random((DRAWS, images, 1)) < 0.1
        self.bad = hard & (rng.random(shape, dtype=np.float32) < 0.8 * (1 - self.confidence))

    def counts(self, threshold: float) -> np.ndarray:
        return np.asarray((self.bad & (self.confidence >= threshold)).sum(-1))

    @staticmethod
    def risk(thresholds: np.ndarray) -> np.ndarray:
        return np.asarray(0.04 * (1 - thresholds) ** 2)


@pytest.fixture(scope="module")
def world() -> World:
    return World(images=300, seed=0)


def p_values(
    world: World, grid: np.ndarray, bound: Bound, alpha: float, delta: float
) -> np.ndarray:
    asked = np.full(world.bad.shape[1], world.questions)
    return np.stack([p_value(bound, world.counts(t), asked, alpha, delta) for t in grid], -1)


def broken(place: np.ndarray, risk: np.ndarray, alpha: float) -> float:
    """Share of draws whose threshold has too much risk; -1 asks everything again."""
    return float((np.append(risk, 0.0)[place] > alpha).mean())


@pytest.mark.parametrize("bound", ["betting", "hoeffding-bentkus"])
@pytest.mark.parametrize(("alpha", "delta"), [(0.02, 0.05), (0.02, 0.2), (0.03, 0.1)])
def test_promise_in_a_world_of_known_risk(
    world: World, bound: Bound, alpha: float, delta: float
) -> None:
    grid = np.linspace(0.7, 0.0, 15)
    place = fixed_sequence(p_values(world, grid, bound, alpha, delta), delta) - 1
    assert broken(place, world.risk(grid), alpha) <= allowed(delta)
    assert (place >= 0).mean() > 0.05  # it does not keep its promise by promising nothing


@pytest.mark.parametrize(("alpha", "delta"), [(0.02, 0.05), (0.03, 0.2)])
def test_promise_of_one_question_per_image(world: World, alpha: float, delta: float) -> None:
    grid = np.linspace(0.7, 0.0, 15)
    first = world.bad[..., 0], world.confidence[..., 0]
    counts = np.stack([(first[0] & (first[1] >= t)).sum(-1) for t in grid], -1)
    place = fixed_sequence(binomial(counts, world.bad.shape[1], alpha), delta) - 1
    assert broken(place, world.risk(grid), alpha) <= allowed(delta)


def test_control_first_refused_threshold_breaks_the_promise(world: World) -> None:
    alpha, delta = 0.035, 0.1
    p = p_values(world, COARSE, "betting", alpha, delta)
    count = fixed_sequence(p, delta)
    assert broken(count - 1, world.risk(COARSE), alpha) <= allowed(delta)
    refused = np.minimum(count, len(COARSE) - 1)
    assert broken(refused, world.risk(COARSE), alpha) > allowed(delta)


def test_control_questions_as_units_break_the_promise(world: World) -> None:
    alpha, delta = 0.02, 0.05
    grid = np.linspace(0.7, 0.0, 71)
    total = world.bad.shape[1] * world.questions
    counts = np.stack([world.counts(t).sum(-1) for t in grid], -1)
    place = fixed_sequence(binomial(counts, total, alpha), delta) - 1
    assert broken(place, world.risk(grid), alpha) > allowed(delta)


@pytest.fixture(scope="module")
def answers() -> dict[str, Evidence]:
    """Committed answers of the unpruned model and of three methods."""
    results = load(groups=["main"])
    wanted = results.arms["label"].isin([*METHODS, "unpruned"])
    results = replace(results, arms=results.arms[wanted & (results.arms["split"] == "test")])
    table = records(results, list(METHODS), list(METHODS.values()))
    return {name: evidence_of(table, name, [budget]) for name, budget in METHODS.items()}


@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize(("alpha", "delta"), [(0.05, 0.05), (0.02, 0.05), (0.05, 0.2)])
def test_promise_on_real_answers(
    answers: dict[str, Evidence], method: str, alpha: float, delta: float
) -> None:
    evidence = answers[method]
    n = len(evidence.asked)
    exact = outcome(evidence, draw(n, 500, DRAWS, 0, again=True), alpha, delta, rest=False)
    assert exact.broken <= allowed(delta)
    assert exact.certified > 0.95 and exact.cost < 0.7


def test_control_first_refused_threshold_on_real_answers(answers: dict[str, Evidence]) -> None:
    alpha, delta = 0.05, 0.1
    evidence = answers["deflated-lofi"]
    losses = evidence.losses(COARSE)
    draws = draw(len(evidence.asked), 500, DRAWS, 0, again=True)
    place = certify_draws(losses, evidence.asked, draws, alpha, delta)
    risk = (losses / evidence.asked).mean(-1)
    assert risk[-1] > alpha  # there is something to break
    assert broken(place, risk, alpha) <= allowed(delta)
    refused = np.minimum(place + 1, len(COARSE) - 1)
    assert broken(refused, risk, alpha) > allowed(delta)
