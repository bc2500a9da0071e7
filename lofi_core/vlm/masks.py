"""Hide tokens instead of dropping them: the reference that dropping is held against.

The full sequence runs through the language model with an additive mask that hides the dropped
columns from every other token, and with what the pruner made of the kept ones in their places.
Nothing gets faster by it.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, fields
from typing import Any

import torch
from torch import Tensor

from lofi_core.pruners import Pruner, Selection, VisualTokens
from lofi_core.vlm.encoding import encode_inputs

__all__ = ["InPlace", "masked_logits", "seen_tokens", "with_facts"]


def masked_logits(model: Any, inputs: Mapping[str, Any], pruner: Pruner) -> Tensor:
    """Logits, at all tokens that are neither dropped nor padding, with the dropped ones hidden.

    Parameters
    ----------
    model
        A vision-language model whose decoder is ``base_model.language_model``, and takes 4-D masks.
    inputs : mapping
        What its processor returned.
    pruner : Pruner
        Acting before the language model.

    Returns
    -------
    Tensor, shape (tokens, V)
        In the order of rows and columns, as ``logits[attention_mask.bool()]`` of pruned inputs.
    """
    encoded = encode_inputs(model, inputs, pruner.needs)
    real = inputs["attention_mask"].bool()
    stays = torch.ones_like(real)
    for picture, report in zip(encoded.pictures, encoded.prune(pruner).report.images, strict=True):
        patches = picture.columns[picture.layout.patches]
        stays[picture.row, patches] = False
        stays[picture.row, patches[report.kept.to(patches.device)]] = True
    full = encoded.prune(InPlace(inner=pruner))
    return _hidden(model, full, real, stays)[stays & real]


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


def _hidden(model: Any, inputs: Mapping[str, Any], real: Tensor, stays: Tensor) -> Tensor:
    """Logits of the full sequence with columns hidden, positions counted without padding."""
    (B, L), device = real.shape, real.device
    allowed = torch.ones(L, L, dtype=torch.bool, device=device).tril() & (real & stays)[:, None]
    allowed = (allowed | torch.eye(L, dtype=torch.bool, device=device))[:, None]
    low = torch.finfo(model.dtype).min
    mask = torch.zeros(B, 1, L, L, dtype=model.dtype, device=device).masked_fill(~allowed, low)
    positions = (real.cumsum(-1) - 1).clamp(min=0)

    def hide(module: Any, args: Any, kwargs: dict[str, Any]) -> Any:
        return args, kwargs | {"attention_mask": mask, "position_ids": positions}

    handle = model.base_model.language_model.register_forward_pre_hook(hide, with_kwargs=True)
    try:
        return model(**inputs).logits
    finally:
        handle.remove()


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
