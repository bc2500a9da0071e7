"""Hide tokens instead of dropping them: the reference that dropping is held against.

The full sequence runs through the language model with an additive mask that hides the dropped
columns from every other token, and with what the pruner made of the kept ones in their places.
Nothing gets faster by it.
"""

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field, fields
from typing import Any

import torch
from torch import Tensor

from lofi_core.pruners import Pruner, Selection, VisualTokens
from lofi_core.vlm.encoding import encode_inputs
from lofi_core.vlm.families import Family
from lofi_core.vlm.masks import additive, leave

__all__ = ["InPlace", "masked_logits", "seen_tokens", "with_facts"]


def masked_logits(
    model: Any, inputs: Mapping[str, Any], pruner: Pruner, family: Family | None = None
) -> Tensor:
    """Logits, at all tokens that are neither dropped nor padding, with the dropped ones hidden.

    Parameters
    ----------
    model
        A vision-language model whose decoder, ``model.get_decoder()``, takes 4-D masks.
    inputs : mapping
        What its processor returned.
    pruner : Pruner
        Acting before the language model.
    family : Family, optional
        How the model is driven, where it is not the one registered for it.

    Returns
    -------
    Tensor, shape (tokens, V)
        In the order of rows and columns, as ``logits[attention_mask.bool()]`` of pruned inputs.
    """
    encoded = encode_inputs(model, inputs, pruner.needs, family)
    real = inputs["attention_mask"].bool()
    stays = torch.ones_like(real)
    for picture, report in zip(encoded.pictures, encoded.prune(pruner).report.images, strict=True):
        leave(stays[picture.row], picture.columns[picture.layout.patches], report.kept)
    full = encoded.prune(InPlace(inner=pruner))
    with _hiding(model, real, stays):
        logits = model(**full, use_cache=False).logits
    return logits[stays & real]


def seen_tokens(
    model: Any, inputs: Mapping[str, Any], needs: Sequence[str] = ()
) -> list[VisualTokens]:
    """Record what a pruner with these needs gets to see, for all images of equal shape at once.

    Examples
    --------
    >>> from lofi_core.contract import shipped
    >>> seen_tokens(*shipped(), needs=["cls_attention"])[0].cls_attention.shape
    torch.Size([3, 4, 144])
    """
    spy = _Spy(wanted=tuple(needs))
    encode_inputs(model, inputs, needs).prune(spy)
    return spy.seen


def with_facts(tokens: VisualTokens, change: Callable[[Tensor], Any]) -> VisualTokens:
    """Change every tensor of some visual tokens."""
    facts: dict[str, Any] = {f.name: getattr(tokens, f.name) for f in fields(tokens)}
    changed = {name: change(x) if isinstance(x, Tensor) else x for name, x in facts.items()}
    return VisualTokens(**changed)


@contextmanager
def _hiding(model: Any, real: Tensor, stays: Tensor) -> Iterator[None]:
    """Hide, from all other tokens, what doesn't stay; count plain positions without padding."""

    def hide(module: Any, args: Any, kwargs: dict[str, Any]) -> Any:
        masks, positions = kwargs.get("attention_mask"), kwargs.get("position_ids")
        if isinstance(masks, dict):
            masks = {kind: _less(mask, real, stays, model.dtype) for kind, mask in masks.items()}
        else:
            masks = _less(masks, real, stays, model.dtype)
        if positions is None or positions.ndim == 2:
            positions = (real.cumsum(-1) - 1).clamp(min=0)
        return args, kwargs | {"attention_mask": masks, "position_ids": positions}

    handle = model.get_decoder().register_forward_pre_hook(hide, with_kwargs=True)
    try:
        yield
    finally:
        handle.remove()


def _less(mask: Tensor | None, real: Tensor, stays: Tensor, dtype: torch.dtype) -> Tensor:
    """Additive mask (B, 1, L, L): what the model allows, less the columns that don't stay."""
    L = real.shape[1]
    if mask is None or mask.ndim == 2:
        allowed = torch.ones(L, L, dtype=torch.bool, device=real.device).tril()
        allowed = (allowed & real[:, None])[:, None]
    else:
        allowed = mask if mask.dtype == torch.bool else mask == 0
    itself = torch.eye(L, dtype=torch.bool, device=real.device)
    return additive((allowed & stays[:, None, None]) | itself, dtype)


@dataclass(frozen=True, kw_only=True)
class _Spy(Pruner):
    """Leave every token as it is, and remember them."""

    wanted: tuple[str, ...]
    seen: list[VisualTokens] = field(default_factory=list)

    @property
    def needs(self) -> tuple[str, ...]:
        return self.wanted

    def select(self, tokens: VisualTokens) -> Selection:
        self.seen.append(tokens)
        return _everything(tokens.projected)


@dataclass(frozen=True, kw_only=True)
class InPlace(Pruner):
    """Drop nothing, and put what another pruner makes of the tokens it keeps in their places."""

    inner: Pruner

    @property
    def needs(self) -> tuple[str, ...]:
        """What the other pruner reads."""
        return self.inner.needs

    def select(self, tokens: VisualTokens) -> Selection:
        """Return all tokens, some of them changed."""
        chosen, X = self.inner(tokens), tokens.projected.clone()
        for b, new in enumerate(chosen.tokens or ()):
            X[b, chosen.kept[b]] = new
        return _everything(X)


def _everything(X: Tensor) -> Selection:
    every = torch.arange(X.shape[1], device=X.device)
    return Selection((every,) * len(X), tuple(X))
