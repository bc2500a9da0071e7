"""The run: block by block, killed and resumed at will, shared among processes, written in the end.

Each block of scenes leaves three Parquet files in the run's folder, the answers last: a block whose
answers are there is done. What a block holds depends on the plan alone, so any number of processes,
each taking every W-th block, ends in the same tables.
"""

import time
from collections.abc import Iterable, Mapping, Sequence
from functools import partial
from itertools import groupby
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq
import torch
import transformers
from torch import Tensor
from tqdm import tqdm

from book.experiments.asking import Block, Models, Reply
from book.experiments.measure import site_rows
from book.experiments.plan import SITE_SCENES, VISUAL, Arm
from lofi_core.evaluation.records import claim_folder, fingerprint, write_whole
from lofi_core.scene_vlm import PATH
from lofi_core.scenes.vqa import SceneVQA

__all__ = [
    "BLOCK",
    "NOT_ADMISSIBLE",
    "VERSION",
    "block_tables",
    "blocks",
    "missing_parts",
    "of_split",
    "read_parts",
    "run",
]

VERSION = 1
BLOCK = 20  # scenes whose questions are asked together
NOT_ADMISSIBLE = 255  # code of an answer that is none of a question's choices

ANSWERS = pa.schema(
    {
        "image": pa.int16(),
        "number": pa.int8(),
        "arm": pa.int16(),
        "predicted": pa.uint8(),
        "probabilities": pa.list_(pa.float32()),
        "hidden_distance": pa.float32(),
        "text_ipr_change": pa.float32(),
    }
)
IMAGES = pa.schema(
    {
        "arm": pa.int16(),
        "image": pa.int16(),
        "number": pa.int8(),
        "tokens": pa.float32(),
        "kept": pa.binary(),
    }
)
FIGURES = (
    *("ipr", "ipr_centered", "amplitude_ipr", "amplitude_ipr_centered"),
    *("retained_energy", "subspace_distance"),
)
SITES = pa.schema(
    {"arm": pa.int16(), "image": pa.int16(), "site": pa.string(), "tokens": pa.string()}
    | dict.fromkeys(FIGURES, pa.float32())
)


def run(
    folder: Path,
    arms: Sequence[Arm],
    scenes: Mapping[str, int],
    place: tuple[int, int],
    model: Path = PATH,
) -> None:
    """Do this process's share of the blocks that are not done, split by split.

    Parameters
    ----------
    folder : Path
        Of the run; each split has a folder in it, refused if it holds another run.
    arms : sequence of Arm
        What to run. An arm's number is its place among those of its split.
    scenes : mapping
        How many of each split, which are run in this order.
    place : tuple of int
        Rank of this process, and number of processes.
    model : Path
        A SceneVLM's folder; by default the shipped one.
    """
    torch.set_num_threads(1)  # many small products: one process a core does more
    models = Models.load(model, variants=any(arm.how == "model" for arm in arms))
    rank, world = place
    for split, n in scenes.items():
        mine = of_split(arms, split)
        claim_folder(folder / split, _plan(models, mine))
        share = range(rank, blocks(n), world)
        todo = [b for b in share if not _part(folder / split, "answers", b).exists()]
        done = len(share) - len(todo)
        shown = tqdm(todo, f"blocks, {split}", len(share), initial=done) if rank == 0 else todo
        for b in shown:
            start = time.perf_counter()
            tables = block_tables(models, mine, b, n)
            seconds = {"seconds": f"{time.perf_counter() - start:.1f}"}
            for name in ("sites", "images", "answers"):
                table = tables[name].replace_schema_metadata(seconds)
                write = partial(pq.write_table, table, compression="zstd")
                write_whole(_part(folder / split, name, b), write)


def blocks(n: int) -> int:
    """Return how many blocks n scenes make."""
    return -(-n // BLOCK)


def of_split(arms: Sequence[Arm], split: str) -> dict[int, Arm]:
    """Number the arms of a split from 0, where its unpruned model stands."""
    return dict(enumerate(arm for arm in arms if arm.split == split))


def _plan(models: Models, arms: Mapping[int, Arm]) -> dict[str, Any]:
    """Everything that a block depends on; how many there are may change."""
    return {
        "schema": VERSION,
        "weights": fingerprint(models.model),
        "clip_weights": fingerprint(models.clip),
        "block": BLOCK,
        "site_scenes": SITE_SCENES,
        "attention": models.model.config.get_text_config()._attn_implementation,
        "device": models.model.device.type,
        "torch": torch.__version__,
        "transformers": transformers.__version__,
        "arms": [repr(arm) for arm in arms.values()],
    }


def _part(folder: Path, name: str, b: int) -> Path:
    return folder / "parts" / f"{name}-{b:04}.parquet"


def read_parts(folder: Path, name: str) -> tuple[pa.Table, float]:
    """Read what all blocks of a split left in one table's parts, and how many seconds they took."""
    tables = [pq.read_table(path) for path in sorted((folder / "parts").glob(f"{name}-*.parquet"))]
    seconds = sum(float(table.schema.metadata[b"seconds"]) for table in tables)
    return pa.concat_tables([table.replace_schema_metadata(None) for table in tables]), seconds


def missing_parts(folder: Path, scenes: Mapping[str, int]) -> int:
    """Count the blocks that are not done."""
    parts = [_part(folder / s, "answers", b) for s, n in scenes.items() for b in range(blocks(n))]
    return sum(not part.exists() for part in parts)


def block_tables(models: Models, arms: Mapping[int, Arm], b: int, n: int) -> dict[str, pa.Table]:
    """Ask about the scenes of block ``b`` of the first ``n`` of a split.

    Parameters
    ----------
    models : Models
    arms : mapping
        By number; the unpruned model first.
    b, n : int

    Returns
    -------
    dict of str to Table
        "answers", "images" and "sites", with the schemas above.
    """
    start = b * BLOCK
    data = SceneVQA(arms[0].split, 0)
    scenes = [data[i] for i in range(start, min(start + BLOCK, n))]
    needs = {name for arm in arms.values() for name in arm.pruner.needs}
    block = Block(models, scenes, sorted(needs - {"project"} | {"encoded"}))
    answers, images, sites = [], list[dict[str, Any]](), list[dict[str, Any]]()
    measured = max(0, min(SITE_SCENES - start, len(scenes)))
    before = None
    for number, arm in arms.items():
        reply = block.ask(arm)
        extra: dict[str, Tensor] = {}
        if arm.measured and measured:
            before, rows, extra = site_rows(block, reply, before, measured)
            sites += [{"arm": number, **row} for row in rows]
        answers.append(_answers(block, reply, extra).assign(arm=number))
        images += [{"arm": number, **row} for row in _images(block, reply, arm)]
    table = pd.concat(answers)
    table["image"] += start
    for row in (*images, *sites):
        row["image"] += start
    return {
        "answers": pa.Table.from_pandas(table, ANSWERS, preserve_index=False),
        "images": pa.Table.from_pylist(images, IMAGES),
        "sites": pa.Table.from_pylist(sites, SITES),
    }


def _answers(block: Block, reply: Reply, extra: dict[str, Tensor]) -> pd.DataFrame:
    predicted = reply.logits.argmax(-1).tolist()
    codes, probabilities = [], []
    for word, ids, logits in zip(predicted, block.first, reply.logits, strict=True):
        codes.append(ids.index(word) if word in ids else NOT_ADMISSIBLE)
        probabilities.append(logits[ids].double().softmax(-1).float().numpy())
    numbers = [n for scene in block.scenes for n in range(len(scene.questions))]
    return pd.DataFrame(
        {
            "image": block.rows,
            "number": numbers,
            "predicted": codes,
            "probabilities": probabilities,
            "hidden_distance": extra.get("hidden_distance", torch.full((len(codes),), torch.nan)),
            "text_ipr_change": extra.get("text_ipr_change", torch.full((len(codes),), torch.nan)),
        }
    )


def _images(block: Block, reply: Reply, arm: Arm) -> Iterable[dict[str, Any]]:
    """One row an image; one a question where the choice depends on it."""
    if arm.how == "conditioned":
        for b, report in enumerate(reply.reports):
            number = block.rows[:b].count(block.rows[b])
            yield {"image": block.rows[b], "number": number, **_kept(report.kept, reply.tokens[b])}
    elif arm.how == "packed":
        for i, report in enumerate(reply.reports):
            yield {"image": i, "number": -1, **_kept(report.kept, float(report.tokens_after))}
    else:
        pairs = zip(block.rows, reply.tokens, strict=True)
        for i, group in groupby(pairs, key=lambda pair: pair[0]):
            counts = [tokens for _, tokens in group]
            yield {"image": i, "number": -1, "tokens": sum(counts) / len(counts), "kept": None}


def _kept(kept: Tensor, tokens: float) -> dict[str, Any]:
    """Tokens, and which were kept, a bit each, the first one highest in the first byte."""
    mask = np.zeros(VISUAL, bool)
    mask[kept.numpy()] = True
    return {"tokens": tokens, "kept": np.packbits(mask).tobytes()}
