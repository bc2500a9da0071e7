r"""What pruners ask of the vision encoder, recorded while it runs once.

    encoded                 the projector's input, one row a token
    crops                   which of its image's crops a token is from
    cls_encoded             the CLS token of that crop, where the features are taken
    keys                    k_i, mean over heads, in the layer that gives the features
    cls_attention           softmax(q_CLS K^T / sqrt(d)), by head, in that layer
    first_cls_attention     the same in the first layer
    last_keys               k_i in the last layer, all heads side by side
    last_cls_attention      softmax(q_CLS K^T / sqrt(C)) in the last layer, all heads as one

Hooks record the queries and keys that a layer computes anyway, so the encoder keeps its fast
attention back-end; they are removed as soon as it has run. They record in the thread that set them
only, so that threads can encode at the same time.
"""

import threading
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from functools import wraps
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn
from torch.utils.hooks import RemovableHandle

from lofi_core.errors import LofiError
from lofi_core.vlm.families import Family

if TYPE_CHECKING:
    from transformers import PreTrainedModel

__all__ = ["as_batch", "watching"]

Found = dict[str, Tensor]


@contextmanager
def watching(model: "PreTrainedModel", family: Family, needs: Sequence[str]) -> Iterator[Found]:
    """Record the named fields of `VisualTokens` for every crop that passes the encoder.

    Yields a dictionary that, after the encoder ran, holds tensors of shape (crops, patches, ...),
    in which `Family.align` finds each picture's tokens.

    Raises
    ------
    LofiError
        If a field is not known, or the encoder cannot give it.
    """
    found: Found = {}
    with ExitStack() as stack:
        for name in needs:
            if name in _FROM_ATTENTION:
                handles = _watch_attention(model, family, name, found)
            elif name in _WATCHERS:
                handles = _WATCHERS[name](model, family, found)
            else:
                known = sorted([*_FROM_ATTENTION, *_WATCHERS, "project"])
                raise LofiError(f"prune_inputs: the pruner needs {name!r}; expected among {known}")
            for handle in handles:
                stack.callback(handle.remove)
        yield found
        if missing := [name for name in needs if name not in found]:
            raise LofiError(
                f"prune_inputs: the encoder ran, but {missing} passed no hook; expected modules "
                "that run in Python: leave the vision encoder uncompiled"
            )


def as_batch(name: str, facts: Sequence[Tensor]) -> Tensor:
    """Stack what is known of B pictures, (N, ...) each, in the shape `VisualTokens` gives it."""
    stacked = torch.stack(list(facts))
    if name in ("cls_attention", "first_cls_attention"):
        return stacked.mT
    if name == "crops":
        return stacked[..., 0] - stacked[..., 0].amin(-1, keepdim=True)
    return stacked[..., 0] if name == "last_cls_attention" else stacked


# What follows from a layer's queries and keys, (crops, 1 + n, H, d) each with CLS first, and the
# scale of its logits: (crops, n, ...).


def _attention(Q: Tensor, K: Tensor, scale: float) -> Tensor:
    logits = torch.einsum("bhd,bnhd->bnh", Q[:, 0], K) * scale
    return logits.softmax(1, dtype=torch.float32)[:, 1:]


def _wide_attention(Q: Tensor, K: Tensor, scale: float) -> Tensor:
    H = K.shape[2]
    return _attention(Q.flatten(2)[:, :, None], K.flatten(2)[:, :, None], scale / H**0.5)


def _mean_keys(Q: Tensor, K: Tensor, scale: float) -> Tensor:
    return K[:, 1:].mean(2)


def _wide_keys(Q: Tensor, K: Tensor, scale: float) -> Tensor:
    return K[:, 1:].flatten(2)


_FROM_ATTENTION: dict[str, tuple[str, Callable[[Tensor, Tensor, float], Tensor]]] = {
    "cls_attention": ("feature", _attention),
    "first_cls_attention": ("first", _attention),
    "last_cls_attention": ("last", _wide_attention),
    "keys": ("feature", _mean_keys),
    "last_keys": ("last", _wide_keys),
}


def _here(hook: Callable[..., None]) -> Callable[..., None]:
    """Run a hook only in the thread that made it, not when others use the encoder meanwhile."""
    thread = threading.get_ident()

    @wraps(hook)
    def only_here(*args: Any) -> None:
        if threading.get_ident() == thread:
            hook(*args)

    return only_here


def _watch_attention(
    model: "PreTrainedModel", family: Family, name: str, found: Found
) -> list[RemovableHandle]:
    where, fact = _FROM_ATTENTION[name]
    attention = _layer(model, family, where, name).self_attn
    seen: dict[str, Tensor] = {}

    def keep(kind: str) -> Callable[[nn.Module, Any, Tensor], None]:
        @_here
        def hook(module: nn.Module, args: Any, output: Tensor) -> None:
            seen[kind] = output.unflatten(-1, (attention.num_heads, -1))

        return hook

    @_here
    def conclude(module: nn.Module, args: Any, output: Any) -> None:
        found[name] = fact(seen.pop("queries"), seen.pop("keys"), attention.scale)

    return [
        attention.q_proj.register_forward_hook(keep("queries")),
        attention.k_proj.register_forward_hook(keep("keys")),
        attention.register_forward_hook(conclude),
    ]


def _watch_encoded(model: "PreTrainedModel", family: Family, found: Found) -> list[RemovableHandle]:
    @_here
    def hook(module: nn.Module, args: tuple[Tensor, ...]) -> None:
        found["encoded"] = args[0]

    return [family.project(model).register_forward_pre_hook(hook)]


def _watch_crops(model: "PreTrainedModel", family: Family, found: Found) -> list[RemovableHandle]:
    @_here
    def hook(module: nn.Module, args: tuple[Tensor, ...]) -> None:
        crops, n = args[0].shape[:2]
        numbers = torch.arange(crops, device=args[0].device)
        found["crops"] = numbers[:, None, None].expand(crops, n, 1)

    return [family.project(model).register_forward_pre_hook(hook)]


def _watch_cls(model: "PreTrainedModel", family: Family, found: Found) -> list[RemovableHandle]:
    @_here
    def hook(module: nn.Module, args: Any, output: Any) -> None:
        states = output if isinstance(output, Tensor) else output[0]
        found["cls_encoded"] = states[:, :1].expand(-1, states.shape[1] - 1, -1)

    return [_layer(model, family, "feature", "cls_encoded").register_forward_hook(hook)]


_WATCHERS: dict[str, Callable[["PreTrainedModel", Family, Found], list[RemovableHandle]]] = {
    "encoded": _watch_encoded,
    "crops": _watch_crops,
    "cls_encoded": _watch_cls,
}


def _layer(model: "PreTrainedModel", family: Family, where: str, name: str) -> Any:
    """Find the first or last layer of a CLIP encoder, or the one whose output are the features."""
    tower = model.base_model.get_submodule(family.vision_tower)
    tower = getattr(tower, "vision_model", tower)
    if not hasattr(getattr(tower, "embeddings", None), "class_embedding"):
        raise LofiError(
            f"prune_inputs: the pruner needs {name}, which is known of a CLIP encoder's CLS token "
            f"and layers; this model's encoder is a {type(tower).__name__}: choose a pruner that "
            "does without"
        )
    if where != "feature":
        return tower.encoder.layers[0 if where == "first" else -1]
    layer = model.config.vision_feature_layer
    if not isinstance(layer, int):
        raise LofiError(
            f"prune_inputs: the pruner needs {name}, but the features come from several layers, "
            f"{layer}; expected one: choose a pruner that does without"
        )
    # hidden_states[0] are the embeddings, so hidden_states[f] is what layer f - 1 gives.
    return tower.encoder.layers[layer if layer < 0 else layer - 1]
