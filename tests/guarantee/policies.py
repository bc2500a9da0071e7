"""Policies made by hand for the shipped model, and what one pass alone answers."""

from typing import Any

import torch

from lofi_core import prune_inputs
from lofi_core.guarantee import Policy
from lofi_core.guarantee import provenance as sources
from lofi_core.guarantee.confidence import reply
from lofi_core.guarantee.policy import describe_pruner
from lofi_core.pruners import DeflatedLoFi, Pruner

PRUNERS: list[Pruner] = [DeflatedLoFi(keep=0.11), DeflatedLoFi(keep=0.33)]


def policy_for(
    model: Any, processor: Any, pruners: list[Pruner], threshold: float, **changes: Any
) -> Policy:
    facts = sources.of_model(model) | {"processor": sources.of_processor(processor)}
    numbers = {"coverage": 1.0, "cost": 1.0, "risk": 0.0, "risk_upper": 0.1}
    fields = {
        **{"confidence": "margin", "answers": "closed", "longest": 1, "alpha": 0.1, "delta": 0.05},
        **{"loss": "changed", "bound": "betting", "images": 100, "questions": 700, **numbers},
    }
    described = tuple(describe_pruner(pruner) for pruner in pruners)
    return Policy(described, threshold, **fields | {"provenance": facts} | changes)


def said(vlm: tuple[Any, Any], inputs: Any, choices: Any, pruner: Pruner | None) -> Any:
    """What the model answers in one pass over the whole batch."""
    with torch.inference_mode():
        if pruner is not None:
            inputs = prune_inputs(vlm[0], inputs, pruner)
        return reply(vlm[0], vlm[1].tokenizer, inputs, choices, 1)
