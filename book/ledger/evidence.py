"""Committed results in the terms that claims use: means of arms, spectra, AUCs, with intervals."""

from functools import cached_property
from typing import Any

import numpy as np
import pandas as pd

from book.ledger.means import BUDGETS, SEED, Means
from book.ledger.prediction import flip_auc
from book.ledger.quantities import NoData, Quantity

__all__ = ["Evidence"]

DRAWS_PER_ANSWER = 200  # of the AUCs, which take longer


class Evidence:
    """Committed results, read when they are needed, and quantities in their terms."""

    def __init__(self, results: Any) -> None:
        self.results = results

    @cached_property
    def answers(self) -> pd.DataFrame:
        """One row per arm and question of the test split."""
        answers = self.results.answers
        return answers[answers["split"] == "test"]

    @cached_property
    def means(self) -> Means:
        """Means of all arms."""
        return Means(self.answers[self.answers["group"] != "reference"])

    @cached_property
    def spectra(self) -> pd.DataFrame:
        """One row per arm and image: absolute relative IPR changes, and the image's agreement."""
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
        return flip_auc(
            pd.DataFrame({"ipr": rows["last"], "margin": -rows["reference_margin"]}),
            rows["flip"],
            rows["image"],
            within=rows["arm"],
            against="ipr",
            draws=DRAWS_PER_ANSWER,
            seed=SEED,
        )

    def sampled(
        self, values: np.ndarray, unit: str, what: str, n: int = 0, images: int = 0
    ) -> Quantity:
        """Return a quantity of (1 + draws,) values of `Means`, by default over all questions."""
        low, high = np.quantile(values[1:], [0.025, 0.975])
        n = n or int(np.median(self.means.asked))  # random has several seeds
        return self.quantity(values[0], low, high, n, images or self.means.images, unit, what)

    def row(self, row: Any, unit: str, what: str, prefix: str = "") -> Quantity:
        """Return a quantity of a row of `book.ledger.prediction`'s tables."""
        names = (prefix, f"{prefix}_low", f"{prefix}_high") if prefix else ("value", "low", "high")
        value, low, high, n, images = (row[name] for name in (*names, "n", "groups"))
        return self.quantity(value, low, high, n, images, unit, what)

    def quantity(
        self, value: float, low: float, high: float, n: int, images: int, unit: str, what: str
    ) -> Quantity:
        """Fill in what all quantities of one run share."""
        run = self.results.experiment
        made_by = {"model": "SceneVLM", "dtype": run["dtype"], "device": run["device"]}
        numbers = float(value), float(low), float(high), int(n), int(images)
        return Quantity(*numbers, unit, what, **made_by)
