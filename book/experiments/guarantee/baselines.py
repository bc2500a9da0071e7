"""Evidence from the committed answers, and what a policy is compared with."""

from collections.abc import Sequence
from dataclasses import replace
from typing import Literal

import numpy as np
import pandas as pd

from book.experiments.guarantee.draws import Outcome, certify_draws, summary
from book.experiments.results import Results
from lofi_core.errors import LofiError
from lofi_core.guarantee.evidence import Evidence, Loss, gather

__all__ = ["evidence_of", "fixed_budget", "only", "oracle", "randomly", "records"]

RANDOM = np.linspace(1, 0, 49)  # thresholds of random routing, as many as there are of margins


def records(results: Results, methods: Sequence[str], budgets: Sequence[float]) -> pd.DataFrame:
    """Return the committed answers of the test split as `lofi_core.guarantee.calibrate` takes them.

    Parameters
    ----------
    results : Results
        With the group "main".
    methods : sequence of str
        Labels of methods without a seed.
    budgets : sequence of float
        Which of their budgets.
    """
    arms = results.arms[results.arms["split"] == "test"]
    mine = arms[arms["label"].isin(methods) & arms["budget"].isin(budgets)]
    mine = pd.concat([arms[arms["group"] == "reference"], mine])
    rows = results.answers[results.answers["arm"].isin(mine.index)]
    known = results.questions.loc["test"][["question", "answer", "choices"]]
    rows = rows.merge(known, left_on=["image", "number"], right_index=True)
    run = {name: results.experiment[name] for name in ("weights", "dtype")}
    versions = {name: results.experiment["versions"][name] for name in ("torch", "transformers")}
    data = {"data": results.experiment["data"]["test"]}
    return rows.assign(parameters=rows["arm"].map(mine["parameters"]), **run, **versions, **data)


def evidence_of(
    table: pd.DataFrame, method: str, budgets: Sequence[float], loss: Loss = "changed"
) -> Evidence:
    """Gather one method's chain of budgets from `records`."""
    labels = table.drop_duplicates("arm").set_index("arm")
    mine = labels[labels["label"] == method].reset_index().set_index("budget")["arm"]
    if missing := [budget for budget in budgets if budget not in mine.index]:
        raise LofiError(
            f"evidence_of: {method} has no budget {missing}; expected among {mine.index.tolist()}"
        )
    return gather(table, [int(mine[budget]) for budget in budgets], loss, "margin")


def only(evidence: Evidence, questions: np.ndarray) -> Evidence:
    """Keep some questions, given as (Q,) bool; every image must keep one."""
    tables = [x[:, questions] for x in (evidence.confidence, evidence.bad, evidence.spent)]
    return Evidence(tables[0], tables[1], tables[2], evidence.image[questions], evidence.before)


def randomly(evidence: Evidence, seed: int = 0) -> Evidence:
    """Baseline: confidences that know nothing, to be tested at the thresholds `RANDOM`."""
    noise = np.random.default_rng(seed).random(evidence.confidence.shape)
    return replace(evidence, confidence=noise)


def oracle(evidence: Evidence, alpha: float, by: Literal["image", "answer"] = "image") -> float:
    """Baseline: the cost if it were known what to ask again, so little that the mean is alpha.

    By answer, only bad ones are asked again; by image, all questions of the worst images.
    """
    loss = evidence.losses(np.zeros(1))[0] / evidence.asked
    spent = float(evidence.cost(np.zeros(1)).mean())
    if by == "answer":
        return spent + max(0.0, float(loss.mean()) - alpha)
    stay = int((np.sort(loss).cumsum() / len(loss) <= alpha).sum())
    return spent + 1 - stay / len(loss)


def fixed_budget(
    table: pd.DataFrame, method: str, budgets: Sequence[float], draws: np.ndarray, alpha: float
) -> Outcome:
    """Baseline: the smallest budget that is certified with every answer staying pruned.

    Budgets are tested from the largest; without one, everything is asked with all tokens.
    """
    every = [evidence_of(table, method, [budget]) for budget in sorted(budgets, reverse=True)]
    bad = np.concatenate([evidence.losses(np.zeros(1)) for evidence in every])
    asked = every[0].asked
    place = certify_draws(bad, asked, draws, alpha)
    nothing, all_of_it = np.zeros((1, len(asked))), np.ones((1, len(asked)))
    costs = [*(evidence.cost(np.zeros(1)) for evidence in every), all_of_it]
    kept = np.repeat(np.append(np.ones(len(every)), 0.0)[:, None], len(asked), 1)
    tables = np.concatenate([bad / asked, nothing]), np.concatenate(costs), kept
    return summary(place, tables, draws, alpha)
