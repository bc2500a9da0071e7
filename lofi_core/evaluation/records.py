"""The folder of a run: per-sample records of one Parquet schema, and what they depend on.

A file is either there in full or not at all: it is written under another name and then renamed.
Its metadata hold the version of the schema, and `read_records` refuses any other.
"""

import hashlib
import json
import os
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any
from uuid import uuid4

import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq
import torch

from lofi_core.errors import LofiError

__all__ = [
    "SCHEMA",
    "VERSION",
    "claim_folder",
    "fingerprint",
    "merge_records",
    "read_records",
    "write_records",
    "write_whole",
]

VERSION = 1

_COLUMNS: dict[str, tuple[Any, str]] = {
    "arm": (pa.int32(), "number of the arm, a pruner with all its parameters; 0 is unpruned"),
    "image": (pa.int32(), "position of the image in the data"),
    "number": (pa.int16(), "position of the question among those about the image"),
    "scene": (pa.string(), "the image's id"),
    "family": (pa.string(), "the question's family"),
    "question": (pa.string(), "its text"),
    "answer": (pa.string(), "the true answer"),
    "predicted": (pa.string(), "its answer: a choice or its most probable word; else its reply"),
    "right": (pa.bool_(), "whether the two are equal"),
    "choices": (pa.list_(pa.string()), "the admissible answers; empty for free text"),
    "probabilities": (pa.list_(pa.float32()), "of the admissible answers, summing to 1, or empty"),
    "margin": (pa.float32(), "largest minus second largest of the probabilities; or null"),
    "chance": (pa.float32(), "of a blind guess; null for free text"),
    "pruner": (pa.string(), "registry name, or none"),
    "parameters": (pa.string(), "the pruner with all its parameters"),
    "budget": (pa.float64(), "fraction of the visual tokens asked for; null for a rule"),
    "seed": (pa.int64(), "the pruner's seed; null if it has none"),
    "tokens_before": (pa.int32(), "visual tokens in the prompt, separators included"),
    "tokens": (pa.float32(), "those that entered a layer of the language model, mean over layers"),
    "budget_measured": (pa.float32(), "tokens / tokens_before"),
    "ipr_before": (pa.float32(), "IPR of the projected visual tokens, uncentred, mean over crops"),
    "ipr_after": (pa.float32(), "IPR of what was kept; null for pruners inside the model"),
    "kept": (pa.list_(pa.list_(pa.int32())), "indices kept, crop by crop; null as above"),
    "seconds": (pa.float64(), "time of choosing, for one image; null as above"),
    "model": (pa.string(), "name or path of the model"),
    "weights": (pa.string(), "first 16 digits of the SHA-256 of its weights"),
    "data": (pa.string(), "name of the data"),
    "dtype": (pa.string(), "of the model"),
    "attention": (pa.string(), "attention back-end of the language model"),
    "device": (pa.string(), "type of device"),
    "images_per_batch": (pa.int32(), "images whose questions were asked together"),
    "torch": (pa.string(), "version"),
    "transformers": (pa.string(), "version"),
    "lofi_core": (pa.string(), "version"),
}
"""What is in a record. All but ``seconds`` are the same in every repetition of a run."""

SCHEMA = pa.schema(
    [pa.field(name, kind, metadata={"doc": doc}) for name, (kind, doc) in _COLUMNS.items()],
    metadata={"lofi_core.evaluation.records": str(VERSION)},
)


def write_whole(path: Path, write: Callable[[Path], Any]) -> None:
    """Let ``write(part)`` make a file under another name, and put it at ``path`` in one step."""
    part = path.with_name(f".{path.name}.{uuid4().hex}")
    write(part)
    os.replace(part, path)


def claim_folder(folder: Path, plan: dict[str, Any]) -> None:
    """Write a new run's plan to ``run.json``, or make sure that the folder holds the same run.

    Raises
    ------
    LofiError
        If it holds another one; the message names what differs.
    """
    (folder / "parts").mkdir(parents=True, exist_ok=True)
    path = folder / "run.json"
    if not path.exists():
        write_whole(path, lambda part: part.write_text(json.dumps(plan, indent=1) + "\n"))
    found = json.loads(path.read_text())
    asked = json.loads(json.dumps(plan))
    if found != asked:
        names = sorted({*asked, *found})
        odd = {k: (asked.get(k), found.get(k)) for k in names if asked.get(k) != found.get(k)}
        raise LofiError(
            f"claim_folder: {folder} holds another run; asked for and found: {odd}; expected the "
            "same to resume: choose another folder"
        )


def fingerprint(model: Any) -> str:
    """First 16 hexadecimal digits of the SHA-256 of all weights, in the order of their names."""
    digest = hashlib.sha256()
    for name, weight in sorted(model.state_dict().items()):
        digest.update(name.encode())
        digest.update(weight.detach().cpu().contiguous().flatten().view(torch.uint8).numpy())
    return digest.hexdigest()[:16]


def write_records(path: Path, rows: Sequence[Mapping[str, Any]]) -> None:
    """Write records to a Parquet file that appears when it is complete."""
    table = pa.Table.from_pylist(list(rows), schema=SCHEMA)
    write_whole(path, lambda part: pq.write_table(table, part, compression="zstd"))


def merge_records(path: Path, parts: Sequence[Path]) -> None:
    """Write the records of all parts to one file, sorted by arm, image and question."""
    table = pa.concat_tables([_read(part) for part in parts])
    keys = [(name, "ascending") for name in ("arm", "image", "number")]
    table = table.sort_by(keys)
    write_whole(path, lambda part: pq.write_table(table, part, compression="zstd"))


def read_records(path: str | os.PathLike[str]) -> pd.DataFrame:
    """Read records, one row a question and arm.

    Parameters
    ----------
    path : path-like
        A file that `lofi_core.evaluation.run` wrote.

    Returns
    -------
    DataFrame
        With the columns of `SCHEMA`. ``compare`` takes its arms, ``records[records.arm == 3]``.

    Raises
    ------
    LofiError
        If there is no such file, if it is no Parquet file, or one of another schema.
    """
    return _read(Path(path)).to_pandas()


def _read(path: Path) -> pa.Table:
    try:
        table = pq.ParquetFile(path).read()
    except (OSError, pa.ArrowException) as error:
        raise LofiError(
            f"read_records: {path}: {error}; expected a Parquet file of records: if it was cut "
            "off, delete it and run again"
        ) from error
    found = (table.schema.metadata or {}).get(b"lofi_core.evaluation.records", b"none").decode()
    if found != str(VERSION) or not table.schema.equals(SCHEMA):
        raise LofiError(
            f"read_records: {path}: schema {found}, columns {table.schema.names}; expected schema "
            f"{VERSION}: repeat the run, or read it with the lofi_core that wrote it"
        )
    return table
