"""The committed results, loaded as tidy tables; flips and divergences are computed on loading."""

import hashlib
import json
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from book.experiments.compact import NOT_ADMISSIBLE, probability_matrix
from book.experiments.export import VERSION
from book.experiments.plan import VISUAL
from book.experiments.tables import answer_table, question_table, site_table
from lofi_core.errors import LofiError
from lofi_core.evaluation.consistency import Comparison, compare

__all__ = ["FOLDER", "Results", "best_variants", "load"]

FOLDER = Path(__file__).resolve().parents[1] / "results"
OTHER_TYPES = ("bfloat16", "float64")  # noise arms that are not in float32


def load(folder: str | Path = FOLDER, groups: Sequence[str] | None = None) -> "Results":
    """Load results.

    Parameters
    ----------
    folder : path-like
        Where `book.experiments.export` put them; by default those that come with the book.
    groups : sequence of str, optional
        Load the arms of these groups only, and the unpruned model.

    Raises
    ------
    LofiError
        If a file is missing, of another schema, or not the one that ``experiment.json`` names.
    """
    folder = Path(folder)
    try:
        experiment = json.loads((folder / "experiment.json").read_text())
        found = {
            name: hashlib.sha256((folder / name).read_bytes()).hexdigest()
            for name in experiment["sha256"]
        }
    except (OSError, ValueError, KeyError) as error:
        raise LofiError(
            f"load: {folder}: {error!r}; expected experiment.json and the files it names: run "
            "`make experiments`"
        ) from error
    if experiment["schema"] != VERSION:
        raise LofiError(
            f"load: {folder}: schema {experiment['schema']}; expected {VERSION}: repeat the run, "
            "or load it with the version that wrote it"
        )
    if odd := [name for name, digest in experiment["sha256"].items() if found[name] != digest]:
        raise LofiError(
            f"load: {odd} in {folder} differ from their SHA-256 in experiment.json; expected the "
            "files of one run: restore them, or run `make experiments`"
        )
    arms = pq.read_table(folder / "arms.parquet").to_pandas().set_index("arm")
    arms["seed"] = arms["seed"].astype("Int64")
    if groups is not None:
        if odd := sorted(set(groups) - set(arms["group"])):
            raise LofiError(f"load: groups {odd}; expected among {arms['group'].unique().tolist()}")
        arms = arms[arms["group"].isin(["reference", *groups])]
    return Results(folder, experiment, arms)


@dataclass(frozen=True, eq=False)
class Results:
    """Tables of an experiment; the larger ones are read when they are first asked for.

    Parameters
    ----------
    folder : Path
    experiment : dict
        What ``experiment.json`` says: versions, hashes, scenes, budgets.
    arms : DataFrame
        One row an arm, indexed by its number.
    """

    folder: Path
    experiment: dict[str, Any]
    arms: pd.DataFrame

    @cached_property
    def questions(self) -> pd.DataFrame:
        """All questions with their true answers, from SceneVQA, indexed by split, image, number."""
        return question_table(self.experiment["scenes"])

    @cached_property
    def answers(self) -> pd.DataFrame:
        """One row an arm and question, beside the unpruned model's answer, see `answer_table`."""
        return answer_table(self._read("answers"), self.arms, self.questions, self.images)

    @cached_property
    def images(self) -> pd.DataFrame:
        """One row an arm and image: visual tokens and, as bits, which were kept."""
        return self._read("images").to_pandas()

    @cached_property
    def sites(self) -> pd.DataFrame:
        """One row an arm, image, site and kind of token: figures before and after pruning."""
        return site_table(self._read("sites").to_pandas(), self.arms)

    def find(self, **wanted: Any) -> list[int]:
        """Return the numbers of the arms with these values, as in ``label="lofi", budget=0.5``."""
        mask = pd.Series(True, index=self.arms.index)
        for column, value in wanted.items():
            mask &= self.arms[column].isna() if value is None else self.arms[column].eq(value)
        return [int(arm) for arm in self.arms.index[mask.fillna(False)]]

    def reference(self, arm: int) -> int:
        """Return the unpruned model's arm on the same split."""
        return self.find(group="reference", split=self.arms.loc[arm, "split"])[0]

    def records(self, arm: int) -> pd.DataFrame:
        """Return one arm's answers as `lofi_core.evaluation.consistency.compare` takes them."""
        answers = self._read("answers")
        answers = answers.filter(pc.equal(answers["arm"], arm))
        matrix, mine = probability_matrix(answers), answers.to_pandas()
        keys = pd.MultiIndex.from_arrays(
            [[self.arms.loc[arm, "split"]] * len(mine), mine["image"], mine["number"]]
        )
        known = self.questions.loc[keys].reset_index(drop=True)
        words = [
            choices[code] if code != NOT_ADMISSIBLE else "(none of the choices)"
            for choices, code in zip(known["choices"], mine["predicted"], strict=True)
        ]
        columns = known[["scene", "family", "question", "answer"]]
        right = np.array(words) == known["answer"].to_numpy()
        lists = [p[: len(c)] for p, c in zip(matrix, known["choices"], strict=True)]
        return columns.assign(predicted=words, right=right, probabilities=lists)

    def compare(self, arm: int, **options: Any) -> Comparison:
        """Compare an arm with the unpruned model, see `consistency.compare`."""
        reference, candidate = self.records(self.reference(arm)), self.records(arm)
        if len(candidate) < len(reference):
            keys = ["scene", "family", "question"]
            reference = reference.merge(candidate[keys], on=keys)
        return compare(reference, candidate, **options)

    def kept(self, arm: int) -> np.ndarray:
        """Which visual tokens were kept, (images, N) bool; (questions, N) if chosen for each.

        Raises
        ------
        LofiError
            If the arm prunes inside the language model, where each layer keeps its own.
        """
        rows = self.images[self.images["arm"] == arm]
        if rows.empty or rows["kept"].isna().any():
            raise LofiError(
                f"Results.kept: arm {arm} has no one set of kept tokens; expected a pruner that "
                "acts before the language model"
            )
        packed = np.stack([np.frombuffer(bits, np.uint8) for bits in rows["kept"]])
        return np.unpackbits(packed, axis=1)[:, :VISUAL].astype(bool)

    @cached_property
    def noise(self) -> pd.DataFrame:
        """What changes without any pruning, one row a numerical condition, in float32 alone.

        ``flips`` of ``questions``, ``rate``, and ``largest_distance``, the largest total variation.
        """
        arms = self.arms[(self.arms["group"] == "noise") & ~self.arms["label"].isin(OTHER_TYPES)]
        rows = {}
        for arm, label in arms["label"].items():
            samples = self.compare(arm, draws=1).samples
            rows[label] = {
                "flips": int(samples["flip_rate"].sum()),
                "questions": len(samples),
                "rate": samples["flip_rate"].mean(),
                "largest_distance": samples["total_variation"].max(),
            }
        return pd.DataFrame.from_dict(rows, orient="index").rename_axis("label")

    @cached_property
    def variants(self) -> pd.DataFrame:
        """Agreement of each variant of LoFi on the validation split, averaged over budgets.

        One row a variant, best first: ``axis``, ``agreement``.
        """
        arms = self.arms[self.arms["group"] == "ablation"]
        flips = self.answers[self.answers["group"] == "ablation"].groupby("arm")["flip"].mean()
        table = arms.assign(agreement=1 - flips).groupby(["label", "axis"])["agreement"].mean()
        return table.sort_values(ascending=False).reset_index("axis")

    def read(self, name: str, filters: list[tuple[str, str, Any]]) -> pa.Table:
        """Read rows of a file as they are stored.

        Raises
        ------
        LofiError
            If the file is of another schema.
        """
        path = self.folder / f"{name}.parquet"
        table = pq.read_table(path, filters=filters)
        schema = (table.schema.metadata or {}).get(b"lofi.experiment", b"none").decode()
        if schema != str(VERSION):
            raise LofiError(f"load: {path}: schema {schema}; expected {VERSION}: repeat the run")
        return table

    def _read(self, name: str) -> pa.Table:
        return self.read(name, [("arm", "in", self.arms.index.tolist())])


def best_variants(variants: pd.DataFrame) -> tuple[str, str]:
    """Choose by agreement on validation: among variants of one score a token, and among all.

    Parameters
    ----------
    variants : DataFrame
        See `Results.variants`.
    """
    plain = variants[variants["axis"].isin(["rank", "centring", "site", "ridge"])]
    every = variants[variants["axis"] != "baseline"]
    return str(plain.index[0]), str(every.index[0])
