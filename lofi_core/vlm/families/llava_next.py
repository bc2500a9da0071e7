"""LLaVA-NeXT and LLaVA-OneVision: an overview, then crops put together, rows ended by a separator.

The separator is one learned vector, ``image_newline``, on image placeholders. It holds no picture,
so it counts as structure and stays, and pruners see patches alone. A video has a single one, at its
end.
"""

import math
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from lofi_core.pruners.tokens import Grid
from lofi_core.vlm.families.base import Family, Layout

if TYPE_CHECKING:
    from transformers import PreTrainedModel

__all__ = ["LlavaNext", "LlavaOnevision"]


class LlavaNext(Family):
    """Separators among the patches, several crops an image."""

    def layouts(
        self,
        model: "PreTrainedModel",
        modality: str,
        arguments: Mapping[str, Any],
        features: Sequence[Tensor],
    ) -> list[Layout]:
        """Find the separators by their value, which is exactly ``image_newline``."""
        vision = model.config.vision_config
        side = vision.image_size // vision.patch_size
        layouts = []
        for picture in features:
            newline = model.base_model.image_newline.to(picture)
            patches = (picture != newline).any(-1).nonzero()[:, 0]
            rows = len(picture) - len(patches)
            layouts.append(Layout(patches, _grids(modality, len(patches), rows, side)))
        return layouts

    def align(
        self, model: "PreTrainedModel", arguments: Mapping[str, Any], x: Tensor
    ) -> list[Tensor]:
        """Put together what is known of the crops as the model puts their features together.

        The model's own packing runs on the patches' numbers, and tells where they went.
        """
        numbers = _pack_numbers(model.base_model, arguments["image_sizes"], *x.shape[:2])
        return [x.flatten(0, 1)[picture.to(x.device)] for picture in numbers]


class LlavaOnevision(LlavaNext):
    """The same, but large images and videos are resized, so encoder patches match no tokens."""

    align = Family.align


def _grids(modality: str, n: int, rows: int, side: int) -> tuple[Grid, ...]:
    """Shapes of n patches: frames pooled 2 x 2, or an overview and ``rows`` rows of the crops."""
    half = math.ceil(side / 2)
    if modality == "video":
        return ((n // half**2, half, half),)
    rest = n - side**2
    if rest == 0:
        return ((side, side),)
    return ((side, side), (rows, rest // rows)) if rows and rest % rows == 0 else ((n,),)


def _pack_numbers(base: Any, image_sizes: Tensor, crops: int, n: int) -> list[Tensor]:
    """Number all patches of all crops, pack the numbers, and leave out the separators."""
    from transformers.models.llava_next.modeling_llava_next import image_size_to_num_patches

    counts = [
        image_size_to_num_patches(
            size, base.config.image_grid_pinpoints, base.config.vision_config.image_size
        )
        for size in image_sizes
    ]
    numbers = torch.arange(crops * n, dtype=torch.float64).view(crops, n, 1).split(counts)
    strategy = base.config.vision_feature_select_strategy
    packed, _ = base.pack_image_features(numbers, image_sizes, strategy, torch.tensor([-1.0]))
    return [picture[picture[:, 0] >= 0, 0].long() for picture in packed]
