"""Export of a run's records: the compact tables that are committed, with what they come from.

A record says everything about one answer, far more than a book can carry. Answers are stored by
question, then by arm, so that neighbours are alike and compress well. What can be had again is left
out: questions, true answers and objects come from SceneVQA, and flips, divergences and changes are
computed on loading, by `lofi_core`.
"""

import hashlib
import json
from collections.abc import Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from book.experiments.compact import NOT_ADMISSIBLE, shorter, split_probabilities
from book.experiments.plan import VISUAL, Planned
from book.experiments.run import of_split
from lofi_core.evaluation.records import read_table, write_whole

__all__ = ["VERSION", "compact_tables", "write_results"]

VERSION = 1
UNPRUNED = ("reference", "noise")  # groups of arms whose probabilities are kept in float32
ORDER = {
    "answers": ("image", "number", "arm"),
    "images": ("arm", "image", "number"),
    "sites": ("arm", "site", "tokens", "image"),
}
ENCODING: dict[str, Any] = {
    "compression": "zstd",
    "compression_level": 19,
    "row_group_size": 1 << 22,
    "data_page_size": 1 << 24,
}
IMAGES = pa.schema(
    {
        "arm": pa.int16(),
        "image": pa.int16(),
        "number": pa.int8(),
        "tokens": pa.float32(),
        "kept": pa.binary(),
    }
)


def compact_tables(records: pa.Table, planned: Planned, number: int) -> dict[str, pa.Table]:
    """Keep what is stored of one arm's records.

    Parameters
    ----------
    records : Table
        Of one arm, sorted by image and question.
    planned : Planned
        The arm.
    number : int
        Its number among all arms.

    Returns
    -------
    dict of str to Table
        "answers", one row per question; "images", one row per image, or per question where the
        choice of tokens depends on it; "sites", one row per image measured, site and kind of token.
    """
    arm = pa.array(np.full(len(records), number), pa.int16())
    pairs = zip(records["choices"].to_pylist(), records["predicted"].to_pylist(), strict=True)
    codes = [c.index(word) if word in c else NOT_ADMISSIBLE for c, word in pairs]
    figures = ("probabilities", "hidden_distance", "text_ipr_change")
    answers = pa.table(
        {
            "image": records["image"].cast(pa.int16()),
            "number": records["number"].cast(pa.int8()),
            "arm": arm,
            "predicted": pa.array(codes, pa.uint8()),
            **{name: records[name] for name in figures},
        }
    )
    sites = [
        {"arm": number, "image": row["image"], **figures}
        for row in records.select(["image", "sites"]).to_pylist()
        for figures in row["sites"] or ()
    ]
    fields = {field.name: field.type for field in records.schema.field("sites").type.value_type}
    schema = pa.schema({"arm": pa.int16(), "image": pa.int16()} | fields)
    return {
        "answers": answers,
        "images": pa.Table.from_pylist(_images(records, planned, number), IMAGES),
        "sites": pa.Table.from_pylist(sites, schema),
    }


def _images(records: pa.Table, planned: Planned, number: int) -> list[dict[str, Any]]:
    """Inside the language model each question has tokens of its own; their mean is stored."""
    names = ["image", "number", "tokens", "kept"]
    rows = records.select(names).to_pylist()
    if planned.how == "question":
        return [{"arm": number, **row, "kept": _bits(row["kept"])} for row in rows]
    means = records.group_by("image").aggregate([("tokens", "mean")]).to_pylist()
    tokens = {row["image"]: row["tokens_mean"] for row in means}
    return [
        {"arm": number, **row, "number": -1, "tokens": tokens[row["image"]]}
        | {"kept": _bits(row["kept"])}
        for row in rows
        if row["number"] == 0
    ]


def _bits(kept: list[list[int]] | None) -> bytes | None:
    """Write a bit per visual token, the first one highest in the first byte."""
    if kept is None:
        return None
    mask = np.zeros(VISUAL, bool)
    mask[kept[0]] = True
    return np.packbits(mask).tobytes()


def write_results(
    folder: Path, out: Path, arms: Sequence[Planned], facts: Mapping[str, Any]
) -> dict[str, Any]:
    """Export a complete run.

    Parameters
    ----------
    folder, out : Path
        Of the run, and of the results.
    arms : sequence of Planned
        As they were run.
    facts : mapping
        What else ``experiment.json`` shall say.

    Returns
    -------
    dict
        What it says.
    """
    out.mkdir(parents=True, exist_ok=True)
    every = [planned for split in facts["scenes"] for planned in of_split(arms, split)]
    whole = {"arms": _arms(every)}
    found: dict[str, list[pa.Table]] = {name: [] for name in ORDER}
    for split in facts["scenes"]:
        records = read_table(folder / split / "records.parquet")
        known = json.loads((folder / split / "run.json").read_text())["arms"]
        made = [
            compact_tables(records.filter(pc.field("arm") == known.index(repr(p.arm))), p, number)
            for number, p in enumerate(every)
            if p.split == split
        ]
        for name, order in ORDER.items():
            table = pa.concat_tables([tables[name] for tables in made])
            found[name].append(table.sort_by([(key, "ascending") for key in order]))
    whole |= {name: pa.concat_tables(tables) for name, tables in found.items()}
    exact = [number for number, planned in enumerate(every) if planned.group in UNPRUNED]
    whole["answers"] = shorter(split_probabilities(whole["answers"], exact))
    whole["sites"] = shorter(whole["sites"])
    hashes = {}
    for name, table in whole.items():
        path = out / f"{name}.parquet"
        marked = table.replace_schema_metadata({"lofi.experiment": str(VERSION)})
        write_whole(path, partial(pq.write_table, marked, **ENCODING))
        hashes[path.name] = hashlib.sha256(path.read_bytes()).hexdigest()
    experiment = {"schema": VERSION, **facts, "sha256": hashes}
    text = json.dumps(experiment, indent=1) + "\n"
    write_whole(out / "experiment.json", lambda part: part.write_text(text))
    return experiment


def _arms(arms: Sequence[Planned]) -> pa.Table:
    rows: list[dict[str, Any]] = []
    for number, planned in enumerate(arms):
        pruned, pruner = planned.group not in UNPRUNED, planned.arm.pruner
        rows.append(
            {
                "arm": number,
                "split": planned.split,
                "group": planned.group,
                "pruner": (pruner.name or "lofi") if pruned else "none",
                "label": planned.label,
                "axis": planned.axis,
                "budget": planned.budget,
                "seed": planned.seed,
                "how": planned.how,
                "parameters": repr(pruner) if pruned else "",
            }
        )
    types = {"arm": pa.int16(), "budget": pa.float64(), "seed": pa.int16()}
    schema = pa.schema({name: types.get(name, pa.string()) for name in rows[0]})
    return pa.Table.from_pylist(rows, schema)
