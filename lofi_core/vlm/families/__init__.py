"""Model families: which ones are known, and how to add one."""

from inspect import signature
from typing import TYPE_CHECKING

from lofi_core.errors import LofiError
from lofi_core.vlm.families.base import Family, Layout
from lofi_core.vlm.families.idefics3 import Idefics3
from lofi_core.vlm.families.llava import Llava
from lofi_core.vlm.families.llava_next import LlavaNext, LlavaOnevision
from lofi_core.vlm.families.mistral3 import Mistral3
from lofi_core.vlm.families.qwen import QwenVL

if TYPE_CHECKING:
    from transformers import PreTrainedModel

__all__ = ["FAMILIES", "Family", "Layout", "family_of"]

# Every family here passes the contract of tests/test_models.py.
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


def family_of(model: "PreTrainedModel") -> Family:
    """Find the family of a model by its ``config.model_type``.

    Raises
    ------
    LofiError
        If the family is not known, if its structure forbids dropping tokens, or if the installed
        transformers does not take encoded pictures in place of pixels.
    """
    kind = getattr(getattr(model, "config", None), "model_type", type(model).__name__)
    if kind in UNFIT:
        raise LofiError(
            f"prune_inputs: a model of the family {kind!r} cannot be pruned: {UNFIT[kind]}; "
            f"expected one of {sorted(FAMILIES)}"
        )
    if kind not in FAMILIES:
        raise LofiError(
            f"prune_inputs: no adapter for the model family {kind!r}; expected one of "
            f"{sorted(FAMILIES)}: if its forward takes mm_encoder_outputs, try "
            f"lofi_core.vlm.families.FAMILIES[{kind!r}] = Family(), and run the contract of "
            "tests/test_models.py on it"
        )
    if "mm_encoder_outputs" not in signature(type(model.base_model).forward).parameters:
        raise LofiError(
            f"prune_inputs: {type(model.base_model).__name__}.forward takes no mm_encoder_outputs; "
            "expected a model class of transformers >= 5.20, not remote code, not a wrapper"
        )
    return FAMILIES[kind]
