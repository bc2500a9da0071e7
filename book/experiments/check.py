"""Recompute a random part of the committed results with the shipped model.

    python -m book.experiments.check [SEED]

Tolerances, fixed before anything is compared:

* kept tokens: the same for all but 1 % of the images, as a tie at the cut can break either way;
* probabilities, where the kept tokens are the same: total variation at most twice the largest that
  the committed noise arms in float32 show, and a unit in the last stored digit of each answer;
* answers, likewise: the same, unless the committed margin is within that tolerance;
* figures of the sites, likewise: 0.3 % and 0.003, what is left of their digits.

Pruning inside the language model keeps no one set of tokens: 1 % of its questions may differ. The
noise arm in bfloat16 is not drawn: what that gives depends on the processor.
"""

import subprocess
import sys
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pyarrow as pa

from book.experiments import plan as plans
from book.experiments.compact import SCALE, probability_matrix
from book.experiments.export import compact_tables
from book.experiments.plan import Planned
from book.experiments.results import Results, load
from book.experiments.run import BLOCK, Models, block_records, blocks
from lofi_core.errors import LofiError
from lofi_core.evaluation.records import fingerprint

__all__ = ["Checked", "check"]

ARMS = 16  # arms to recompute of each split, besides the unpruned model
TIES = 0.01
KEY = ["arm", "image", "number"]


@dataclass(frozen=True)
class Checked:
    """What was recomputed, and how far it was from what is committed.

    Parameters
    ----------
    part : dict
        By split: which block of scenes, and which arms.
    answers, images, figures : int
        Rows compared.
    other_choices : float
        Share of images whose kept tokens differ.
    other_answers : float
        Share of answers that differ without excuse.
    distance, tolerance : float
        Largest total variation met, and allowed.
    """

    part: dict[str, dict[str, Any]]
    answers: int
    images: int
    figures: int
    other_choices: float
    other_answers: float
    distance: float
    tolerance: float


def check(results: Results, seed: int, arms: int = ARMS) -> Checked:
    """Recompute a block of scenes of each split under some arms.

    Parameters
    ----------
    results : Results
        All groups.
    seed : int
        Of the choice.
    arms : int
        How many a split, drawn without replacement.

    Raises
    ------
    LofiError
        If the weights are others, if an arm is no longer in the plan, or if anything is out of
        tolerance; the message names the part.
    """
    models = Models.load()
    weights = fingerprint(models.model), fingerprint(models.clip.model)
    committed = results.experiment["weights"], results.experiment["clip_weights"]
    if weights != committed:
        raise LofiError(
            f"check: results of weights {committed}, shipped are {weights}; expected the same: run "
            "`make experiments`"
        )
    rng = np.random.default_rng(seed)
    part, found = {}, []
    for split, n in results.experiment["scenes"].items():
        block = int(rng.integers(blocks(n)))
        chosen = _draw(results, split, arms, rng)
        part[split] = {"block": block, "arms": [arm.label for arm in chosen.values()]}
        made = [
            compact_tables(records, chosen[number], number)
            for number, records in block_records(models, chosen, block, n)
        ]
        tables = {name: pa.concat_tables([one[name] for one in made]) for name in made[0]}
        first = results.find(group="reference", split=split)[0]
        images = range(block * BLOCK, min((block + 1) * BLOCK, n))
        numbers = [first + number for number in chosen]
        new = {name: table.to_pandas() for name, table in tables.items()}
        for table in new.values():
            table["arm"] += first
        new["answers"]["probabilities"] = [*probability_matrix(tables["answers"])]
        found.append(_compare(results, new, numbers, images))
    return _judge(part, found, 2 * results.noise["largest_distance"].max())


def _draw(results: Results, split: str, count: int, rng: np.random.Generator) -> dict[int, Planned]:
    """Draw arms of a split by their number in it; the unpruned model always comes first."""
    known = {(arm.split, arm.group, arm.label, arm.budget, arm.seed): arm for arm in plans.plan()}
    mine = results.arms[results.arms["split"] == split]
    others = mine.index[1:].difference(mine.index[mine["label"] == "bfloat16"])
    drawn = sorted(rng.choice(others, min(count, len(others)), replace=False).tolist())
    chosen = {}
    for number in (int(mine.index[0]), *drawn):
        row = mine.loc[number].astype(object).where(lambda x: x.notna(), None)
        key = (split, row["group"], row["label"], row["budget"], row["seed"])
        if key not in known or (row["parameters"] and repr(known[key].pruner) != row["parameters"]):
            raise LofiError(
                f"check: arm {key}, {row['parameters']}, is not in the plan any more; expected it: "
                "run `make experiments`"
            )
        chosen[number - int(mine.index[0])] = known[key]
    return chosen


def _compare(
    results: Results, new: Mapping[str, pd.DataFrame], arms: list[int], images: range
) -> dict[str, Any]:
    """Join what was recomputed with what is committed."""

    def old(name: str) -> pd.DataFrame:
        filters = [("arm", "in", arms), ("image", ">=", images.start), ("image", "<", images.stop)]
        table = results.read(name, filters)
        rows = table.to_pandas()
        if name == "answers":
            rows["probabilities"] = [*probability_matrix(table)]
        return rows

    choice = old("images").merge(new["images"], on=KEY, suffixes=("", "_new"), validate="1:1")
    inside = choice["kept"].isna()
    choice["same"] = inside | (choice["kept"] == choice["kept_new"])
    whole = choice[choice["number"] < 0].set_index(["arm", "image"])["same"]
    each = choice[choice["number"] >= 0].set_index(KEY)["same"]
    answers = old("answers").merge(new["answers"], on=KEY, suffixes=("", "_new"), validate="1:1")
    keys = pd.MultiIndex.from_frame(answers[KEY])
    same = pd.Series(whole.reindex(keys.droplevel(2)).to_numpy())
    answers["same"] = same.fillna(pd.Series(each.reindex(keys).to_numpy())).astype(bool)
    pairs = zip(answers["probabilities"], answers["probabilities_new"], strict=True)
    answers["distance"] = [np.abs(p - q).sum() / 2 for p, q in pairs]
    ordered = answers["probabilities"].map(np.sort)
    answers["margin"] = ordered.map(lambda p: p[-1] - p[-2])
    how = results.arms["how"].reindex(answers["arm"]).to_numpy()
    answers["inside"] = how == "inside"
    on = ["arm", "image", "site", "tokens"]
    sites = old("sites").merge(new["sites"], on=on, suffixes=("", "_new"), validate="1:1")
    kept = pd.MultiIndex.from_frame(sites[["arm", "image"]])
    sites = sites[whole.reindex(kept).to_numpy(bool)]
    expected = len(new["images"]), len(new["answers"]), len(new["sites"])
    if (len(choice), len(answers)) != expected[:2] or len(old("sites")) != expected[2]:
        raise LofiError(f"check: {expected} rows recomputed, others committed, of arms {arms}")
    return {"images": choice[~inside], "answers": answers, "sites": sites}


def _judge(part: dict[str, Any], found: list[dict[str, Any]], noise: float) -> Checked:
    images, answers, sites = (
        pd.concat([tables[name] for tables in found]) for name in ("images", "answers", "sites")
    )
    choices = answers["probabilities_new"].map(np.count_nonzero)  # none of these is rounded to 0
    tolerance = noise + choices / SCALE / 2
    fair = answers[answers["same"] & ~answers["inside"]]
    allowed = tolerance[answers["same"] & ~answers["inside"]]
    odd = (fair["predicted"] != fair["predicted_new"]) & (fair["margin"] > 2 * allowed)
    far = fair["distance"] > allowed
    inside = answers[answers["inside"]]
    moved = (inside["predicted"] != inside["predicted_new"]).mean() if len(inside) else 0.0
    names = [c.removesuffix("_new") for c in sites if c.endswith("_new")]
    wrong = {
        name: int(
            (~np.isclose(sites[name], sites[f"{name}_new"], 3e-3, 3e-3, equal_nan=True)).sum()
        )
        for name in names
    }
    result = Checked(
        part=part,
        answers=len(answers),
        images=len(images),
        figures=len(sites) * len(names),
        other_choices=float(1 - images["same"].mean()),
        other_answers=float(odd.mean()),
        distance=float(fair["distance"].max()),
        tolerance=float(tolerance.max()),
    )
    if result.other_choices > TIES or moved > TIES or odd.any() or far.any() or any(wrong.values()):
        raise LofiError(
            f"check: {int(odd.sum())} answers and {int(far.sum())} distributions of {len(fair)}, "
            f"{result.other_choices:.1%} of the choices, {moved:.1%} of the answers under pruning "
            f"inside, figures {wrong} are out of tolerance, in {result}; expected none: the "
            "results are stale, run `make experiments`"
        )
    return result


def commit_seed() -> int:
    """Return a seed that changes with every commit; 0 without git."""
    command = ["git", "-C", str(Path(__file__).parent), "rev-parse", "--short=8", "HEAD"]
    try:
        done = subprocess.run(command, capture_output=True, text=True, check=True)
    except (OSError, subprocess.CalledProcessError):
        return 0
    return int(done.stdout, 16)


if __name__ == "__main__":
    chosen = int(sys.argv[1]) if len(sys.argv) > 1 else commit_seed()
    print(f"seed {chosen}: {check(load(), chosen)}")
