"""The book's run: blocks of scenes under the arms of the plan, with what is measured inside.

`lofi_core.evaluation.parts` keeps the parts and lets a killed run go on; here is what a part of the
book's tables holds: answers, what was kept, and figures of the representations.
"""

import json
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import groupby
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pyarrow as pa
import torch
from torch import Tensor
from transformers import AutoModelForImageTextToText, AutoProcessor

from book.experiments.measure import site_rows
from book.experiments.plan import SITE_SCENES, VISUAL, Planned
from lofi_core.evaluation.arms import Arm
from lofi_core.evaluation.block import Block, Reply
from lofi_core.evaluation.parts import Run
from lofi_core.evaluation.records import fingerprint
from lofi_core.evaluation.replies import judge
from lofi_core.evaluation.run import model_facts
from lofi_core.pruners import ClipText
from lofi_core.scene_vlm import PATH
from lofi_core.scenes.vqa import SceneVQA

__all__ = [
    "BLOCK",
    "NOT_ADMISSIBLE",
    "VERSION",
    "Models",
    "block_tables",
    "blocks",
    "of_split",
    "opened",
    "run",
]

VERSION = 1
BLOCK = 20  # scenes whose questions are asked together
NOT_ADMISSIBLE = 255  # code of an answer that is none of a question's choices

_ANSWERS = pa.schema(
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
_IMAGES = pa.schema(
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
_SITES = pa.schema(
    {"arm": pa.int16(), "image": pa.int16(), "site": pa.string(), "tokens": pa.string()}
    | dict.fromkeys(FIGURES, pa.float32())
)
SCHEMAS = {"answers": _ANSWERS, "images": _IMAGES, "sites": _SITES}


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
    folder: Path,
    arms: Sequence[Planned],
    scenes: Mapping[str, int],
    model: Path = PATH,
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
    torch.set_num_threads(1)  # many small products: one process a core does more
    models = Models.load(model)
    done = True
    for split, n in scenes.items():
        parts = opened(folder, arms, split, models)
        keys = {repr(arm): arm for arm in of_split(arms, split)}

        def ask(
            b: int,
            wanted: Sequence[str],
            n: int = n,
            parts: Run = parts,
            keys: dict[str, Planned] = keys,
        ) -> Iterator[tuple[str, dict[str, pa.Table]]]:
            chosen = {parts.numbers[key]: keys[key] for key in wanted}
            names = {parts.numbers[key]: key for key in wanted}
            for number, tables in block_tables(models, chosen, b, n):
                yield names[number], tables

        done &= parts.fill(blocks(n), ask)
    return done


def opened(folder: Path, arms: Sequence[Planned], split: str, models: Models | None = None) -> Run:
    """Open the folder of a split's parts; without models, to read what is there."""
    path = folder / split
    if models is None:
        facts = json.loads((path / "run.json").read_text())["facts"]
    else:
        facts = model_facts(models.model) | {
            "schema": VERSION,
            "clip_weights": fingerprint(models.clip.model),
            "block": BLOCK,
            "site_scenes": SITE_SCENES,
        }
    return Run(path, facts, [repr(arm) for arm in of_split(arms, split)], tuple(SCHEMAS))


def blocks(n: int) -> int:
    """Return how many blocks n scenes make."""
    return -(-n // BLOCK)


def of_split(arms: Sequence[Planned], split: str) -> list[Planned]:
    """Arms of a split, its unpruned model first."""
    return [arm for arm in arms if arm.split == split]


def block_tables(
    models: Models, arms: Mapping[int, Planned], b: int, n: int
) -> Iterator[tuple[int, dict[str, pa.Table]]]:
    """Ask about the scenes of block ``b`` of the first ``n`` of a split, arm by arm.

    Parameters
    ----------
    models : Models
    arms : mapping
        By number, all of one split.
    b, n : int

    Yields
    ------
    int, dict of str to Table
        The arm's number, and its "answers", "images" and "sites", with the schemas above.
    """
    start = b * BLOCK
    data = SceneVQA(next(iter(arms.values())).split, 0)
    scenes = [data[i] for i in range(start, min(start + BLOCK, n))]
    needs = {name for arm in arms.values() for name in arm.pruner.needs} | {"encoded"}
    block = Block(models.model, models.processor, scenes, sorted(needs), models.clip)
    measured = max(0, min(SITE_SCENES - start, len(scenes)))
    before = None
    if measured and any(arm.measured for arm in arms.values()):
        before, _, _ = site_rows(block, block.ask(Arm(), hidden=True), None, measured)
    for number, arm in arms.items():
        reply = block.ask(arm, hidden=arm.measured)
        extra: dict[str, Tensor] = {}
        sites: list[dict[str, Any]] = []
        if arm.measured and measured:
            _, sites, extra = site_rows(block, reply, before, measured)
        images = list(_images(block, reply, arm))
        answers = _answers(block, reply, extra).assign(arm=number)
        answers["image"] += start
        for row in (*images, *sites):
            row |= {"image": row["image"] + start, "arm": number}
        yield (
            number,
            {
                "answers": pa.Table.from_pandas(answers, SCHEMAS["answers"], preserve_index=False),
                "images": pa.Table.from_pylist(images, SCHEMAS["images"]),
                "sites": pa.Table.from_pylist(sites, SCHEMAS["sites"]),
            },
        )


def _answers(block: Block, reply: Reply, extra: dict[str, Tensor]) -> pd.DataFrame:
    codes, probabilities = [], []
    tokenizer = block.processor.tokenizer
    for (_, _, q), ids, logits in zip(block.asked, block.first, reply.logits, strict=True):
        found = judge(tokenizer, q, ids, logits, "")
        known = found["predicted"] in q.choices
        codes.append(q.choices.index(found["predicted"]) if known else NOT_ADMISSIBLE)
        probabilities.append(np.float32(found["probabilities"]))
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


def _images(block: Block, reply: Reply, arm: Planned) -> Iterable[dict[str, Any]]:
    """One row an image; one a question where the choice depends on it."""
    if arm.how == "question":
        for b, report in reply.reports:
            number = block.rows[:b].count(block.rows[b])
            yield {"image": block.rows[b], "number": number, **_kept(report.kept, reply.tokens[b])}
    elif reply.packed is not None:
        for _, report in reply.reports:
            kept = _kept(report.kept, float(report.tokens_after))
            yield {"image": report.row, "number": -1, **kept}
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
