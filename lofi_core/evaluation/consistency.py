"""How consistent a model stays: its answers beside those of a reference, question by question.

With p and q the reference's and the candidate's distributions over a question's admissible answers,
and a the reference's most probable one, a question has

* flip: 1 if the two answers differ, 0 if not;
* JSD and TV of p and q, see `lofi_core.evaluation.divergence`;
* margin change, ``(q_a - max_{i != a} q_i) - (p_a - max_{i != a} p_i)``, in [-2, 1]: what happens
  to the lead of the reference's answer; where it loses more than it had, another answer leads.

All that `compare` reports are means of such quantities, with intervals clustered by image. Some
answers flip by rounding alone, under another batch size or attention back-end; comparing the
unpruned model with itself under such a change gives a floor; the `difference` of the two flip rates
is what pruning adds.
"""

from collections.abc import Sequence
from dataclasses import asdict, dataclass, fields
from typing import Any

import numpy as np

from lofi_core.errors import LofiError, extra
from lofi_core.evaluation.divergence import jensen_shannon, lead, stack, total_variation
from lofi_core.evaluation.statistics import Estimate, clustered_means

with extra("eval"):
    import pandas as pd

__all__ = ["Comparison", "compare", "difference"]

KEYS = ("scene", "family", "question")
BOUNDS = {
    "accuracy_change": (-1.0, 1.0),
    "jensen_shannon": (0.0, float(np.log(2))),
    "margin_change": (-2.0, 1.0),
}  # what single questions can have; everything else is in [0, 1]


@dataclass(frozen=True, eq=False)
class Comparison:
    """What `compare` found: eleven means, each an `Estimate`, and the questions behind them.

    Parameters
    ----------
    accuracy_reference, accuracy_candidate, accuracy_change : Estimate
        Share of right answers, and candidate minus reference: ``wrong_to_right - right_to_wrong``.
    agreement, flip_rate : Estimate
        Share of equal and of different answers; they sum to 1.
    right_to_wrong, wrong_to_right, wrong_to_other : Estimate
        Shares of all questions. They sum to the flip rate where a question has one right answer.
    jensen_shannon, total_variation, margin_change : Estimate
        Means over questions, in nats, in [0, 1] and in [-2, 1]; NaN for tables without
        ``probabilities``, and for answers in free text, which have none.
    samples : DataFrame
        One row per question, indexed by its keys: ``group``, ``predicted`` (the reference's), and
        one column for each of the above.
    options : dict
        ``level``, ``draws`` and ``seed`` of the intervals.
    """

    accuracy_reference: Estimate
    accuracy_candidate: Estimate
    accuracy_change: Estimate
    agreement: Estimate
    flip_rate: Estimate
    right_to_wrong: Estimate
    wrong_to_right: Estimate
    wrong_to_other: Estimate
    jensen_shannon: Estimate
    total_variation: Estimate
    margin_change: Estimate
    samples: pd.DataFrame
    options: dict[str, Any]

    def table(self) -> pd.DataFrame:
        """Return one row per measure: value, interval and standard error."""
        rows = {name: asdict(getattr(self, name)) for name in MEASURES}
        return pd.DataFrame.from_dict(rows, orient="index").rename_axis("measure")


MEASURES = tuple(f.name for f in fields(Comparison) if f.type is Estimate)


def compare(
    reference: pd.DataFrame,
    candidate: pd.DataFrame,
    groups: str | Sequence[Any] | np.ndarray = "scene",
    on: Sequence[str] = KEYS,
    level: float = 0.95,
    draws: int = 2000,
    seed: int = 0,
) -> Comparison:
    """Compare two tables of answers to the same questions.

    Parameters
    ----------
    reference, candidate : DataFrame
        One row per question, in any order, as `lofi_core.evaluation.asking.ask` returns them: the
        columns ``on``, ``predicted``, ``right`` and, for the last three measures,
        ``probabilities``.
    groups : str or sequence
        A column of ``reference`` that names the image, or one label for each of its rows.
    on : sequence of str
        Columns that together name a question.
    level, draws, seed
        Of the intervals, see `lofi_core.evaluation.statistics.clustered_means`.

    Raises
    ------
    LofiError
        If a table is empty, lacks a column, asks a question twice, or asks others than the other
        table; if the true answers differ; if probabilities are no distribution; if there are fewer
        than two groups.

    Examples
    --------
    >>> rows = {"scene": [0, 0, 1, 1], "family": list("abab"), "question": "?"}
    >>> first = pd.DataFrame({**rows, "predicted": list("yynn"), "right": [1, 1, 0, 1]})
    >>> second = first.assign(predicted=list("yyyy"), right=[1, 1, 1, 0])
    >>> result = compare(first, second)
    >>> result.accuracy_change.value, result.flip_rate.value
    (0.0, 0.5)
    """
    a, b = _matched(reference, candidate, list(on))
    group = reference[groups] if isinstance(groups, str) and groups in reference else groups
    if isinstance(group, str) or len(group) != len(a):
        raise LofiError(
            f"compare: groups={groups!r}; expected a column of the reference, among "
            f"{list(reference.columns)}, or one label for each of its {len(a)} rows"
        )
    right, still_right = a["right"].to_numpy(bool), b["right"].to_numpy(bool)
    same = (a["predicted"] == b["predicted"]).to_numpy()
    samples = pd.DataFrame(
        {
            "group": np.asarray(group),
            "predicted": a["predicted"],
            "accuracy_reference": right,
            "accuracy_candidate": still_right,
            "accuracy_change": still_right.astype(int) - right.astype(int),
            "agreement": same,
            "flip_rate": ~same,
            "right_to_wrong": right & ~still_right,
            "wrong_to_right": ~right & still_right,
            "wrong_to_other": ~right & ~still_right & ~same,
            **_distances(a, b),
        },
        index=a.index,
    )
    options: dict[str, Any] = {"level": level, "draws": draws, "seed": seed}
    bounds = dict.fromkeys(MEASURES, (0.0, 1.0)) | BOUNDS
    table = clustered_means(samples[[*MEASURES]], samples["group"], bounds, **options)
    estimates = {str(row.Index): _estimate(row) for row in table.itertuples()}
    return Comparison(**estimates, samples=samples, options=options)


def difference(first: Comparison, second: Comparison, measure: str) -> Estimate:
    """Mean difference of a measure between two comparisons with one reference, paired by question.

    Parameters
    ----------
    first, second : Comparison
        Of two candidates with the same reference. Level, draws and seed are those of ``first``.
    measure : str
        A field of `Comparison`, such as ``"agreement"``; ``second``'s is subtracted.

    Raises
    ------
    LofiError
        If there is no such measure, or the reference differs.
    """
    if measure not in MEASURES:
        raise LofiError(f"difference: measure={measure!r}; expected one of {list(MEASURES)}")
    a, b = first.samples, second.samples
    if not a.index.equals(b.index) or not a["predicted"].equals(b["predicted"]):
        raise LofiError(
            f"difference: comparisons of {len(a)} and {len(b)} questions with other references; "
            "expected the same table as reference in both: compare each candidate with it"
        )
    values = (a[measure].astype(float) - b[measure].astype(float)).to_frame(measure)
    least, most = BOUNDS.get(measure, (0.0, 1.0))
    bounds = {measure: (least - most, most - least)}
    (row,) = clustered_means(values, a["group"], bounds, **first.options).itertuples()
    return _estimate(row)


def _estimate(row: Any) -> Estimate:
    return Estimate(row.value, row.low, row.high, row.standard_error)


def _matched(
    reference: pd.DataFrame, candidate: pd.DataFrame, on: list[str]
) -> tuple[pd.DataFrame, pd.DataFrame]:
    """Index both tables by their keys, the candidate in the reference's order."""
    tables = []
    for name, table in (("reference", reference), ("candidate", candidate)):
        if missing := [c for c in (*on, "predicted", "right") if c not in table]:
            raise LofiError(
                f"compare: the {name} lacks {missing}, it has {list(table.columns)}; expected a "
                "table as `ask` returns"
            )
        if table.empty:
            raise LofiError(f"compare: the {name} has no rows; expected at least one question")
        keyed = table.set_index(on)
        if keyed.index.has_duplicates:
            twice = keyed.index[keyed.index.duplicated()][0]
            raise LofiError(
                f"compare: the {name} answers {twice} more than once; expected one row a question: "
                "choose one pruner, budget and seed first"
            )
        tables.append(keyed)
    a, b = tables
    if odd := a.index.symmetric_difference(b.index, sort=False).tolist():
        raise LofiError(
            f"compare: {len(odd)} question(s) in one table only, such as {odd[0]}; expected the "
            f"same in the reference ({len(a)} rows) and the candidate ({len(b)} rows)"
        )
    b = b.loc[a.index]
    if "answer" in a and "answer" in b and not a["answer"].equals(b["answer"]):
        raise LofiError("compare: the true answers differ; expected the same data in both tables")
    return a, b


def _distances(a: pd.DataFrame, b: pd.DataFrame) -> dict[str, np.ndarray]:
    """Jensen-Shannon divergence, total variation and change of margin, (n,) each."""
    given = ["probabilities" in t and t["probabilities"].map(len).any() for t in (a, b)]
    if not any(given):
        nothing = np.full(len(a), np.nan)
        return dict.fromkeys(("jensen_shannon", "total_variation", "margin_change"), nothing)
    if not all(given):
        raise LofiError("compare: probabilities in one table only; expected them in both or none")
    p, q = stack(a["probabilities"]), stack(b["probabilities"])
    if (a["probabilities"].map(len) != b["probabilities"].map(len)).any():
        raise LofiError(
            "compare: probabilities of unequal length for one question; expected the same "
            "admissible answers in both tables"
        )
    top = p.argmax(1)
    return {
        "jensen_shannon": jensen_shannon(p, q),
        "total_variation": total_variation(p, q),
        "margin_change": lead(q, top) - lead(p, top),
    }
