"""Qwen2-VL, Qwen2.5-VL, Qwen3-VL: positions along time, height and width; features for deep layers.

Patches are merged 2 x 2 in the encoder, so a token's grid is half as high and wide as ``grid_thw``.
Qwen3-VL adds features of earlier encoder layers to the first layers of the language model
(DeepStack); they are chosen along with the tokens that they belong to.
"""

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from torch import Tensor

from lofi_core.errors import LofiError
from lofi_core.pruners.tokens import Grid
from lofi_core.vlm.families.base import Family

if TYPE_CHECKING:
    from transformers import PreTrainedModel

__all__ = ["QwenVL"]


class QwenVL(Family):
    """M-RoPE, 2 x 2 merging, DeepStack."""

    vision_tower = "visual"
    projector = None  # merges patches, in Qwen2.5-VL out of order

    def grids(
        self, model: "PreTrainedModel", modality: str, arguments: Mapping[str, Any]
    ) -> list[Grid]:
        """Lay tokens out in time, height and width; an image has no time."""
        merge = model.config.vision_config.spatial_merge_size
        grids = arguments[f"{modality}_grid_thw"].tolist()
        return [(t, h // merge, w // merge)[modality == "image" :] for t, h, w in grids]

    def positions(
        self, model: "PreTrainedModel", inputs: Mapping[str, Any], mask: Tensor
    ) -> Tensor:
        """Ask the model for its three position ids a token, (3, B, L)."""
        if inputs.get("mm_token_type_ids") is None:
            raise LofiError(
                "prune_inputs: inputs without mm_token_type_ids; expected them beside input_ids, "
                "because this family's positions depend on them: pass all that the processor gives"
            )
        given = {name: value for name, value in inputs.items() if name != "attention_mask"}
        return model.base_model.get_rope_index(**given, attention_mask=mask)[0]

    def rebuild(self, output: Any, choices: Sequence[Any]) -> Any:
        """Choose DeepStack features in step."""
        chosen = super().rebuild(output, choices)
        if getattr(output, "deepstack_features", None) is not None:
            chosen.deepstack_features = [
                [x[choice.chosen.to(x.device)] for x, choice in zip(level, choices, strict=True)]
                for level in output.deepstack_features
            ]
        return chosen
