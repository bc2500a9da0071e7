"""Model families: which ones are known, and how to add one."""

from inspect import signature
from typing import TYPE_CHECKING, Any

from torch import nn

from lofi_core.errors import LofiError
from lofi_core.vlm.families.base import Family, Layout
from lofi_core.vlm.families.idefics3 import Idefics3
from lofi_core.vlm.families.llava import Llava
from lofi_core.vlm.families.llava_next import LlavaNext, LlavaOnevision
from lofi_core.vlm.families.mistral3 import Mistral3
from lofi_core.vlm.families.qwen import QwenVL

if TYPE_CHECKING:
    from transformers import PreTrainedModel

__all__ = ["FAMILIES", "UNFIT", "Family", "Layout", "check_model", "family_of"]

# Every family here passes the contract of tests/vlm.
FAMILIES: dict[str, Family] = {
    "aya_vision": Family(),
    "gemma3": Family(),
    "idefics3": Idefics3(),
    "internvl": Family(),
    "llava": Llava(),
    "llava_next": LlavaNext(),
    "llava_onevision": LlavaOnevision(),
    "mistral3": Mistral3(),
    "paligemma": Family(),
    "qwen2_5_vl": QwenVL(),
    "qwen2_vl": QwenVL(),
    "qwen3_vl": QwenVL(),
    "smolvlm": Idefics3(),
    "vipllava": Family(),
}

UNFIT = {
    "blip-2": "its Q-Former already sums an image up in 32 queries that have no place in it",
    "chameleon": "its images are words of the vocabulary, not features",
    "florence2": "it is an encoder-decoder: visual tokens never enter the decoder's sequence",
    "fuyu": "it has no vision encoder whose output could be chosen from",
    "instructblip": "its Q-Former already sums an image up in 32 queries that have no place in it",
    "mllama": "it reads images through cross-attention: they are not in the sequence",
}


def check_model(model: Any, caller: str) -> None:
    """Raise LofiError unless this is a model itself: not its class, and not a wrapper of it."""
    from transformers import PreTrainedModel

    if isinstance(model, PreTrainedModel):
        return
    if isinstance(model, type):
        got, remedy = f"the class {model.__name__}", "load one with from_pretrained"
    elif hasattr(model, "get_base_model"):
        got, remedy = f"a {type(model).__name__}, which wraps one", "pass model.get_base_model()"
    elif isinstance(getattr(model, "module", None), PreTrainedModel):
        got, remedy = f"a {type(model).__name__}, which wraps one", "pass model.module"
    else:
        got, remedy = f"a {type(model).__name__}", "load one with from_pretrained"
    raise LofiError(f"{caller}: {got}; expected a transformers model: {remedy}")


def family_of(model: "PreTrainedModel", family: Family | None = None) -> Family:
    """Find the family of a model by its ``config.model_type``.

    Parameters
    ----------
    model : PreTrainedModel
        The model.
    family : Family, optional
        Taken in place of the one that is known, if the model passes the other checks.

    Raises
    ------
    LofiError
        If the family is not known, if its structure forbids dropping tokens, or if the installed
        transformers does not take encoded pictures in place of pixels.
    """
    check_model(model, "prune_inputs")
    kind = model.config.model_type
    if kind in UNFIT:
        raise LofiError(
            f"prune_inputs: a model of the family {kind!r} cannot be pruned: {UNFIT[kind]}; "
            f"expected one of {sorted(FAMILIES)}"
        )
    if kind not in FAMILIES and family is None:
        raise LofiError(
            f"prune_inputs: no adapter for the model family {kind!r}; expected one of "
            f"{sorted(FAMILIES)}: register lofi_core.vlm.families.FAMILIES[{kind!r}] = Family(), "
            "or QwenVL() where positions have several axes, and before you trust it run "
            "lofi_core.contract.check_pruner(pruner, model, inputs), which compares dropping with "
            "masking on your model"
        )
    if "mm_encoder_outputs" not in signature(type(model.base_model).forward).parameters:
        raise LofiError(
            f"prune_inputs: {type(model.base_model).__name__}.forward takes no mm_encoder_outputs; "
            "expected a model class of transformers >= 5.20, not remote code"
        )
    _check_decoder(model, kind)
    return family or FAMILIES[kind]


# Layers of which every token sees exactly the tokens that the mask lets it see.
_ATTENTION = {"attention", "full_attention", "sliding_attention", "chunked_attention"}


def _check_decoder(model: "PreTrainedModel", kind: str) -> None:
    """Refuse decoders in which a token's neighbours count, not only the tokens it attends to."""
    text = model.config.get_text_config()
    kinds = set(getattr(text, "layer_types", None) or ())
    other = sorted(kinds - _ATTENTION)
    if not other and any(isinstance(m, nn.Conv1d) for m in model.get_decoder().modules()):
        other = ["convolution"]
    if other:
        raise LofiError(
            f"prune_inputs: the language model of {kind!r} has layers of type {other}, which mix "
            "each token with those that stand before it, seen or not: dropping tokens is not "
            "masking them. Expected attention in every layer: choose another model"
        )
