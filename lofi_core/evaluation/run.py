"""Evaluate a model under many pruners and keep every single answer.

The data come in blocks of a few images. When all arms have answered a block, its records appear as
one file, ``parts/00007.parquet``; a run that was killed goes on with the blocks that are missing.
Process r of W takes the blocks r, r + W, ...; what is in a block does not depend on W, and whoever
finds all blocks there puts them together, so the processes share nothing but a folder. The command
line is ``python -m lofi_core.evaluation``.
"""

import os
from collections.abc import Sequence
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

import torch
import transformers
from tqdm import tqdm

from lofi_core.errors import LofiError
from lofi_core.evaluation.asking import UNPRUNED, ask_arms
from lofi_core.evaluation.records import (
    VERSION,
    claim_folder,
    fingerprint,
    merge_records,
    write_records,
)
from lofi_core.pruners import Pruner
from lofi_core.scenes.vqa import Scene

__all__ = ["evaluate", "rank_and_world"]


def evaluate(
    model: Any,
    processor: Any,
    scenes: Sequence[Scene],
    pruners: Sequence[Pruner],
    folder: Path,
    data: str,
    n: int | None = None,
    images_per_batch: int = 8,
) -> Path | None:
    """Ask every question of the first ``n`` scenes, unpruned and under every pruner.

    Environment variables ``RANK`` and ``WORLD_SIZE``, as ``accelerate launch`` sets them, say which
    part of the blocks is this process's.

    Parameters
    ----------
    model, processor
        As `lofi_core.evaluation.answers.ask` takes them.
    scenes : sequence of Scene
        ``SceneVQA``, or anything with the same fields. Only the block at hand is loaded.
    pruners : sequence of Pruner
        The arms after the unpruned one, which is always number 0.
    folder : Path
        Where the run lives. Several processes, on several machines, need to see the same.
    data : str
        Name of the data, for the records.
    n : int, optional
        How many scenes; by default all.
    images_per_batch : int
        Size of a block; all questions of its images are asked in one batch.

    Returns
    -------
    Path or None
        ``folder / "records.parquet"``, sorted by arm, image and question; None if other processes
        have blocks left to do.

    Raises
    ------
    LofiError
        If the folder holds another run, a part of it cannot be read, ``RANK`` and ``WORLD_SIZE`` do
        not fit, or as `lofi_core.evaluation.asking.ask_arms`.
    """
    n = len(scenes) if n is None else n
    if not 1 <= n <= len(scenes) or images_per_batch < 1:
        raise LofiError(
            f"evaluate: n={n} of {len(scenes)} scenes, {images_per_batch} a batch; expected at "
            "least one of each, and no more scenes than there are"
        )
    plan = _plan(model, data, n, images_per_batch, pruners)
    claim_folder(folder, plan)
    every = [UNPRUNED, *pruners]
    facts = [_facts(plan["run"], arm) for arm in every]
    facts[0] |= {"pruner": "none", "parameters": "", "seed": None}
    parts = [folder / "parts" / f"{b:05}.parquet" for b in range(-(-n // images_per_batch))]
    rank, world = rank_and_world()
    mine = range(rank, len(parts), world)
    todo = [b for b in mine if not parts[b].exists()]
    # One bar for all processes. An argument disable=... would overrule TQDM_DISABLE.
    bar = todo if rank else tqdm(todo, "blocks", len(mine), initial=len(mine) - len(todo))
    for b in bar:
        start = b * images_per_batch
        block = [scenes[i] for i in range(start, min(start + images_per_batch, n))]
        rows = ask_arms(model, processor, block, every)
        for row in rows:
            row |= facts[row["arm"]]
            row["image"] += start
        write_records(parts[b], rows)
    result = folder / "records.parquet"
    if not result.exists():
        if not all(part.exists() for part in parts):
            return None
        merge_records(result, parts)
    return result


def _plan(model: Any, data: str, n: int, size: int, pruners: Sequence[Pruner]) -> dict[str, Any]:
    """Everything that the records depend on."""
    try:
        own = version("lofi-core")
    except PackageNotFoundError:  # run from a checkout
        own = "unknown"
    return {
        "schema": VERSION,
        "scenes": n,
        "pruners": [repr(pruner) for pruner in pruners],
        "run": {
            "model": model.config.name_or_path,
            "weights": fingerprint(model),
            "data": data,
            "dtype": str(model.dtype).removeprefix("torch."),
            "attention": model.config.get_text_config()._attn_implementation,
            "device": model.device.type,
            "images_per_batch": size,
            "torch": torch.__version__,
            "transformers": transformers.__version__,
            "lofi_core": own,
        },
    }


def _facts(run: dict[str, Any], pruner: Pruner) -> dict[str, Any]:
    """Return the columns that are the same in all of an arm's records."""
    budget = pruner.keep if isinstance(pruner.keep, int | float) else None
    own = {"pruner": pruner.name, "parameters": repr(pruner), "budget": budget}
    return run | own | {"seed": getattr(pruner, "seed", None)}


def rank_and_world() -> tuple[int, int]:
    """Rank of this process and number of processes, from the environment.

    Raises
    ------
    LofiError
        If ``RANK`` and ``WORLD_SIZE`` do not fit.
    """
    rank, world = os.environ.get("RANK", "0"), os.environ.get("WORLD_SIZE", "1")
    if not (rank.isdecimal() and world.isdecimal() and int(rank) < int(world)):
        raise LofiError(
            f"evaluate: RANK={rank}, WORLD_SIZE={world} in the environment; expected 0 <= RANK < "
            "WORLD_SIZE, as accelerate launch sets them: unset both for one process"
        )
    return int(rank), int(world)
