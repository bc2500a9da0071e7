"""Audit a model's pruning on your own data: how many answers flip, and whether that is acceptable.

    audit(model, processor, rows, ["deflated-lofi"], [0.5, 0.25]).to_html("report.html")

The verdict follows the rule in `lofi_core.evaluation.decision`. The noise floor comes from the same
run: the unpruned model asked one question at a time.
"""

import io
import os
import platform
import tempfile
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch
from PIL import Image

from lofi_core.errors import LofiError, extra
from lofi_core.evaluation import audit_page
from lofi_core.evaluation.arms import Arm, Condition, arms, as_arm
from lofi_core.evaluation.block import Block
from lofi_core.evaluation.consistency import compare
from lofi_core.evaluation.data import Data, scenes_from_rows
from lofi_core.evaluation.decision import Decision, Verdict, decide, worst
from lofi_core.evaluation.questions import Scene
from lofi_core.evaluation.records import read_records
from lofi_core.evaluation.run import evaluate
from lofi_core.evaluation.statistics import Estimate
from lofi_core.guarantee.bounds import check_level
from lofi_core.plots import fade_dropped
from lofi_core.pruners import Pruner
from lofi_core.vlm.overlay import kept_masks, seen
from lofi_core.vlm.report import ImageReport

with extra("eval"):
    import pandas as pd

__all__ = ["ALONE", "Audit", "Audited", "Flip", "audit"]

ALONE = Arm(condition=Condition(packed=False, images_per_batch=1, questions_per_batch=1))
"""The unpruned model asked one question at a time: what flips against it is noise."""

FACTS = ("model", "weights", "dtype", "attention", "device", "images_per_batch")
VERSIONS = ("lofi_core", "torch", "transformers")
PIXELS = 240  # longer side of a picture in the report


@dataclass(frozen=True)
class Flip:
    """An answer that pruning changed.

    Parameters
    ----------
    image, group, question : str
    answer : str
        The true one; empty if unknown.
    unpruned, pruned : str
        The model's two answers.
    kind : {"broken", "repaired", "changed but wrong", "changed"}
        The last where the true answer is unknown.
    png : bytes
        The picture with dropped patches faded, as far as their places are known; empty for flips
        beyond the number that is shown.
    """

    image: str
    group: str
    question: str
    answer: str
    unpruned: str
    pruned: str
    kind: str
    png: bytes = b""


@dataclass(frozen=True, eq=False)
class Audited:
    """One pruner at one budget: its name, parameters, tokens kept, decision and flips.

    Parameters
    ----------
    pruner, parameters : str
        Registry name, and the pruner with all its parameters.
    budget : float or None
        Share of visual tokens asked for; None for a rule.
    tokens : float
        Share of visual tokens that reached the language model.
    decision : Decision
    flips : list of Flip
        All of them, in the order of the data.
    """

    pruner: str
    parameters: str
    budget: float | None
    tokens: float
    decision: Decision
    flips: list[Flip]


@dataclass(frozen=True, eq=False)
class Audit:
    """What `audit` found.

    Parameters
    ----------
    results : list of Audited
        One per pruner and budget.
    noise : Estimate
        Share of answers that the unpruned model flips by itself.
    limit, delta : float
    data : str
        Name of the data, with its digest.
    skipped, ignored : list of str
        Rows that were left out, and columns that nothing reads.
    facts : dict
        Model, weights, conditions and versions.
    command : str
        What makes this report again.
    """

    results: list[Audited]
    noise: Estimate
    limit: float
    delta: float
    data: str
    skipped: list[str]
    ignored: list[str]
    facts: dict[str, Any]
    command: str

    @property
    def verdict(self) -> Verdict:
        """The worst of the pruners' verdicts: audit what you would deploy."""
        return worst([result.decision.verdict for result in self.results])

    @property
    def smallest(self) -> dict[str, float | None]:
        """Smallest budget of each pruner that meets the limit, as do all larger ones.

        Budgets are tested from the largest to the smallest, up to the first that fails, so that
        the error of the whole sequence is ``delta``. None where the largest fails.
        """
        found: dict[str, float | None] = {}
        failed = set()
        for result in sorted(self.results, key=lambda result: -(result.budget or 0)):
            found.setdefault(result.pruner, None)
            if result.decision.at_most > self.limit:
                failed.add(result.pruner)
            elif result.pruner not in failed:
                found[result.pruner] = result.budget
        return found

    def to_html(self, path: str | os.PathLike[str]) -> Path:
        """Write a page that needs no other file or host; return its path."""
        return _written(path, audit_page.html(self))

    def to_json(self, path: str | os.PathLike[str]) -> Path:
        """Write all numbers and flips, without pictures; return the path."""
        return _written(path, audit_page.json_text(self))

    def to_markdown(self, path: str | os.PathLike[str]) -> Path:
        """Write a summary for a pull request; return its path."""
        return _written(path, audit_page.markdown(self))


def audit(
    model: Any,
    processor: Any,
    rows: Sequence[Scene] | Sequence[Mapping[str, Any]],
    pruners: Sequence[str | Pruner],
    budgets: Sequence[float] = (0.5,),
    limit: float = 0.01,
    folder: str | os.PathLike[str] | None = None,
    *,
    delta: float = 0.05,
    data: str = "rows",
    n: int | None = None,
    images_per_batch: int = 8,
    examples: int = 24,
    command: str = "",
) -> Audit | None:
    """Ask all questions unpruned, one at a time, and under every pruner; decide on each.

    Parameters
    ----------
    model, processor
        As `lofi_core.evaluation.asking.ask` takes them.
    rows : sequence of mapping, or of Scene
        Dictionaries as `lofi_core.evaluation.data.scenes_from_rows` reads them, or scenes.
    pruners : sequence of str or Pruner
        Names, each taken at every budget; a Pruner is taken as it is.
    budgets : sequence of float in (0, 1]
        Shares of visual tokens to keep.
    limit : float in (0, 1)
        Largest share of flipped answers that is acceptable.
    folder : path-like, optional
        Where answers are kept, so that a killed audit goes on; by default nowhere.
    delta : float in (0, 0.5)
        Error of each bound.
    data : str
        Name of the data, for the report.
    n : int, optional
        How many scenes; by default all.
    images_per_batch : int
        Pictures that are encoded together.
    examples : int
        Flips of each pruner that are shown with their picture.
    command : str
        What the report calls the command that makes it again.

    Returns
    -------
    Audit or None
        None if other processes of the same run have questions left to ask.

    Raises
    ------
    LofiError
        If there is no pruner, for rows or levels that are out of range, or as
        `lofi_core.evaluation.run.evaluate`.
    """
    check_level("audit", "limit", limit)
    check_level("audit", "delta", delta)
    every: dict[str, Pruner] = {}
    for pruner in pruners:
        made = [pruner] if isinstance(pruner, Pruner) else arms([pruner], budgets)
        every |= {repr(one): one for one in made}
    if not every:
        raise LofiError(
            f"audit: {len(pruners)} pruners at {len(budgets)} budgets; expected at least one each"
        )
    scenes: Sequence[Any] = rows
    if not isinstance(rows, Data) and len(rows) and isinstance(rows[0], Mapping):
        scenes = scenes_from_rows(rows)  # type: ignore[arg-type]
    if (len(scenes) if n is None else n) < 2:
        raise LofiError(
            f"audit: {len(scenes)} image(s), n={n}; expected at least two: an interval over images "
            "needs more than one"
        )
    if isinstance(scenes, Data):
        data = f"{data}, {scenes.digest}"
    with tempfile.TemporaryDirectory() as nowhere:
        where = Path(nowhere if folder is None else folder)
        wanted: list[Pruner | Arm] = [ALONE, *every.values()]
        made_at = evaluate(model, processor, scenes, wanted, where, data, n, images_per_batch)
        if made_at is None:
            return None
        records = read_records(made_at)
    unpruned = records[records["pruner"].eq("none")]
    repeated = records[records["parameters"] == repr(ALONE)]
    skipped = scenes.skipped if isinstance(scenes, Data) else []
    results, shown = [], dict[int, list[ImageReport]]()
    for parameters, pruner in every.items():
        whole = as_arm(pruner) == Arm()  # a name for keeping every token
        mine = unpruned if whole else records[records["parameters"] == parameters]
        decision = decide(unpruned, mine, repeated, limit, delta, len(skipped))
        changed = _flipped(unpruned, mine)
        flips = [_flip(row) for row in changed.to_dict("records")]
        for i, row in enumerate(changed.head(examples).to_dict("records")):
            scene = scenes[row["image"]]
            if row["image"] not in shown:
                (alone,), _ = Block(model, processor, [_one_question(scene)], [Arm()]).ask(Arm())
                shown[row["image"]] = list(alone.reports)
            png = _picture(processor, scene.image, shown[row["image"]], row["kept"])
            flips[i] = replace(flips[i], png=png)
        tokens = float(mine["budget_measured"].mean())
        budget = float(pruner.keep) if isinstance(pruner.keep, int | float) else None
        results.append(Audited(pruner.name, parameters, budget, tokens, decision, flips))
    nothing = "probabilities"
    noise = compare(unpruned.drop(columns=nothing), repeated.drop(columns=nothing)).flip_rate
    first = unpruned.iloc[0]
    facts = {name: first[name] for name in (*FACTS, *VERSIONS)} | {
        "python": platform.python_version()
    }
    facts["images_per_batch"] = int(facts["images_per_batch"])
    ignored = scenes.ignored if isinstance(scenes, Data) else []
    return Audit(results, noise, limit, delta, data, skipped, ignored, facts, command)


def _one_question(scene: Scene) -> Scene:
    """Keep the first question only: the picture's grid does not depend on the others."""
    return Scene(scene.id, scene.image, scene.questions[:1])


def _flipped(unpruned: pd.DataFrame, pruned: pd.DataFrame) -> pd.DataFrame:
    """Return the pruned records whose answer differs, with ``was`` and ``was_right``."""
    keys = ["image", "number"]
    before = unpruned[[*keys, "predicted", "right"]]
    before = before.rename(columns={"predicted": "was", "right": "was_right"})
    both = pruned.merge(before, on=keys, validate="one_to_one").sort_values(keys)
    return both[both["predicted"] != both["was"]]


def _flip(row: Mapping[str, Any]) -> Flip:
    kind = "changed but wrong"
    if row["answer"] == "":
        kind = "changed"
    elif row["was_right"] != row["right"]:
        kind = "broken" if row["was_right"] else "repaired"
    names = ("scene", "family", "question", "answer", "was", "predicted")
    image, group, question, answer, unpruned, pruned = (str(row[name]) for name in names)
    return Flip(image, group, question, answer, unpruned, pruned, kind)


def _picture(
    processor: Any, picture: Image.Image, reports: Sequence[ImageReport], kept: Any
) -> bytes:
    """PNG of a picture with dropped patches faded; in full if the patches have no known place."""
    view = picture
    if kept is not None and len(kept) == len(reports):
        chosen = [torch.tensor([int(i) for i in crop]) for crop in kept]
        mine = [replace(r, chosen=c) for r, c in zip(reports, chosen, strict=True)]
        try:
            mask = kept_masks(mine, aspect=picture.width / picture.height)[-1]
        except LofiError:  # tokens without a grid
            mask = None
        if mask is not None:
            rows, columns = mask.shape
            places = mask.flatten().nonzero()[:, 0]
            view = Image.fromarray(fade_dropped(seen(processor, picture), places, (rows, columns)))
    view = view.copy()
    view.thumbnail((PIXELS, PIXELS))
    file = io.BytesIO()
    view.save(file, "PNG", optimize=True)
    return file.getvalue()


def _written(path: str | os.PathLike[str], text: str) -> Path:
    path = Path(path)
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text, encoding="utf-8")
    except OSError as error:
        raise LofiError(
            f"audit: {path}: {error}; expected a place where a file can be written"
        ) from error
    return path
