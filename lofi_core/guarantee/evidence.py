"""What records say about a chain of budgets: confidences, bad answers, and cost, image by image.

A chain asks under its first budget, and passes on what it is not sure of: to the next budget, and
in the end to all tokens. Accepted answers can be bad; an answer of all tokens cannot, since it is
what the promise compares with.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal, get_args

import numpy as np

from lofi_core.errors import LofiError, extra

with extra("eval"):
    import pandas as pd

__all__ = ["Confidence", "Evidence", "Loss", "gather"]

Loss = Literal["changed", "broken"]
Confidence = Literal["margin", "ipr", "leverage"]
KEYS = ["image", "number"]


@dataclass(frozen=True, eq=False)
class Evidence:
    """L budgets of a chain and Q questions about n images, sorted by image.

    Parameters
    ----------
    confidence : ndarray, shape (L, Q), float
        In [0, 1]; how sure one may be of each answer.
    bad : ndarray, shape (L, Q), bool
        Whether accepting it is a loss.
    spent : ndarray, shape (L, Q), float
        Share of a question's visual tokens that each budget feeds to the language model.
    image : ndarray, shape (Q,), int
        Position of the question's image, 0 to n - 1.
    before : bool
        Whether confidences are known before the language model runs. A budget that is not trusted
        then costs nothing.
    """

    confidence: np.ndarray
    bad: np.ndarray
    spent: np.ndarray
    image: np.ndarray
    before: bool = False

    @property
    def asked(self) -> np.ndarray:
        """Questions about each image, shape (n,), int."""
        return np.bincount(self.image)

    def level(self, thresholds: np.ndarray) -> np.ndarray:
        """Which budget's answer stands at each threshold, shape (T, Q); L means all tokens."""
        sure = self.confidence[None] >= np.asarray(thresholds, dtype=float)[:, None, None]
        return np.where(sure.any(1), sure.argmax(1), len(self.confidence))

    def losses(self, thresholds: np.ndarray) -> np.ndarray:
        """Bad answers among each image's questions, shape (T, n), int."""
        never = np.zeros((1, self.bad.shape[1]), dtype=bool)
        table = np.concatenate([self.bad, never])
        bad = np.take_along_axis(table, self.level(thresholds), 0)
        counts = np.zeros((len(bad), len(self.asked)), dtype=np.int64)
        np.add.at(counts.T, self.image, bad.T)
        return counts

    def cost(self, thresholds: np.ndarray) -> np.ndarray:
        """Share of the visual tokens that all passes take together, shape (T, n), per image."""
        each = self.spent if self.before else self.spent.cumsum(0)
        last = np.ones_like(each[:1]) if self.before else 1 + each[-1:]
        table = np.concatenate([each, last])
        spent = np.take_along_axis(table, self.level(thresholds), 0)
        sums = np.zeros((len(spent), len(self.asked)))
        np.add.at(sums.T, self.image, spent.T)
        return sums / self.asked

    def coverage(self, thresholds: np.ndarray) -> np.ndarray:
        """Share of answers that stay pruned, shape (T,)."""
        return (self.level(thresholds) < len(self.confidence)).mean(1)

    def one_per_image(self, seed: int) -> "Evidence":
        """Keep one random question about each image, as an exact test of counts needs it."""
        rng = np.random.default_rng(seed)
        starts = np.concatenate([[0], self.asked.cumsum()[:-1]])
        chosen = starts + rng.integers(self.asked)
        tables = [x[:, chosen] for x in (self.confidence, self.bad, self.spent)]
        return Evidence(tables[0], tables[1], tables[2], np.arange(len(chosen)), self.before)


def gather(
    records: pd.DataFrame, arms: Sequence[int], loss: Loss, confidence: Confidence
) -> Evidence:
    """Put a chain's arms beside the unpruned model's answers.

    Parameters
    ----------
    records : DataFrame
        One row per arm and question; arm 0 is unpruned.
    arms : sequence of int
        Of the chain, in the order in which they are asked.
    loss : {"changed", "broken"}
        What counts: any answer that differs from the unpruned model's, or one that it had right and
        that is now wrong.
    confidence : {"margin", "ipr", "leverage"}
        The reply's margin; ``1 / (1 + |IPR' / IPR - 1|)``, IPR' being that of what was kept; or one
        minus the largest residual leverage. From the column of that name; for "ipr", else from
        ``ipr_before`` and ``ipr_after``.

    Raises
    ------
    LofiError
        If arms answered other questions, a column is missing or empty, or truth is not known.
    """
    if loss not in get_args(Loss) or confidence not in get_args(Confidence):
        raise LofiError(
            f"calibrate: loss={loss!r}, confidence={confidence!r}; expected one of "
            f"{get_args(Loss)} and one of {get_args(Confidence)}"
        )
    reference = _arm(records, 0)
    tables = [_arm(records, arm) for arm in arms]
    for arm, table in zip(arms, tables, strict=True):
        if not table.index.equals(reference.index) or not table["question"].equals(
            reference["question"]
        ):
            raise LofiError(
                f"calibrate: arm {arm} answered {len(table)} questions, arm 0, which is unpruned, "
                f"{len(reference)}; expected the same ones: take both arms from one run"
            )
    sure = np.stack([_confidence(table, confidence) for table in tables])
    answers = np.stack([table["predicted"].to_numpy(dtype=object) for table in tables])
    bad = answers != reference["predicted"].to_numpy(dtype=object)
    if loss == "broken":
        _known(reference["right"])
        right = np.stack([table["right"].to_numpy(dtype=bool) for table in tables])
        bad = reference["right"].to_numpy(dtype=bool) & ~right
    spent = np.stack([_column(table, "budget_measured") for table in tables])
    image = pd.factorize(reference.index.get_level_values("image"))[0]
    return Evidence(sure, bad, spent, image, confidence != "margin")


def _arm(records: pd.DataFrame, arm: int) -> pd.DataFrame:
    rows = records[records["arm"] == arm].set_index(KEYS).sort_index()
    if rows.empty or rows.index.has_duplicates:
        raise LofiError(
            f"calibrate: {len(rows)} rows of arm {arm}, {int(rows.index.duplicated().sum())} of "
            "them twice; expected one row per question, and arm 0 for the unpruned model"
        )
    return rows


def _confidence(table: pd.DataFrame, kind: Confidence) -> np.ndarray:
    if kind != "ipr" or kind in table:
        return _column(table, kind)
    change = _column(table, "ipr_after") / _column(table, "ipr_before") - 1
    return 1 / (1 + np.abs(change))


def _column(table: pd.DataFrame, name: str) -> np.ndarray:
    """Return a column of finite numbers."""
    values = table[name].to_numpy(dtype=float) if name in table else np.full(len(table), np.nan)
    if not np.isfinite(values).all():
        raise LofiError(
            f"calibrate: no {name!r} for {int((~np.isfinite(values)).sum())} of {len(values)} "
            "answers; expected a number for each: calibrate from the model, or choose another "
            "confidence"
        )
    return values


def _known(right: pd.Series) -> None:
    if right.isna().any():
        raise LofiError(
            f"calibrate: loss='broken', but the true answer of {int(right.isna().sum())} questions "
            "is not known; expected all: take loss='changed', which needs no truth"
        )
