"""Committed results in the terms that claims use: means of arms, spectra, AUCs, with intervals."""

from functools import cached_property
from typing import Any

import numpy as np
import pandas as pd

from book.ledger.means import BUDGETS, PUBLISHED, SEED, Means
from book.ledger.prediction import flip_auc
from book.ledger.quantities import NoData, Quantity
from book.ledger.strata import shuffled
from book.ledger.worlds import CELLS, TABLES, permuted_arms

__all__ = ["Evidence"]

DRAWS_PER_ANSWER = 200  # of the AUCs, which take longer
SITES = ["projector", "last", "uncentered", "text"]


class Evidence:
    """Committed results, as recorded or in another world, and quantities in their terms."""

    def __init__(self, results: Any) -> None:
        self.results = results
        self.worlds: frozenset[str] = frozenset()
        self._known = {self.worlds: self}

    def in_world(self, name: str) -> "Evidence":
        """Return the evidence in a world, or in several joined by a plus sign."""
        return self._in(frozenset(name.split("+")))

    def _in(self, worlds: frozenset[str]) -> "Evidence":
        if worlds not in self._known:
            other = Evidence(self.results)
            other.worlds, other._known = worlds, self._known
            self._known[worlds] = other
        return self._known[worlds]

    @cached_property
    def every(self) -> pd.DataFrame:
        """One row per arm and question."""
        answers = self.results.answers
        if "others-answers" in self.worlds:
            truth = self.results.questions["answer"].loc["test"]
            answers = answers[answers["split"] == "test"].join(truth, on=["image", "number"])
        for world in self.worlds & TABLES.keys():
            answers = TABLES[world](answers)
        return answers

    @cached_property
    def answers(self) -> pd.DataFrame:
        """One row per arm and question of the test split."""
        return self.every[self.every["split"] == "test"]

    @cached_property
    def means(self) -> Means:
        """Means of all arms of the test split."""
        return self._means("means", "test")

    @cached_property
    def validation(self) -> Means:
        """Means of all arms of the validation split."""
        return self._means("validation", "validation")

    def _means(self, name: str, split: str) -> Means:
        """Means of the same answers, with other arms in some places."""
        if not (worlds := self.worlds & CELLS.keys()):
            answers = self.every[self.every["split"] == split]
            if answers.empty:
                raise NoData(f"no answers of the {split} split")
            return Means(answers, self.results.arms)
        means: Means = getattr(self._in(self.worlds - worlds), name)
        for world in worlds:
            means = means.seen(CELLS[world])
        return means

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
        table["label"] = table["label"].astype(str)
        table["cell"] = table["label"] + table["budget"].map("@{:.2f}".format)
        twins = {*PUBLISHED} - {*self.means.distinct()}
        table = table[~table["label"].isin(twins)].reset_index()
        if "random-as-published" in self.worlds:
            masks = table[table["label"] == "random"]
            number = masks.groupby("budget")["arm"].rank("dense").astype(int) - 1
            table = pd.concat([masks, masks.assign(label=np.array(PUBLISHED)[number])])
        return permuted_arms(table, SITES, SEED) if "shuffled-arms" in self.worlds else table

    @cached_property
    def per_answer(self) -> pd.DataFrame:
        """AUC of telling flips by the IPR change and by the unpruned margin, mean over arms."""
        spectra = self.spectra[self.spectra["budget"].isin(BUDGETS)]
        columns = ["arm", "image", "flip", "reference_margin"]
        keep = ["arm", "image", "label", "last"]
        rows = self.answers[columns].merge(spectra[keep], on=["arm", "image"])
        predictors = pd.DataFrame({"ipr": rows["last"], "margin": -rows["reference_margin"]})
        if "shuffled-images" in self.worlds:
            predictors = shuffled(predictors, rows["arm"], SEED)
        return flip_auc(
            predictors,
            rows["flip"],
            rows["image"],
            within=rows["arm"],
            methods=rows["label"],
            against="ipr",
            draws=DRAWS_PER_ANSWER,
            seed=SEED,
        )

    def sampled(
        self,
        values: np.ndarray,
        unit: str,
        what: str,
        counted: tuple[int, int] | None = None,
        without: dict[str, float] | None = None,
    ) -> Quantity:
        """Return a quantity of (1 + draws,) values of `Means`.

        ``counted`` are answers and images, by default those of LoFi at a half; ``without`` are the
        values without one method, where methods were resampled.
        """
        low, high = np.nanquantile(values[1:], [0.025, 0.975])
        n, images = counted or self.means.asked("main", "lofi", BUDGETS[0])
        more: dict[str, Any] = {}
        if without:
            least, most = (
                min(without, key=without.__getitem__),
                max(without, key=without.__getitem__),
            )
            more = {"least_without": without[least], "most_without": without[most]}
            more |= {"methods": len(without), "without": f"{least}, {most}"}
        return self.quantity(values[0], low, high, n, images, unit, what, **more)

    def row(self, row: Any, unit: str, what: str, prefix: str = "") -> Quantity:
        """Return a quantity of a row of `book.ledger.prediction`'s tables."""
        names = (prefix, f"{prefix}_low", f"{prefix}_high") if prefix else ("value", "low", "high")
        value, low, high, n, images = (row[name] for name in (*names, "n", "groups"))
        return self.quantity(value, low, high, n, images, unit, what, methods=int(row["methods"]))

    def quantity(
        self,
        value: float,
        low: float,
        high: float,
        n: int,
        images: int,
        unit: str,
        what: str,
        **more: Any,
    ) -> Quantity:
        """Fill in what all quantities of one run share."""
        run = self.results.experiment
        more |= {"model": "SceneVLM", "dtype": run["dtype"], "device": run["device"]}
        numbers = float(value), float(low), float(high), int(n), int(images)
        return Quantity(*numbers, unit, what, **more)
