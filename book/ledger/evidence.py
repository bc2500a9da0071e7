"""Committed results in the terms that claims use: means of arms, spectra, AUCs, with intervals."""

from dataclasses import asdict, dataclass
from functools import cached_property
from typing import Any

import numpy as np
import pandas as pd

from book.ledger.means import BUDGETS, SEED, Means, NoData
from book.ledger.prediction import flip_auc

__all__ = ["Evidence", "Figure"]

DRAWS_PER_ANSWER = 200  # of the AUCs, which take longer


@dataclass(frozen=True)
class Figure:
    """A number with its 95 % interval, and what it rests on.

    ``n`` counts what was counted (answers, arms, cases), ``images`` what was resampled. Without
    sampling error, both limits are the value.
    """

    value: float
    low: float
    high: float
    n: int
    images: int
    unit: str
    what: str
    model: str
    dtype: str
    device: str

    def json(self) -> dict[str, Any]:
        return asdict(self)


class Evidence:
    """Committed results, read when they are needed, and figures in their terms."""

    def __init__(self, results: Any) -> None:
        self.results = results

    @cached_property
    def answers(self) -> pd.DataFrame:
        """One row an arm and question of the test split."""
        answers = self.results.answers
        return answers[answers["split"] == "test"]

    @cached_property
    def means(self) -> Means:
        """Means of all arms."""
        return Means(self.answers[self.answers["group"] != "reference"])

    @cached_property
    def spectra(self) -> pd.DataFrame:
        """One row an arm and image: absolute relative IPR changes, and the image's agreement."""
        sites = self.results.sites
        sites = sites[(sites["group"] == "main") & (sites["split"] == "test")]
        if sites.empty:
            raise NoData("no spectra")
        names = sites["site"].astype(str)
        last = max(names[names.str.startswith("layer")], key=lambda s: int(s.split()[1]))
        parts = {
            "projector": ("projector", "visual", "ipr_centered_change"),
            "last": (last, "visual", "ipr_centered_change"),
            "uncentered": (last, "visual", "ipr_change"),
            "text": (last, "text", "ipr_centered_change"),
        }
        keys = ["arm", "image"]
        columns = {
            name: sites[(names == site) & (sites["tokens"] == tokens)].set_index(keys)[column].abs()
            for name, (site, tokens, column) in parts.items()
        }
        table = pd.DataFrame(columns)
        agreement = 1 - self.answers.groupby(keys)["flip"].mean()
        arms = self.results.arms.loc[table.index.get_level_values("arm"), ["label", "budget"]]
        table = table.assign(agreement=agreement, **{c: arms[c].to_numpy() for c in arms})
        table["cell"] = table["label"].astype(str) + table["budget"].map("@{:.2f}".format)
        return table.reset_index()

    @cached_property
    def per_answer(self) -> pd.DataFrame:
        """AUC of telling flips, within arms, by the IPR change and by the unpruned margin."""
        spectra = self.spectra[self.spectra["budget"].isin(BUDGETS)]
        columns = ["arm", "image", "flip", "reference_margin"]
        rows = self.answers[columns].merge(spectra[["arm", "image", "last"]], on=["arm", "image"])
        predictors = pd.DataFrame({"ipr": rows["last"], "margin": -rows["reference_margin"]})
        return flip_auc(
            predictors,
            rows["flip"],
            rows["image"],
            within=rows["arm"],
            against="ipr",
            draws=DRAWS_PER_ANSWER,
            seed=SEED,
        )

    def sampled(
        self, values: np.ndarray, unit: str, what: str, n: int = 0, images: int = 0
    ) -> Figure:
        """Return a figure of (1 + draws,) values of `Means`, by default over all questions."""
        low, high = (float(v) for v in np.quantile(values[1:], [0.025, 0.975]))
        n = n or int(np.median(self.means.asked))  # random has several seeds
        made = self.figure(float(values[0]), low, high, n, images or self.means.images)
        return made(unit, what)

    def row(self, row: Any, unit: str, what: str, prefix: str = "") -> Figure:
        """Return a figure of a row of `book.ledger.prediction`'s tables."""
        names = (
            ("value", "low", "high") if not prefix else (prefix, f"{prefix}_low", f"{prefix}_high")
        )
        value, low, high = (float(row[name]) for name in names)
        return self.figure(value, low, high, int(row["n"]), int(row["groups"]))(unit, what)

    def figure(self, value: float, low: float, high: float, n: int, images: int) -> Any:
        """Fill in what all figures of one run share."""
        run = self.results.experiment
        made_by = {"model": "SceneVLM", "dtype": run["dtype"], "device": run["device"]}
        return lambda unit, what: Figure(value, low, high, n, images, unit, what, **made_by)
