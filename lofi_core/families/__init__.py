"""Model families: which ones are known, and how to add one."""

from typing import TYPE_CHECKING

from lofi_core.errors import LofiError
from lofi_core.families.base import Family, Layout

if TYPE_CHECKING:
    from transformers import PreTrainedModel

__all__ = ["FAMILIES", "Family", "Layout", "family_of"]

FAMILIES: dict[str, Family] = {
    "llava": Family(),
}


def family_of(model: "PreTrainedModel") -> Family:
    """Find the family of a model by its ``config.model_type``.

    Raises
    ------
    LofiError
        If the family is not known, or the installed transformers cannot take encoded pictures.
    """
    kind = getattr(getattr(model, "config", None), "model_type", type(model).__name__)
    if kind not in FAMILIES:
        raise LofiError(
            f"prune_inputs: no adapter for the model family {kind!r}; expected one of "
            f"{sorted(FAMILIES)}: if its forward takes mm_encoder_outputs, try "
            f"lofi_core.families.FAMILIES[{kind!r}] = Family(), and run the contract of "
            "tests/test_models.py on it"
        )
    return FAMILIES[kind]
