"""Evaluate a model under many arms and keep every single answer: resumable, sharded, checked.

The command line is ``python -m lofi_core.evaluation``.
"""

from collections.abc import Iterator, Sequence
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

import torch
import transformers

from lofi_core.errors import LofiError, extra
from lofi_core.evaluation.arms import AS_IS, Arm, as_arm
from lofi_core.evaluation.asking import rows_of
from lofi_core.evaluation.block import Block
from lofi_core.evaluation.parts import Run
from lofi_core.evaluation.questions import Scene
from lofi_core.evaluation.records import SCHEMA, VERSION, fingerprint, write_records
from lofi_core.pruners import ClipText, Pruner

with extra("eval"):
    import pyarrow as pa
    import pyarrow.parquet as pq

__all__ = ["evaluate", "model_facts"]


def evaluate(
    model: Any,
    processor: Any,
    scenes: Sequence[Scene],
    pruners: Sequence[Pruner | Arm],
    folder: Path,
    data: str,
    n: int | None = None,
    images_per_batch: int = 8,
    clip: ClipText | None = None,
) -> Path | None:
    """Ask every question of the first ``n`` scenes, unpruned and under every arm.

    Environment variables ``RANK`` and ``WORLD_SIZE``, as ``accelerate launch`` sets them, say which
    part of the blocks is this process's.

    Parameters
    ----------
    model, processor
        As `lofi_core.evaluation.asking.ask` takes them.
    scenes : sequence of Scene
        ``SceneVQA``, or anything with the same fields. Only the block at hand is loaded.
    pruners : sequence of Pruner or Arm
        The arms after the unpruned one, which is number 0, or from it on. A folder that already
        holds other arms of the same run keeps them, and these are added.
    folder : Path
        Where the run lives. Several processes, on several machines, need to see the same.
    data : str
        Name of the data, for the records.
    n : int, optional
        How many scenes; by default all.
    images_per_batch : int
        Size of a block; all questions of its images are asked in one batch.
    clip : ClipText, optional
        For pruners that compare patches with the question.

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
            f"evaluate: n={n} of {len(scenes)} scenes, {images_per_batch} per batch; expected at "
            "least one of each, and no more scenes than there are"
        )
    given = [as_arm(pruner) for pruner in pruners]
    first = [] if given and given[0].unpruned else [Arm()]
    every = {repr(arm): arm for arm in (*first, *given)}
    facts = model_facts(model) | {"data": data, "images_per_batch": images_per_batch}
    plan = {"schema": VERSION, "scenes": n, "run": facts}
    run = Run(folder, plan | ({"clip": fingerprint(clip.model)} if clip else {}), [*every])

    def ask(b: int, keys: Sequence[str]) -> Iterator[tuple[str, dict[str, pa.Table]]]:
        start = b * images_per_batch
        some = [scenes[i] for i in range(start, min(start + images_per_batch, n))]
        block = Block(model, processor, some, [every[key] for key in keys], clip, start)
        for key in keys:
            fixed = facts | _arm_facts(every[key])
            rows = [row | fixed for row in rows_of(block, run.numbers[key], every[key])]
            yield key, {"records": pa.Table.from_pylist(rows, schema=SCHEMA)}

    if not run.fill(-(-n // images_per_batch), ask):
        return None
    result = folder / "records.parquet"
    table = run.read("records")
    if not result.exists() or pq.read_metadata(result).num_rows != len(table):
        order = [(name, "ascending") for name in ("arm", "image", "number")]
        write_records(result, table.sort_by(order).replace_schema_metadata(SCHEMA.metadata))
    return result


def model_facts(model: Any) -> dict[str, Any]:
    """Columns of a record that say which model answered, and with what."""
    try:
        release = version("lofi-core")
    except PackageNotFoundError:  # run from a checkout
        release = "unknown"
    return {
        "model": model.config.name_or_path,
        "weights": fingerprint(model),
        "dtype": str(model.dtype).removeprefix("torch."),
        "attention": model.config.get_text_config()._attn_implementation,
        "device": model.device.type,
        "torch": torch.__version__,
        "transformers": transformers.__version__,
        "lofi_core": release,
    }


def _arm_facts(arm: Arm) -> dict[str, Any]:
    """Columns that are the same in all of an arm's records."""
    if arm.unpruned:
        return {"pruner": "none", "parameters": "", "budget": 1.0, "seed": None}
    pruner = arm.pruner
    budget = pruner.keep if isinstance(pruner.keep, int | float) else None
    parameters = repr(pruner) if arm.condition == AS_IS else repr(arm)
    seed = getattr(pruner, "seed", None)
    return {"pruner": pruner.name, "parameters": parameters, "budget": budget, "seed": seed}
