"""LLaVA: one image, one picture, and a CLIP or SigLIP that can interpolate its positions."""

import inspect
from collections.abc import Callable
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from lofi_core.vlm.families.base import Family

if TYPE_CHECKING:
    from transformers import PreTrainedModel

__all__ = ["Llava"]


class Llava(Family):
    """The common path; images of other sizes can be encoded too."""

    def encoder(self, model: "PreTrainedModel") -> Callable[[Tensor], Tensor]:
        """Encode images of any size in whole patches, with interpolated position embeddings."""
        tower = model.base_model.get_submodule(self.vision_tower)
        if "interpolate_pos_encoding" not in inspect.signature(tower.forward).parameters:
            return super().encoder(model)  # refuses
        features = model.base_model.get_image_features

        def encode(pixels: Tensor) -> Tensor:
            return torch.stack(
                list(
                    features(pixels, interpolate_pos_encoding=True, return_dict=True).pooler_output
                )
            )

        return encode
