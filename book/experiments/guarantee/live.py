"""Serve fresh images under a policy, and compare with all tokens: what the promise is about."""

from typing import Any

import numpy as np
import pandas as pd
import torch

from lofi_core import scene_vlm
from lofi_core.guarantee import Served, calibrate
from lofi_core.guarantee.confidence import reply
from lofi_core.scenes.vqa import SceneVQA
from lofi_core.vlm.prompts import chat_inputs

__all__ = ["served"]

SPLIT = "validation"  # none of its images is in the calibration
BATCH = 8  # images


def served(
    table: pd.DataFrame, method: str, budget: float, images: int = 96, alpha: float = 0.01
) -> dict[str, Any]:
    """Calibrate on all committed answers, and serve images that were not among them.

    Returns
    -------
    dict
        The policy's own figures; coverage, cost, tokens, passes and seconds as served; and the mean
        per image of the answers that differ from those with all tokens.
    """
    model, processor = scene_vlm.load()
    policy = calibrate(table, [method], [budget], alpha, model=model, processor=processor)
    report, losses, data = Served(), [], SceneVQA(SPLIT, 0)
    for start in range(0, images, BATCH):
        scenes = [data[i] for i in range(start, start + BATCH)]
        asked = [(scene, q) for scene in scenes for q in scene.questions]
        inputs = chat_inputs(processor, [(scene.image, q.text) for scene, q in asked])
        choices = [q.choices for _, q in asked]
        given = policy.generate(model, processor, inputs, choices=choices, report=report)
        with torch.inference_mode():
            full = reply(model, processor.tokenizer, inputs, choices, 1)
        differ = [a.text != b.text for a, b in zip(given, full, strict=True)]
        losses += np.reshape(differ, (len(scenes), -1)).mean(1).tolist()
    names = ("images", "threshold", "coverage", "cost", "risk", "risk_upper", "alpha", "delta")
    return {
        "policy": {name: getattr(policy, name) for name in names},
        "split": SPLIT,
        "images": images,
        "answers": report.rows,
        "coverage": report.coverage,
        "cost": report.cost,
        "time": report.time,
        "tokens": report.tokens,
        "tokens_before": report.tokens_before,
        "passes": report.passes,
        "seconds": report.seconds,
        "threads": torch.get_num_threads(),
        "loss": float(np.mean(losses)),
    }
