"""Recorded runs of methods that act before the language model, and of leverage scores."""

from collections.abc import Callable, Mapping
from typing import Any

import torch
from torch import Tensor

from lofi_core.errors import LofiError
from lofi_core.leverage import leverage_scores, ridge_leverage_scores
from lofi_core.pruners.budget import OutlierBudget
from lofi_core.pruners.cdpruner import CDPruner
from lofi_core.pruners.divprune import DivPrune
from lofi_core.pruners.fastervlm import FasterVLM
from lofi_core.pruners.hired import HiRED
from lofi_core.pruners.lrcp import LRCP
from lofi_core.pruners.prumerge import PruMerge, PruMergePlus
from lofi_core.pruners.tokens import VisualTokens
from lofi_core.pruners.tome import Matching, match, merge_matched
from lofi_core.pruners.trim import TRIM
from lofi_core.pruners.visionzip import VisionZip
from lofi_core.pruners.vispruner import VisPruner

__all__ = ["METHODS"]

Tensors = dict[str, Tensor]
Params = Mapping[str, Any]


def _blank(B: int, N: int, **facts: Any) -> VisualTokens:
    """Visual tokens of which the file holds everything but the projected ones."""
    return VisualTokens(torch.zeros(B, N, 1), **facts)


def _fastervlm(x: Tensors, p: Params) -> Tensors:
    B, _, N = x["attn_cls"].shape
    selection = FasterVLM(keep=p["keep"] / N)(_blank(B, N, cls_attention=x["attn_cls"]))
    assert selection.scores is not None
    return {"kept": torch.stack(selection.kept), "score": selection.scores}


def _vispruner(x: Tensors, p: Params) -> Tensors:
    B, _, N = x["attn_cls"].shape
    tokens = _blank(B, N, cls_attention=x["attn_cls"], encoded=x["features"])
    pruner = VisPruner(
        keep=p["keep"] / N, important=p["important_ratio"], step=p.get("step", VisPruner.step)
    )
    important, diverse = pruner.parts(tokens)
    return {
        "important": important,
        "diverse": diverse,
        "kept": torch.stack(pruner(tokens).kept),
    }


def _visionzip(x: Tensors, p: Params) -> Tensors:
    hidden, attention = x["hidden"], x["attn_cls"][..., 1:]
    B, N = len(hidden), hidden.shape[1] - 1
    m = p["dominant"] + p["contextual"]
    tokens = _blank(
        B,
        N,
        cls_attention=attention,
        keys=x["metric"][:, 1:],
        encoded=hidden[:, 1:],
        cls_encoded=hidden[:, :1].expand(-1, N, -1),
    )
    parts = VisionZip(keep=m / N, contextual=p["contextual"] / m).parts(tokens)
    cls = parts.dominant.new_zeros(B, 1)
    return {
        "all_indices": torch.cat((cls, parts.dominant + 1), 1),
        "cls_score": attention.sum(1),
        "contextual_targets": parts.targets,
        "kept": parts.dominant,
        "merge_counts": parts.counts.clamp(min=1).float(),
        "tokens": parts.tokens,
    }


def _prumerge(x: Tensors, p: Params) -> Tensors:
    return _prumerge_by(PruMerge, x, p)


def _prumerge_plus(x: Tensors, p: Params) -> Tensors:
    if not p["adaptive"]:
        raise LofiError(
            "replay: prumerge_plus with a fixed ratio; expected the adaptive one: the authors' "
            "code then repeats indices, and our fixed budget is another variant"
        )
    return _prumerge_by(PruMergePlus, x, p, bug_compatible=True)


def _prumerge_by(kind: type[PruMerge], x: Tensors, p: Params, **options: Any) -> Tensors:
    N = x["features"].shape[1]
    attention = _one_head_attention(x["q"][:, 0], x["k"])[:, 1:]
    tokens = _blank(
        len(attention),
        N,
        last_cls_attention=attention,
        last_keys=x["k"][:, 1:],
        encoded=x["features"],
    )
    ratio = p["reduction_ratio"]
    rule: Any = OutlierBudget()
    if p["adaptive"]:
        ratio = (attention > rule.fence(attention)).sum().item() / attention.numel()
    else:
        rule = (int(N * ratio) + 1) / N
    pruner = kind(keep=rule, neighbours=p.get("neighbours", 32), **options)
    order = pruner.centres(tokens)[0]
    return {
        "cls_attn": attention[0],
        "order": order,
        "kept": order.sort().values,
        "ratio": torch.tensor([ratio], dtype=torch.float64),
        "tokens": pruner.merge(tokens)[0].tokens[None],
    }


def _one_head_attention(q: Tensor, K: Tensor) -> Tensor:
    """Attention of one query (B, C) to keys (B, L, C) as if all heads were one, as recorded."""
    return ((K.float() @ q.float()[..., None])[..., 0] * K.shape[-1] ** -0.5).softmax(-1)


def _divprune(x: Tensors, p: Params) -> Tensors:
    tokens = VisualTokens(x["features"][None])
    pruner = DivPrune(keep=p["subset_ratio"])
    kept = pruner(tokens).kept[0]
    return {"kept": kept, "order": pruner.ranking(tokens, len(kept))[0]}


def _cdpruner(x: Tensors, p: Params) -> Tensors:
    tokens = VisualTokens(x["proj_features"], encoded=x["image_embeds"])
    N = tokens.projected.shape[1]
    # The file holds patches in the joint space already.
    pruner = CDPruner(keep=p["keep"] / N, text_embeds=x["text_embeds"], embed=lambda e: e)
    return {
        "kept": pruner(tokens).kept[0],
        "order": pruner.ranking(tokens, p["keep"])[0],
        "relevance": pruner.relevance(tokens)[0],
    }


def _trim(x: Tensors, p: Params) -> Tensors:
    N = x["features"].shape[1]
    tokens = _blank(1, N, encoded=x["features"])
    rule: Any = OutlierBudget() if p["k"] == -1 else (int(N * p["k"]) + 1) / N
    # The file holds patches in the joint space beside those in the encoder's.
    pruner = TRIM(keep=rule, text_embeds=x["text_embeds"], embed=lambda e: x["image_embeds"])
    scores = pruner.scores(tokens)
    ratio = p["k"] if p["k"] != -1 else (scores > rule.fence(scores)).sum().item() / N
    merged = pruner.merge(tokens)[0].tokens[None]
    return {
        "kept": pruner.chosen(tokens)[0],
        "ratio": torch.tensor([ratio], dtype=torch.float64),
        "score": scores[0],
        "tokens": merged,
        "tokens_fp16": merged.half(),
    }


def _lrcp(x: Tensors, p: Params) -> Tensors:
    X = x["features"]
    pruner = LRCP(
        keep=p["keep"] / len(X), rank=p["subspace_dim"], merge=p["merge"], bug_compatible=True
    )
    selection = pruner(VisualTokens(X[None]))
    assert selection.scores is not None
    kept = selection.kept[0]
    tokens = X[kept] if selection.tokens is None else selection.tokens[0]
    return {"kept": kept, "score": selection.scores[0], "tokens": tokens}


def _match_but_first(metric: Tensor, r: int) -> Matching:
    """Match as in an encoder whose token 0 is CLS, which never merges; the rest keeps its order.

    The library matches patches alone. One pair more than r leaves r without the pair of CLS.
    """
    more = match(metric, r + 1)
    order = (more.source == 0).int().argsort(dim=-1, stable=True)[:, :r]
    source, target = more.source.gather(1, order), more.target.gather(1, order)
    even = torch.arange(0, metric.shape[1], 2)
    unmerged = torch.stack([even[~torch.isin(even, row)] for row in source])
    return Matching(unmerged, source, target, more.odd)


def _tome(x: Tensors, p: Params) -> Tensors:
    matching = (_match_but_first if p["class_token"] else match)(x["metric"], p["r"])
    tokens, size = merge_matched(x["x"], matching, x.get("size"))
    return {
        "tokens": tokens,
        "size": size,
        "group_of_token": matching.groups[0],
        "src_order": matching.source[0],
        "src_tokens": matching.source[0].sort().values,
        "dst_of_src": matching.target[0],
        "unmerged_even": matching.unmerged[0],
    }


def _hired_single(x: Tensors, p: Params) -> Tensors:
    attention = x["attn_cls"][..., 1:]
    N = attention.shape[-1]
    tokens = _blank(
        1,
        N,
        cls_attention=attention,
        first_cls_attention=attention,
        crops=torch.zeros(1, N, dtype=torch.int64),
    )
    return {"kept": HiRED(keep=int(N * p["token_budget_rate"]) / N)(tokens).kept[0]}


def _hired_next(x: Tensors, p: Params) -> Tensors:
    feature, first = (x[name][..., 1:] for name in ("bottom_cls", "top_cls"))
    P, _, N = feature.shape
    tokens = _blank(
        1,
        P * N,
        cls_attention=feature.transpose(0, 1).flatten(1)[None],
        first_cls_attention=first.transpose(0, 1).flatten(1)[None],
        crops=torch.arange(P).repeat_interleave(N)[None],
    )
    total = int(P * N * p["token_budget_rate"])
    pruner = HiRED(keep=total / (P * N), alpha=p["alpha"], bug_compatible=True)
    mask = torch.zeros(P * N, dtype=torch.uint8)
    mask[pruner(tokens).kept[0]] = 1
    return {
        "budgets": pruner.budgets(tokens)[0][1:],
        "counts": mask.view(P, N).sum(1),
        "mask": mask.view(P, N),
    }


def _kvpress_leverage(x: Tensors, p: Params) -> Tensors:
    keys = x["keys"].double()
    # Sketching and centring commute.
    scores = ridge_leverage_scores(keys @ x["Phi"].double(), p["jitter"], center=True)
    order = scores.argsort(dim=-1, descending=True, stable=True)
    return {
        "scores": scores.float(),
        "z_scores": ((scores - scores.mean()) / scores.std()).float(),
        "rank": order[..., : keys.shape[2] // 8].sort(-1).values,
        "exact_leverage_f64_reference": leverage_scores(
            keys, min(keys.shape[2:]), center=True
        ).float(),
    }


METHODS: dict[str, Callable[[Tensors, Params], Tensors]] = {
    "cdpruner": _cdpruner,
    "divprune": _divprune,
    "fastervlm": _fastervlm,
    "hired_next": _hired_next,
    "hired_single": _hired_single,
    "kvpress_leverage": _kvpress_leverage,
    "lrcp_thirdparty": _lrcp,
    "prumerge": _prumerge,
    "prumerge_plus": _prumerge_plus,
    "tome": _tome,
    "trim": _trim,
    "visionzip": _visionzip,
    "vispruner": _vispruner,
}
