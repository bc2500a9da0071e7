r"""What of a ranking is luck of the training: the same arms, asked of models from other seeds.

Their weights are not shipped. To make one and add its answers to the book:

    python -m book.training.scene.train --seed 1 --folder F --out F/model
    python -m book.experiments --model F/model --folder F/run --out F/out --groups main \
        --scenes 200 0
    python -m book.experiments.trainings F/out

Only what a comparison needs is kept, an answer a row: whether it flipped, and whether it is right.
"""

import json
import sys
from collections.abc import Sequence
from functools import partial
from pathlib import Path

import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq

from book.experiments.results import FOLDER, Results, load
from lofi_core.errors import LofiError
from lofi_core.evaluation.records import write_whole

__all__ = ["trainings", "write_trainings"]

FILE = "trainings.parquet"
COLUMNS = ["pruner", "budget", "seed", "image", "number", "flip", "right", "reference_right"]
FACTS = ("training_seed", "weights", "scenes", "device", "versions", "commit", "date")


def _answers(results: Results) -> pd.DataFrame:
    """Return one row an answer under each arm of the group "main", with the training's seed."""
    rows = results.answers[results.answers["group"] == "main"]
    rows = rows[COLUMNS].astype({"pruner": str, "seed": "Int8"})
    return rows.assign(training=results.experiment["training_seed"])


def write_trainings(runs: Sequence[Results], out: Path = FOLDER) -> None:
    """Write the answers of models from other seeds than the shipped one's.

    Parameters
    ----------
    runs : sequence of Results
        One a model, with the group "main".
    out : Path
        The folder of the committed results.

    Raises
    ------
    LofiError
        If two of them, or one and the shipped model, are from the same seed.
    """
    seeds = [json.loads((out / "experiment.json").read_text())["training_seed"]]
    seeds += [run.experiment["training_seed"] for run in runs]
    if len(set(seeds)) < len(seeds):
        raise LofiError(f"write_trainings: models of seeds {seeds}; expected each seed once")
    facts = [{name: run.experiment[name] for name in FACTS} for run in runs]
    table = pa.Table.from_pandas(pd.concat(map(_answers, runs)), preserve_index=False)
    table = table.sort_by([(name, "ascending") for name in ("training", *COLUMNS[:5])])
    marked = table.replace_schema_metadata({"lofi.trainings": json.dumps(facts)})
    write = partial(pq.write_table, marked, compression="zstd", compression_level=19)
    write_whole(out / FILE, write)


def trainings(results: Results) -> tuple[pd.DataFrame, list[dict[str, object]]]:
    """Return the same questions, asked of the shipped model and of those from other seeds.

    Parameters
    ----------
    results : Results
        The shipped model's, with the group "main".

    Returns
    -------
    DataFrame
        One row an answer: ``training`` (the seed), ``pruner``, ``budget``, ``seed`` (of a random
        pruner), ``image``, ``number``, ``flip``, ``right``, ``reference_right``.
    list of dict
        Where the others come from: seed, weights, scenes, device, versions, commit, date.
    """
    table = pq.read_table(results.folder / FILE)
    others = table.to_pandas()
    mine = _answers(results)
    same = mine["image"] <= others["image"].max()
    facts = json.loads(table.schema.metadata[b"lofi.trainings"])
    return pd.concat([mine[same], others], ignore_index=True), facts


if __name__ == "__main__":
    write_trainings([load(folder, ["main"]) for folder in sys.argv[1:]])
