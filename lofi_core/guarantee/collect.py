"""Ask a model what a calibration needs, with the code that will serve its answers.

A promise holds for answers and confidences that come about live as they did here, so both are the
work of `lofi_core.guarantee.confidence.reply`.
"""

import hashlib
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch

from lofi_core.errors import LofiError, extra
from lofi_core.evaluation.replies import normalise
from lofi_core.guarantee import provenance
from lofi_core.guarantee.confidence import reply
from lofi_core.guarantee.evidence import Confidence
from lofi_core.guarantee.rows import pre_pass, visual_tokens
from lofi_core.guarantee.serving import ALL
from lofi_core.pruners import InsidePruner, Pruner
from lofi_core.vlm.encoding import encode_inputs
from lofi_core.vlm.prompts import chat_inputs, share

with extra("eval"):
    import pandas as pd

__all__ = ["collect"]

IMAGES = 8  # per batch


def collect(
    model: Any,
    processor: Any,
    scenes: Sequence[Any],
    pruners: Sequence[Pruner],
    confidence: Confidence = "margin",
    longest: int = 16,
) -> pd.DataFrame:
    """Ask every question of every scene, unpruned and under each pruner.

    Parameters
    ----------
    model, processor
        A vision-language model with a chat template.
    scenes : sequence of Scene
        Images with questions, all with ``choices`` or all without.
    pruners : sequence of Pruner
        Which act before the language model.
    confidence : {"margin", "ipr", "leverage"}
        What to measure besides the margin.
    longest : int
        Tokens of free text.

    Returns
    -------
    DataFrame
        One row per arm and question, named as in `lofi_core.evaluation.records.SCHEMA`; also
        ``cut_off`` and, if asked for, the pre-pass confidence in a column of its name.

    Raises
    ------
    LofiError
        If there is no question, if some have choices and others do not, or if a pruner acts inside
        the language model.
    """
    if inside := [repr(pruner) for pruner in pruners if isinstance(pruner, InsidePruner)]:
        raise LofiError(
            f"calibrate: {inside} act inside the language model, where a pass cannot start from "
            "encoded images; expected pruners that act before it"
        )
    kinds = {bool(q.choices) for scene in scenes for q in scene.questions}
    if len(kinds) != 1:
        raise LofiError(
            f"calibrate: {len(scenes)} scenes whose questions "
            f"{'have choices or not' if kinds else 'are missing'}; expected at least one question, "
            "and one kind: calibrate each kind by itself"
        )
    ids = hashlib.sha256(" ".join(str(scene.id) for scene in scenes).encode()).hexdigest()
    run = {
        **provenance.of_model(model),
        **provenance.versions(),
        "model": _name(model),
        "data": f"{len(scenes)} images, SHA-256 of their ids {ids[:16]}",
    }
    del run["family"]  # in records, a family is one of questions
    arms = [ALL, *dict.fromkeys(pruners)]
    rows: list[dict[str, Any]] = []
    for start in range(0, len(scenes), IMAGES):
        block = [scenes[i] for i in range(start, min(start + IMAGES, len(scenes)))]
        for row in _ask(model, processor, block, arms, confidence, longest):
            rows.append(row | run | {"image": row["image"] + start})
    return pd.DataFrame(rows)


@torch.inference_mode()
def _ask(
    model: Any,
    processor: Any,
    scenes: Sequence[Any],
    arms: Sequence[Pruner],
    confidence: Confidence,
    longest: int,
) -> list[dict[str, Any]]:
    """Ask about a few images in one batch per arm."""
    asked = [(i, n, q) for i, scene in enumerate(scenes) for n, q in enumerate(scene.questions)]
    alone = chat_inputs(processor, [(scene.image, scene.questions[0].text) for scene in scenes])
    inputs = chat_inputs(processor, [(scenes[i].image, q.text) for i, _, q in asked])
    needs = sorted({name for pruner in arms for name in pruner.needs})
    encoded = encode_inputs(model, alone.to(model.device, model.dtype), needs)
    encoded = share(encoded, inputs.to(model.device, model.dtype), [i for i, _, _ in asked])
    choices = [q.choices for _, _, q in asked] if asked[0][2].choices else None
    full = visual_tokens(encoded, encoded.inputs)
    rows = []
    for arm, pruner in enumerate(arms):
        pruned = encoded.prune(pruner)
        found = reply(model, processor.tokenizer, pruned, choices, longest)
        tokens = visual_tokens(encoded, pruned)
        signal: list[dict[str, float]] = [{}] * len(asked)
        if confidence != "margin":
            signal = [{confidence: value} for value in pre_pass(encoded, pruned, confidence)]
        for b, (i, n, q) in enumerate(asked):
            said = found[b].text if choices else normalise(found[b].text)
            accepted = {q.answer} if choices else {normalise(q.answer), *_accepted(q)}
            rows.append(
                {
                    "arm": arm,
                    "image": i,
                    "number": n,
                    "scene": scenes[i].id,
                    "family": q.family,
                    "question": q.text,
                    "answer": q.answer,
                    "predicted": said,
                    "right": said in accepted,
                    "choices": list(q.choices),
                    "margin": found[b].margin,
                    "cut_off": found[b].cut_off,
                    "pruner": pruner.name if arm else "none",
                    "parameters": repr(pruner) if arm else "",
                    "budget": pruner.keep if arm else None,
                    "tokens_before": full[b],
                    "tokens": tokens[b],
                    "budget_measured": tokens[b] / full[b],
                    **signal[b],
                }
            )
    return rows


def _name(model: Any) -> str:
    """Return the model's name; of a folder its own name only, not where somebody keeps it."""
    name = str(model.config.name_or_path)
    return Path(name).name if Path(name).is_dir() else name


def _accepted(q: Any) -> tuple[str, ...]:
    found: tuple[str, ...] = getattr(q, "accepted", ())
    return found
