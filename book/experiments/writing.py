"""Writing the results: a run's parts put together, compactly, with what they come from.

Answers are sorted by question, then by arm, so that neighbours are alike and compress well. What
can be had again is not stored: questions, true answers and objects come from SceneVQA, and flips,
divergences and changes are computed on loading, by `lofi_core`.
"""

import hashlib
import json
from collections.abc import Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from book.experiments.compact import shorter, split_probabilities
from book.experiments.plan import Planned
from book.experiments.run import VERSION, of_split, opened
from lofi_core.evaluation.records import write_whole

__all__ = ["write_results"]

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


def write_results(
    folder: Path, out: Path, arms: Sequence[Planned], facts: Mapping[str, Any]
) -> dict[str, Any]:
    """Put a complete run's parts together.

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
    tables: dict[str, list[pa.Table]] = {name: [] for name in ORDER}
    first = 0
    for split in facts["scenes"]:
        parts, mine = opened(folder, arms, split), of_split(arms, split)
        place = {parts.numbers[repr(arm)]: first + i for i, arm in enumerate(mine)}
        for name, order in ORDER.items():
            table = parts.read(name)
            table = table.filter(pc.is_in(table["arm"], pa.array(place, pa.int16())))
            numbers = pa.array([place[n] for n in table["arm"].to_pylist()], pa.int16())
            column = table.schema.get_field_index("arm")
            table = table.set_column(column, "arm", numbers)
            tables[name].append(table.sort_by([(key, "ascending") for key in order]))
        first += len(mine)
    whole = {"arms": _arms(arms, facts["scenes"])}
    whole |= {name: pa.concat_tables(parts) for name, parts in tables.items()}
    exact = [i for i, arm in enumerate(whole["arms"]["group"].to_pylist()) if arm in UNPRUNED]
    whole["answers"] = shorter(split_probabilities(whole["answers"], exact))
    whole["sites"] = shorter(whole["sites"])
    hashes = {}
    for name, table in whole.items():
        path = out / f"{name}.parquet"
        marked = table.replace_schema_metadata({"lofi.experiment": str(VERSION)})
        write_whole(path, partial(pq.write_table, marked, **ENCODING))
        hashes[path.name] = hashlib.sha256(path.read_bytes()).hexdigest()
    experiment = {**facts, "sha256": hashes}
    text = json.dumps(experiment, indent=1) + "\n"
    write_whole(out / "experiment.json", lambda part: part.write_text(text))
    return experiment


def _arms(arms: Sequence[Planned], scenes: Mapping[str, int]) -> pa.Table:
    rows: list[dict[str, Any]] = []
    for arm in (arm for split in scenes for arm in of_split(arms, split)):
        pruned = arm.group not in UNPRUNED
        rows.append(
            {
                "arm": len(rows),
                "split": arm.split,
                "group": arm.group,
                "pruner": (arm.pruner.name or "lofi") if pruned else "none",
                "label": arm.label,
                "axis": arm.axis,
                "budget": arm.budget,
                "seed": arm.seed,
                "how": arm.how,
                "parameters": repr(arm.pruner) if pruned else "",
            }
        )
    types = {"arm": pa.int16(), "budget": pa.float64(), "seed": pa.int16()}
    schema = pa.schema({name: types.get(name, pa.string()) for name in rows[0]})
    return pa.Table.from_pylist(rows, schema)
