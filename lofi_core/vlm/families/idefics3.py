"""Idefics3 and SmolVLM: an image in crops, each between tokens that tell its row and column.

The encoder returns the crops of a row of the batch in one piece. A crop is what a pruner sees as an
image, so every crop keeps its share, and the overview too.
"""

from typing import TYPE_CHECKING, Any

from torch import Tensor

from lofi_core.vlm.families.base import Family

if TYPE_CHECKING:
    from transformers import PreTrainedModel

__all__ = ["Idefics3"]


class Idefics3(Family):
    """Crops in one piece a row."""

    vision_tower = "vision_model"
    projector = "connector.modality_projection"

    def features(self, model: "PreTrainedModel", output: Any) -> list[Tensor]:
        """Split each row's features into crops."""
        n = model.base_model.image_seq_len
        return [crop for row in output.pooler_output for crop in row.split(n) if len(crop)]
