"""Records: one row per arm and question, in Parquet files of one schema.

A file is either there in full or not at all: it is written under another name and then renamed. Its
metadata hold the version of the schema, a file beside it its SHA-256; `read_records` raises an
error for any other schema, and for a file that has changed.
"""

import hashlib
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any
from uuid import uuid4

import torch

from lofi_core.errors import LofiError, extra
from lofi_core.evaluation.sites import IPRS

with extra("eval"):
    import pandas as pd
    import pyarrow as pa
    import pyarrow.parquet as pq

__all__ = [
    "SCHEMA",
    "VERSION",
    "fingerprint",
    "read_records",
    "read_table",
    "write_records",
    "write_whole",
]

VERSION = 2

_FIGURES = (*IPRS, "retained_energy", "subspace_distance")
_SITE = {"site": pa.string(), "tokens": pa.string()} | dict.fromkeys(_FIGURES, pa.float32())

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
    "hidden_distance": (pa.float32(), "of the last hidden state, cosine, to the unpruned model's"),
    "text_ipr_change": (pa.float32(), "relative, centred IPR of the question in the last layer"),
    "sites": (pa.list_(pa.struct(_SITE)), "figures of the image, on its first row; or null"),
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
    metadata={"lofi_core.records": str(VERSION)},
)


def write_whole(path: Path, write: Callable[[Path], Any]) -> None:
    """Let ``write(part)`` make a file under another name, and put it at ``path`` in one step."""
    part = path.with_name(f".{path.name}.{uuid4().hex}")
    write(part)
    os.replace(part, path)


def fingerprint(model: Any) -> str:
    """First 16 hexadecimal digits of the SHA-256 of all weights, in the order of their names."""
    digest = hashlib.sha256()
    for name, weight in sorted(model.state_dict().items()):
        digest.update(name.encode())
        digest.update(weight.detach().cpu().contiguous().flatten().view(torch.uint8).numpy())
    return digest.hexdigest()[:16]


def write_records(path: Path, table: pa.Table) -> None:
    """Write records, and their SHA-256 beside them in the format of ``sha256sum``."""
    write_whole(path, lambda part: pq.write_table(table, part, compression="zstd"))
    line = f"{_sha256(path.read_bytes())}  {path.name}\n"
    write_whole(_digest_of(path), lambda part: part.write_text(line))


def read_records(path: str | os.PathLike[str]) -> pd.DataFrame:
    """Read records as a data frame, see `read_table`. ``compare`` takes its arms."""
    return read_table(path).to_pandas()


def read_table(path: str | os.PathLike[str]) -> pa.Table:
    """Read records, one row per arm and question.

    Parameters
    ----------
    path : path-like
        A file that `lofi_core.evaluation.run.evaluate` wrote.

    Returns
    -------
    Table
        With the columns of `SCHEMA`.

    Raises
    ------
    LofiError
        If there is no such file, if it is not a Parquet file of this schema, or if it differs from
        the SHA-256 beside it.
    """
    path = Path(path)
    try:
        content = path.read_bytes()
        digest = _digest_of(path)
        if digest.exists() and digest.read_text().split()[:1] != [_sha256(content)]:
            raise LofiError(
                f"read_records: {path} differs from its SHA-256 in {digest.name}; expected the "
                "file that the run wrote: delete both and run the same command again"
            )
        table = pq.ParquetFile(pa.BufferReader(content)).read()
    except (OSError, pa.ArrowException) as error:
        raise LofiError(
            f"read_records: {path}: {error}; expected a Parquet file of records: if it was cut "
            "off, delete it and run again"
        ) from error
    found = (table.schema.metadata or {}).get(b"lofi_core.records", b"none").decode()
    if found != str(VERSION) or not table.schema.equals(SCHEMA):
        raise LofiError(
            f"read_records: {path}: schema {found}, columns {table.schema.names}; expected schema "
            f"{VERSION}: repeat the run, or read it with the lofi_core that wrote it"
        )
    return table


def _digest_of(path: Path) -> Path:
    return path.with_name(f"{path.name}.sha256")


def _sha256(content: bytes) -> str:
    return hashlib.sha256(content).hexdigest()
