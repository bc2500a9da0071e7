"""Fixtures of several files: results of a world whose truth is known, and the style of figures."""

from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
import pytest

from book.ledger.check import record
from book.ledger.claims import read
from book.ledger.evidence import Evidence
from book.ledger.means import BUDGETS
from lofi_core.plots import style

ALL_BUDGETS = (0.75, 0.5, 0.33, 0.22, 0.11, 0.05)
LABELS = {  # how often answers flip at a half, relative to each other
    **{"lofi": 1.0, "deflated-lofi": 0.8, "random": 1.2, "uniform": 1.2, "norm": 1.3},
    **{"pool": 1.2, "anti-lofi": 2.5, "fastervlm": 1.1, "divprune": 0.7, "dart": 0.6},
    **{"tome": 0.9, "trim": 1.6, "lrcp": 1.0, "fastv": 1.4},
}
IMAGES, QUESTIONS = 80, 5


def asked(label: str, budget: float) -> float:
    """DART keeps far less than it is asked to keep, as methods do that round."""
    return budget - 0.05 if label == "dart" else budget


def synthetic(seed: int = 0) -> Any:
    """Results as `book.experiments.load` gives them, of a world whose truth is known.

    IPR changes follow the budget alone, so that within a budget they tell nothing; answers of a
    small margin flip more often.
    """
    rng = np.random.default_rng(seed)
    arms, answers, sites = [], [], []
    image, number = (a.ravel() for a in np.indices((IMAGES, QUESTIONS)))
    margin, before = rng.random(image.size), rng.random(image.size) < 0.8

    def arm(group: str, label: str, budget: float | None, rate: float, kept: float) -> int:
        flip = rng.random(image.size) < rate * 2 * (1 - margin)
        after = np.where(flip, ~before, before)
        kind = np.select(
            [flip & before, flip & ~before, before],
            ["right to wrong", "wrong to right", "same right"],
            "same wrong",
        )
        facts = {"group": group, "label": label, "budget": budget, "split": "test"}
        arms.append(facts)
        rows = {"arm": len(arms) - 1, "image": image, "number": number, "flip": flip}
        rows |= {"right": after, "reference_right": before, "transition": kind, **facts}
        rows |= {"reference_margin": margin, "total_variation": flip * 0.5, "budget_measured": kept}
        answers.append(pd.DataFrame(rows))
        return len(arms) - 1

    arm("reference", "unpruned", None, 0.0, 1.0)
    arm("noise", "padding", None, 0.002, 1.0)
    arm("noise", "bfloat16", None, 0.2, 1.0)
    for budget in ALL_BUDGETS:
        for label, factor in LABELS.items():
            if label == "fastv" and budget < 0.3:
                continue
            rate = min(0.1 * factor * (1 - budget), 0.45)
            number_of_arm = arm("main", label, budget, rate, asked(label, budget))
            for site in ("projector", "layer 2", "layer 10"):
                for tokens in ("visual", "text"):
                    change = (1 - budget) + rng.normal(0, 0.02, IMAGES)
                    rows = {"arm": number_of_arm, "image": np.arange(IMAGES), "site": site}
                    rows |= {"tokens": tokens, **arms[-1]}
                    rows |= {"ipr_change": -change, "ipr_centered_change": change}
                    sites.append(pd.DataFrame(rows))
    for budget in BUDGETS:
        arm("dynamic", "lofi dynamic", budget, 0.1 * (1 - budget), budget)
    table = pd.concat(answers, ignore_index=True)

    def comparison(number: int) -> Any:
        mine = table[table["arm"] == number]
        rate = SimpleNamespace(value=mine.flip.mean(), low=0.0, high=mine.flip.mean() + 0.01)
        return SimpleNamespace(flip_rate=rate, samples=mine.assign(group=mine.image))

    return SimpleNamespace(
        folder=Path("no other trainings"),
        arms=pd.DataFrame(arms).rename_axis("arm"),
        answers=table,
        sites=pd.concat(sites, ignore_index=True),
        experiment={"schema": 1, "dtype": "float32", "device": "cpu"},
        compare=comparison,
    )


@pytest.fixture(scope="session")
def evidence() -> Evidence:
    return Evidence(synthetic())


@pytest.fixture(scope="session")
def made(evidence: Evidence) -> dict[str, Any]:
    """The record of that world; tests that change it change a copy."""
    return record(evidence, read())


@pytest.fixture
def clean_figures() -> Iterator[None]:
    """The book's style, for a test alone."""
    with plt.rc_context():
        style()
        yield
    plt.close("all")
