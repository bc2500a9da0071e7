r"""What pruners ask of the vision encoder, recorded while it runs once.

    encoded           the projector's input, one row a token
    cls_attention     softmax(q_CLS K^T / sqrt(d)) in the layer that gives the features

Hooks record the queries and keys that the layer computes anyway, so the encoder keeps its fast
attention back-end; they are removed as soon as it has run.
"""

from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn
from torch.utils.hooks import RemovableHandle

from lofi_core.errors import LofiError
from lofi_core.families import Family

if TYPE_CHECKING:
    from transformers import PreTrainedModel

__all__ = ["watching"]

Found = dict[str, Tensor]


@contextmanager
def watching(model: "PreTrainedModel", family: Family, needs: Sequence[str]) -> Iterator[Found]:
    """Record the named fields of `VisualTokens` for every crop that passes the encoder.

    Yields a dictionary that, after the encoder ran, holds tensors of shape (crops, patches, C);
    ``cls_attention`` as (crops, patches, H).

    Raises
    ------
    LofiError
        If a field is not known, or the encoder cannot give it.
    """
    found: Found = {}
    with ExitStack() as stack:
        for name in needs:
            if name not in _WATCHERS:
                raise LofiError(
                    f"prune_inputs: the pruner needs {name!r}; expected among {sorted(_WATCHERS)}"
                )
            for handle in _WATCHERS[name](model, family, found):
                stack.callback(handle.remove)
        yield found


def _watch_encoded(model: "PreTrainedModel", family: Family, found: Found) -> list[RemovableHandle]:
    def keep_input(module: nn.Module, args: tuple[Tensor, ...]) -> None:
        found["encoded"] = args[0]

    if family.projector is None:
        raise LofiError(
            "prune_inputs: the pruner needs encoded, but this family's projector merges patches; "
            "expected features one a token: choose a pruner that reads them after the projector"
        )
    projector = model.base_model.get_submodule(family.projector)
    return [projector.register_forward_pre_hook(keep_input)]


def _watch_cls_attention(
    model: "PreTrainedModel", family: Family, found: Found
) -> list[RemovableHandle]:
    attention = _feature_attention(model, family)
    seen: dict[str, Tensor] = {}

    def keep(name: str) -> Callable[[nn.Module, tuple[Tensor, ...], Tensor], None]:
        def hook(module: nn.Module, args: tuple[Tensor, ...], output: Tensor) -> None:
            seen[name] = output.unflatten(-1, (attention.num_heads, -1))  # (crops, 1 + n, H, d)

        return hook

    def attend(module: nn.Module, args: object, output: object) -> None:
        q, K = seen.pop("q_proj")[:, 0], seen.pop("k_proj")
        logits = torch.einsum("bhd,bnhd->bnh", q, K) * attention.scale
        found["cls_attention"] = logits.softmax(1, dtype=torch.float32)[:, 1:]

    return [
        attention.q_proj.register_forward_hook(keep("q_proj")),
        attention.k_proj.register_forward_hook(keep("k_proj")),
        attention.register_forward_hook(attend),
    ]


def _feature_attention(model: "PreTrainedModel", family: Family) -> Any:
    """Find the attention module of the layer whose output the projector reads."""
    tower = model.base_model.get_submodule(family.vision_tower)
    tower = getattr(tower, "vision_model", tower)
    if not hasattr(getattr(tower, "embeddings", None), "class_embedding"):
        raise LofiError(
            f"prune_inputs: the pruner needs cls_attention, but {type(tower).__name__} has no CLS "
            "token; expected a CLIP encoder: choose a pruner that does without"
        )
    layer = model.config.vision_feature_layer
    if not isinstance(layer, int):
        raise LofiError(
            f"prune_inputs: the pruner needs cls_attention, but the features come from several "
            f"layers, {layer}; expected one: choose a pruner that does without"
        )
    # hidden_states[0] are the embeddings, so hidden_states[f] is what layer f - 1 gives.
    return tower.encoder.layers[layer if layer < 0 else layer - 1].self_attn


_WATCHERS: dict[str, Callable[[Any, Family, Found], list[RemovableHandle]]] = {
    "encoded": _watch_encoded,
    "cls_attention": _watch_cls_attention,
}
