"""Recorded runs of methods that act inside the language model."""

from collections.abc import Callable, Mapping
from typing import Any

import torch
from torch import Tensor

from lofi_core.pruners.dart import DART
from lofi_core.pruners.fastv import FastV
from lofi_core.pruners.pyramiddrop import PyramidDrop
from lofi_core.pruners.sparsevlm import SparseVLM, SparseVLMPlus

__all__ = ["METHODS"]

Tensors = dict[str, Tensor]
Params = Mapping[str, Any]


def _fastv(x: Tensors, p: Params) -> Tensors:
    row = x["attn_last_row"] if "attn_last_row" in x else x["attn"][0, :, -1]
    N, start = p["image_len"], p["image_start"]
    pruner = FastV(layer=p["K"], ratio=1 - p["keep"] / N if p["r"] is None else p["r"])
    visual = torch.arange(start, start + N)
    count = pruner.schedule(N, layers=p["K"] + 1)[0].count
    kept = pruner.choose(row, visual, count)
    sequence = _without(row.shape[-1], visual, visual[kept])
    return {
        "score": pruner.scores(row, visual),
        "kept": kept,
        "keep_indexs": sequence,
        "position_ids": sequence[None],
    }


def _pyramiddrop(x: Tensors, p: Params) -> Tensors:
    row = _last_row(
        x["features"][0],
        x["ln_weight"],
        x["wq"],
        x["wk"],
        p["heads"],
        p["rms_eps"],
        p["rope_base"],
    )
    pruner = PyramidDrop(layers=tuple(p["layer_list"]), ratios=tuple(p["image_token_ratio_list"]))
    count = pruner.schedule(p["N"], layers=p["layer_list"][-1] + 1)[p["stage"]].count
    visual = torch.arange(p["image_start"], p["image_start"] + p["n_current"])
    kept = pruner.choose(row, visual, count)
    return {
        "attn_last_row": row,
        "kept": kept,
        "kept_abs": visual[kept],
        "score": pruner.scores(row, visual),
    }


def _sparsevlm(x: Tensors, p: Params) -> Tensors:
    return _sparsevlm_by(SparseVLM(retain=p["retain"]), x, p)


def _sparsevlm_v2(x: Tensors, p: Params) -> Tensors:
    pruner = SparseVLMPlus(retain=p["retain"], base=p["rope_base"], head_dim=p["head_dim"])
    return _sparsevlm_by(pruner, x, p)


def _sparsevlm_by(pruner: SparseVLM, x: Tensors, p: Params) -> Tensors:
    embeds, hidden, N = x["embeds"][0], x["hidden_out"][0], p["N"]
    L, start = len(hidden), p["image_start"]
    visual, after = torch.arange(start, start + N), torch.arange(start + N, L)
    raters = pruner.raters(embeds[visual], embeds[after])
    if "attn" in x:
        rows = x["attn"][0][:, after[raters]]
    else:
        rows = x["attn_rows"][0][:, torch.searchsorted(x["row_index"], after[raters])]
    scores = pruner.scores(rows, visual, after[raters], torch.arange(L))
    stage = pruner.after.index(p["layer_idx"])
    kept = pruner.choose(scores, pruner.COUNTS[pruner.retain][stage])
    sequence = _without(L, visual, visual[kept])
    shorter, positions, outputs = hidden[sequence], sequence, {}
    if pruner.recycles:
        dropped = torch.ones(N, dtype=torch.bool)
        dropped[kept] = False
        outputs["merged"] = pruner.recycle(hidden[visual[dropped]], scores[dropped])
        end = start + len(kept)
        shorter = torch.cat((shorter[:end], outputs["merged"], shorter[end:]))
        positions = torch.arange(len(shorter))
    return outputs | {
        "hidden": shorter[None],
        "kept": kept,
        "position_ids": positions[None],
        "raters": raters,
        "score": scores,
    }


def _dart(x: Tensors, p: Params) -> Tensors:
    keys, N, start = x["keys"][0], p["N"], p["image_start"]
    visual, text = torch.arange(start, start + N), torch.arange(start + N, keys.shape[1])
    pruner = DART(
        max_tokens=p["max_num_trunction"],
        reduction=p["reduction_ratio"],
        image_pivots=p["pivot_image_token"],
        text_pivots=p["pivot_text_token"],
        bug_compatible=True,
    )
    image, words = pruner.pivots(keys, visual, text)
    turns, share = pruner.turns(image, words), pruner.share(N)
    kept = pruner.choose(x["last_hidden"][0], visual, image, turns, share)
    return {
        "image_pivots": image,
        "text_pivots": words,
        "pivot_order": torch.tensor(turns),
        "per_pivot": torch.tensor([share]),
        "kept": kept,
        "kept_abs": visual[kept],
    }


def _last_row(
    hidden: Tensor,
    norm: Tensor,
    Wq: Tensor,
    Wk: Tensor,
    heads: int,
    eps: float,
    base: float,
) -> Tensor:
    """Attention of the last token in a Llama layer, (H, L), from what enters the layer, (L, D)."""
    x = hidden.float()
    x = norm * x * (x.square().mean(-1, keepdim=True) + eps).rsqrt()
    q, K = ((x @ W.mT).unflatten(-1, (heads, -1)).transpose(0, 1) for W in (Wq, Wk))
    d = q.shape[-1]
    angles = torch.arange(len(x), dtype=torch.float32)[:, None] * base ** (
        -torch.arange(0, d, 2, dtype=torch.float32) / d
    )
    cos, sin = (torch.cat((f(angles),) * 2, -1).to(x.device) for f in (torch.cos, torch.sin))

    def rotate(y: Tensor) -> Tensor:
        left, right = y.chunk(2, -1)
        return y * cos + torch.cat((-right, left), -1) * sin

    return (rotate(q)[:, -1:] @ rotate(K).mT * d**-0.5).softmax(-1)[:, 0]


def _without(L: int, visual: Tensor, kept: Tensor) -> Tensor:
    """Places of a sequence without the visual tokens that are not kept."""
    stays = torch.ones(L, dtype=torch.bool)
    stays[visual] = False
    stays[kept] = True
    return stays.nonzero()[:, 0]


METHODS: dict[str, Callable[[Tensors, Params], Tensors]] = {
    "dart": _dart,
    "fastv": _fastv,
    "pyramiddrop": _pyramiddrop,
    "sparsevlm": _sparsevlm,
    "sparsevlm_v2": _sparsevlm_v2,
}
