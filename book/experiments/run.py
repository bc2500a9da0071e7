"""The book's run: `lofi_core.evaluation` asks both splits' questions under the plan's arms."""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pyarrow as pa
import torch
from transformers import AutoModelForImageTextToText, AutoProcessor

from book.experiments.plan import Planned
from lofi_core.evaluation.asking import rows_of
from lofi_core.evaluation.block import Block
from lofi_core.evaluation.records import SCHEMA
from lofi_core.evaluation.run import evaluate
from lofi_core.pruners import ClipText
from lofi_core.scene_vlm import PATH
from lofi_core.scenes.vqa import SceneVQA

__all__ = ["BLOCK", "Models", "block_records", "blocks", "of_split", "run"]

BLOCK = 20  # scenes whose questions are asked together


@dataclass(frozen=True, eq=False)
class Models:
    """A SceneVLM, its processor, and the CLIP that its vision tower comes from."""

    model: Any
    processor: Any
    clip: ClipText

    @classmethod
    def load(cls, folder: Path = PATH) -> "Models":
        """Load everything in float32, on the CPU; by default the shipped model."""
        model = AutoModelForImageTextToText.from_pretrained(folder).eval()
        processor = AutoProcessor.from_pretrained(folder)
        return cls(model, processor, ClipText.load(folder / "clip"))


def run(
    folder: Path, arms: Sequence[Planned], scenes: Mapping[str, int], model: Path = PATH
) -> bool:
    """Do this process's share of what is not done, split by split; return whether all is done.

    Parameters
    ----------
    folder : Path
        Of the run; each split has a folder in it, refused if it holds another run.
    arms : sequence of Planned
        What to run.
    scenes : mapping
        How many of each split, which are run in this order.
    model : Path
        A SceneVLM's folder; by default the shipped one.
    """
    torch.set_num_threads(1)  # many small products: one process per core does more
    models = Models.load(model)
    done = [
        evaluate(
            models.model,
            models.processor,
            SceneVQA(split),
            [planned.arm for planned in of_split(arms, split)],
            folder / split,
            data=f"SceneVQA({split!r}, seed=0)",
            n=n,
            images_per_batch=BLOCK,
            clip=models.clip,
        )
        for split, n in scenes.items()
    ]
    return None not in done


def blocks(n: int) -> int:
    """Return how many blocks n scenes make."""
    return -(-n // BLOCK)


def of_split(arms: Sequence[Planned], split: str) -> list[Planned]:
    """Arms of a split, its unpruned model first."""
    return [planned for planned in arms if planned.split == split]


def block_records(
    models: Models, arms: Mapping[int, Planned], b: int, n: int
) -> Iterator[tuple[int, pa.Table]]:
    """Ask about the scenes of block ``b`` of the first ``n`` of a split; yield arm after arm.

    Parameters
    ----------
    models : Models
    arms : mapping
        By number, all of one split.
    b, n : int
    """
    start, data = b * BLOCK, SceneVQA(next(iter(arms.values())).split)
    scenes = [data[i] for i in range(start, min(start + BLOCK, n))]
    every = [planned.arm for planned in arms.values()]
    block = Block(models.model, models.processor, scenes, every, models.clip, start)
    for number, planned in arms.items():
        rows = rows_of(block, number, planned.arm)
        yield number, pa.Table.from_pylist(rows, schema=SCHEMA)
