"""The committed figures of the guarantee: from the committed answers, and kept promises."""

import hashlib
import json
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
from scipy import stats

from book.experiments import load
from book.experiments.guarantee import studies
from book.experiments.guarantee.baselines import evidence_of, oracle, randomly, records
from book.experiments.results import FOLDER
from lofi_core.guarantee.evidence import Evidence


@pytest.fixture(scope="module")
def found() -> dict[str, Any]:
    result: dict[str, Any] = json.loads((FOLDER / "guarantee.json").read_text())
    return result


@pytest.fixture(scope="module")
def deflated() -> Evidence:
    results = load(groups=["main"])
    wanted = results.arms["label"].isin(["deflated-lofi", "unpruned"])
    results = replace(results, arms=results.arms[wanted & (results.arms["split"] == "test")])
    return evidence_of(records(results, ["deflated-lofi"], [0.11]), "deflated-lofi", [0.11])


def test_from_the_committed_answers(found: dict[str, Any]) -> None:
    digest = hashlib.sha256((FOLDER / "experiment.json").read_bytes()).hexdigest()
    assert found["from"]["experiment.json"] == digest, "run python -m book.experiments.guarantee"
    assert not found["commit"].endswith("modified") and found["draws"] >= 1000


@pytest.mark.parametrize("alpha", studies.ALPHAS)
def test_figures_come_out_again(found: dict[str, Any], deflated: Evidence, alpha: float) -> None:
    images = studies.CALIBRATION[alpha]
    now = studies.one_chain(deflated, alpha, images)
    then = found["methods"]["deflated-lofi"]["chains"]["0.11"][str(alpha)]
    for kind in ("splits", "exact"):
        # A p-value at the level may fall on its other side on another processor, in a few draws.
        assert now[kind] == pytest.approx(then[kind], abs=0.002), kind


def test_promises_are_kept_as_often_as_they_say(found: dict[str, Any]) -> None:
    most = float(stats.binom.ppf(1 - 1e-4, found["draws"], found["delta"])) / found["draws"]
    for method in found["methods"].values():
        for by_alpha in (*method["chains"].values(), method["broken"], *method["bounds"].values()):
            for outcome in by_alpha.values():
                assert outcome["exact"]["broken"] <= most


def test_an_oracle_is_a_lower_bound(deflated: Evidence) -> None:
    loss = deflated.losses(np.zeros(1))[0] / deflated.asked
    for alpha in (0.05, 0.02):
        known = oracle(deflated, alpha, "answer")
        assert known == pytest.approx(0.1111 + loss.mean() - alpha, abs=1e-4)
        assert known <= oracle(deflated, alpha)
    assert oracle(deflated, 0.5) == pytest.approx(deflated.spent.mean())


def test_random_routing_knows_nothing(deflated: Evidence) -> None:
    blind = randomly(deflated)
    sure = blind.confidence[0] >= 0.5
    assert sure.mean() == pytest.approx(0.5, abs=0.02)
    flips = blind.bad[0]
    # Flips among what it keeps and among the rest: within four standard errors of each other.
    error = np.sqrt(flips.var() * (1 / sure.sum() + 1 / (~sure).sum()))
    assert abs(flips[sure].mean() - flips[~sure].mean()) < 4 * error
    assert deflated.bad[0][deflated.confidence[0] >= 0.5].mean() < flips.mean() / 2
