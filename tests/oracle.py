"""The reference for pruning, built without it: the full sequence with dropped tokens masked out.

The unpruned model runs once, on pixels, and what reaches its language model is recorded; then that
runs again with an additive mask that hides the dropped columns from every other token.
"""

from typing import Any

import torch
from torch import Tensor

PLACEHOLDERS = ("image_token_id", "video_token_id")


def language_model(model: Any) -> Any:
    base = model.base_model
    return base.language_model if hasattr(base, "language_model") else base.text_model


@torch.no_grad()
def masked_logits(model: Any, inputs: dict[str, Any], kept: Tensor) -> Tensor:
    """Logits (B, L, V) of the full sequence; tokens where ``kept`` (B, L) is False are hidden."""
    seen: dict[str, Any] = {}

    def record(module: Any, args: Any, kwargs: Any) -> None:
        seen.update(kwargs)

    handle = language_model(model).register_forward_pre_hook(record, with_kwargs=True)
    try:
        model(**inputs, use_cache=False)
    finally:
        handle.remove()
    if seen["position_ids"] is None or seen["position_ids"].ndim == 2:
        # The model counts padding, too. RoPE minds by its rounding only: count as generate does.
        mask = inputs["attention_mask"]
        seen["position_ids"] = (mask.cumsum(-1) - 1).clamp(min=0)
    masks = seen["attention_mask"]
    if isinstance(masks, dict):
        seen["attention_mask"] = {k: _hide(m, inputs, kept, model.dtype) for k, m in masks.items()}
    else:
        seen["attention_mask"] = _hide(masks, inputs, kept, model.dtype)
    return model.lm_head(language_model(model)(**seen).last_hidden_state)


def _hide(mask: Tensor | None, inputs: dict[str, Any], kept: Tensor, dtype: torch.dtype) -> Tensor:
    """Additive mask (B, 1, L, L): what the model allows, less the hidden columns."""
    B, L = kept.shape
    if mask is None or mask.ndim == 2:
        padding = inputs["attention_mask"].bool() if mask is None else mask.bool()
        allowed = torch.ones(L, L, dtype=torch.bool, device=kept.device).tril() & padding[:, None]
        allowed = allowed[:, None]
    else:
        allowed = mask if mask.dtype == torch.bool else mask == 0
    allowed = allowed.expand(B, 1, L, L) & kept[:, None, None]
    allowed = allowed | torch.eye(L, dtype=torch.bool, device=kept.device)  # no empty rows
    return torch.zeros(B, 1, L, L, dtype=dtype, device=kept.device).masked_fill(
        ~allowed, torch.finfo(dtype).min
    )


def kept_columns(model: Any, inputs: dict[str, Any], report: Any, patches: Any) -> Tensor:
    """True for text and for the visual tokens that a report says were kept, (B, L).

    ``patches(n)`` tells which of a picture's n features are patches; the others are separators.
    """
    ids = inputs["input_ids"]
    kept = torch.ones_like(ids, dtype=torch.bool)
    for name in PLACEHOLDERS:
        token = getattr(model.config, name, None)
        if token is None:
            continue
        modality = name.split("_")[0]
        flat = (ids == token).flatten().nonzero()[:, 0].tolist()
        for image in (i for i in report.images if i.modality == modality):
            columns = flat[: image.tokens_before]
            flat = flat[image.tokens_before :]
            places = patches(image.tokens_before)
            for place in set(places) - {places[k] for k in image.kept.tolist()}:
                kept.view(-1)[columns[place]] = False
    return kept
