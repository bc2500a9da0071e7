"""Worlds in which a quantity is computed beside the recorded one: views, and controls.

A *view* shows a result without the questions that dominate it, or with LoFi as validation would
have chosen it. In a *control* what a claim is about is missing, so that its test must not hold.
Worlds combine: ``validated+uncounted``.
"""

from collections.abc import Callable

import numpy as np
import pandas as pd

from book.ledger.means import BUDGETS, PUBLISHED, Cells, Means

__all__ = [
    "BOTH",
    "CELLS",
    "COUNTING",
    "ELSEWHERE",
    "TABLES",
    "VIEWS",
    "permuted_arms",
    "reversed_ranking",
]

COUNTING = ("uncounted",)
BOTH = ("uncounted", "validated", "validated+uncounted")
VIEWS = {
    "uncounted": "without counting",
    "validated": "variant chosen on validation",
    "validated+uncounted": "that variant, without counting",
}
CHOSEN = {"lofi": "k = 32", "deflated-lofi": "deflated, energies, merged"}
RESTORED = {  # variants with the covariance of all tokens, and the same choice as it is
    "covariance restored": "lofi",
    "deflated, covariance restored": "deflated, ridge 1",
    "random, covariance restored": "random",
}


def _uncounted(answers: pd.DataFrame) -> pd.DataFrame:
    return answers[answers["family"] != "counting"]


def _others_answers(answers: pd.DataFrame) -> pd.DataFrame:
    """Give each question the answer to the same kind of question about another image."""
    keys = ["image", "number"]
    first = answers[answers["group"] == "reference"].set_index(keys)
    table = answers[answers["group"] == "main"].sort_values(["arm", "family", *keys])
    where = pd.MultiIndex.from_frame(table[keys])
    before = first["predicted"].astype(str).reindex(where).to_numpy()
    groups = table["predicted"].astype(str).groupby([table["arm"], table["family"]], observed=True)
    after = groups.transform(lambda answer: np.roll(answer, len(answer) // 2)).to_numpy()
    right, was = after == table["answer"].astype(str).to_numpy(), table["reference_right"]
    kind = np.select([was & ~right, ~was & right], ["right to wrong", "wrong to right"], "other")
    return table.assign(flip=after != before, right=right, transition=kind)


TABLES: dict[str, Callable[[pd.DataFrame], pd.DataFrame]] = {
    "uncounted": _uncounted,
    "others-answers": _others_answers,
}
"""Worlds with other answers."""


def _instead(means: Means, label: str, group: str, place: str, of: str = "main") -> Cells:
    """Put the arms of another group and label in the place of one, where both have a budget."""
    cells = means.cells
    for b in {b for g, name, b in cells if (g, name) == (of, place)}:
        del cells[of, place, b]
        if (group, label, b) in cells:
            cells[of, place, b] = cells[group, label, b]
    return cells


def _validated(means: Means) -> Cells:
    for place, label in CHOSEN.items():
        _instead(means, label, "chosen", place)
    return means.cells


def _random_as_ours(means: Means) -> Cells:
    for place in CHOSEN:
        _instead(means, "random", "main", place)
    return means.cells


def _random_as_published(means: Means) -> Cells:
    """Take the masks in turn: one mask for all images may be better or worse than random choice."""
    cells = means.cells
    rest = {cell: columns for cell, columns in cells.items() if cell[1] not in PUBLISHED}
    run = [name for name in PUBLISHED if all(("main", name, b) in cells for b in BUDGETS)]
    for b in BUDGETS:
        masks = zip(run, means.mixed(cells["main", "random", b]), strict=False)
        rest |= {("main", name, b): columns for name, columns in masks}
    return rest


def _unpruned(means: Means) -> Cells:
    noise = min(cell for cell in means.cells if cell[0] == "noise" and "float" not in cell[1])
    return {
        cell: means.cells[noise] if cell[1] in PUBLISHED else columns
        for cell, columns in means.cells.items()
    }


def _mildest_pruning(means: Means) -> Cells:
    rest = {cell: columns for cell, columns in means.cells.items() if cell[0] != "noise"}
    return rest | {("noise", "random at 75 %", 1.0): means.cells["main", "random", 0.75][:1]}


def _fixed_as_dynamic(means: Means) -> Cells:
    return _instead(means, "lofi", "main", "lofi dynamic", "dynamic")


def _next_budget(means: Means) -> Cells:
    larger = dict(zip(BUDGETS, (0.75, *BUDGETS), strict=False))
    return {
        (group, name, b): means.cells.get((group, name, larger.get(b, b)), columns)
        for (group, name, b), columns in means.cells.items()
    }


def _not_restored(means: Means) -> Cells:
    for place, label in RESTORED.items():
        _instead(means, label, "ablation", place, "ablation")
    return means.cells


CELLS: dict[str, Callable[[Means], Cells]] = {
    "validated": _validated,
    "random-as-ours": _random_as_ours,
    "random-as-published": _random_as_published,
    "unpruned": _unpruned,
    "mildest-pruning": _mildest_pruning,
    "fixed-as-dynamic": _fixed_as_dynamic,
    "next-budget": _next_budget,
    "not-restored": _not_restored,
}
"""Worlds with other arms in some places."""


ELSEWHERE = ("fault", "reversed", "shuffled-arms", "shuffled-everywhere", "shuffled-images")
"""Worlds that the quantities themselves make: they change spectra, predictors or formulas."""


def permuted_arms(spectra: pd.DataFrame, columns: list[str], seed: int) -> pd.DataFrame:
    """Deal columns out anew among the arms of a budget, image by image."""
    table = spectra.sort_values(["budget", "arm", "image"])
    rng, arms = np.random.default_rng(seed), table["arm"].unique()
    budget = table.drop_duplicates("arm").set_index("arm")["budget"].loc[arms].to_numpy()
    source = np.lexsort((rng.random(len(arms)), budget))  # sorted by budget, as the arms are
    values = table[columns].to_numpy().reshape(len(arms), -1, len(columns))
    return table.assign(
        **dict(zip(columns, values[source].reshape(-1, len(columns)).T, strict=True))
    )


def reversed_ranking(means: Means) -> Cells:
    """Give the best method the arms of the worst, the second best those of the second worst, ..."""
    names = [n for n in means.labels("main") if all(("main", n, b) in means.cells for b in BUDGETS)]
    order = sorted(names, key=lambda name: float(means.over("agreement", name)[0]))
    place = dict(zip(order, reversed(order), strict=True))
    return {
        (group, place[name], b): columns
        for (group, name, b), columns in means.cells.items()
        if name in place
    }
