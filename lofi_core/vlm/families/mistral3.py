"""Mistral 3 (Pixtral): images of any shape, whose rows end with a token of text in the prompt."""

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from lofi_core.pruners.tokens import Grid
from lofi_core.vlm.families.base import Family

if TYPE_CHECKING:
    from transformers import PreTrainedModel

__all__ = ["Mistral3"]


class Mistral3(Family):
    """Grids follow from the images' sizes; breaks between rows are text, and stay."""

    projector = None  # merges patches 2 x 2 itself

    def grids(
        self, model: "PreTrainedModel", modality: str, arguments: Mapping[str, Any]
    ) -> list[Grid]:
        """Divide each image's height and width by what one token covers."""
        cell = model.config.vision_config.patch_size * model.config.spatial_merge_size
        return [(int(h) // cell, int(w) // cell) for h, w in arguments["image_sizes"]]
