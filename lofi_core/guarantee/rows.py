"""Some rows of an encoded batch, without running the encoder again; and what they hold."""

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor

from lofi_core.guarantee.confidence import residual_leverage
from lofi_core.vlm.encoding import EncodedInputs, PrunedInputs
from lofi_core.vlm.prompts import share

__all__ = ["pre_pass", "take_rows", "visual_tokens"]


def take_rows(encoded: EncodedInputs, rows: Sequence[int]) -> EncodedInputs:
    """Keep some rows of a batch, in the order given, with their pictures.

    Parameters
    ----------
    encoded : EncodedInputs
        The whole batch.
    rows : sequence of int
        At least one of them with a picture.
    """
    ids = encoded.inputs["input_ids"]
    chosen = torch.tensor(list(rows), device=ids.device)
    inputs = dict(encoded.inputs)
    for name, value in inputs.items():
        if isinstance(value, Tensor) and value.shape[-2:] == ids.shape:
            inputs[name] = value.index_select(-2, chosen.to(value.device))
    outputs = {}
    for modality, output in encoded.outputs.items():
        mine = [picture.row for picture in encoded.pictures if picture.modality == modality]
        order = [i for row in rows for i, owner in enumerate(mine) if owner == row]
        pixels, *facts = encoded.consumed[modality]
        del inputs[pixels]  # encoded already
        for name in facts:
            value = inputs[name]
            if isinstance(value, Tensor) and len(value) == len(mine):
                inputs[name] = value[order]
        if order:
            outputs[modality] = output
        else:
            inputs = {name: value for name, value in inputs.items() if name not in facts}
    return share(replace(encoded, outputs=outputs), inputs, rows)


def visual_tokens(encoded: EncodedInputs, inputs: Mapping[str, Any]) -> list[int]:
    """Count the visual tokens in each row of what goes to the language model."""
    config = encoded.model.config
    tokens = [getattr(config, f"{modality}_token_id") for modality in encoded.outputs]
    ids = inputs["input_ids"]
    found: list[int] = torch.isin(ids, torch.tensor(tokens, device=ids.device)).sum(-1).tolist()
    return found


def pre_pass(encoded: EncodedInputs, pruned: PrunedInputs, kind: str) -> list[float]:
    """Return each row's confidence before the language model runs: that of its worst picture.

    Parameters
    ----------
    encoded : EncodedInputs
        B prompts.
    pruned : PrunedInputs
        What is left of them.
    kind : {"ipr", "leverage"}
        See `lofi_core.guarantee.evidence.gather`.
    """
    values = [1.0] * len(encoded.inputs["input_ids"])
    for picture, image in zip(encoded.pictures, pruned.report.images, strict=True):
        if kind == "leverage":
            tokens = picture.features[picture.layout.patches]
            sure = 1 - residual_leverage(tokens, image.chosen)
        else:
            sure = 1 / (1 + abs(image.ipr_after / image.ipr_before - 1))
        values[picture.row] = min(values[picture.row], sure)
    return values
