"""What differs between families of vision-language models, and the defaults that fit most of them.

transformers hands every family its pictures (images or videos) in one way, ``mm_encoder_outputs``:
a list of features per modality that takes the places of placeholder tokens in ``input_ids``, in
order. A family that also has one feature a placeholder and one position a token needs no code. What
a family does differently, it overrides here, one method a difference.
"""

import inspect
import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from lofi_core.errors import LofiError
from lofi_core.pruners.tokens import Grid

if TYPE_CHECKING:
    from transformers import PreTrainedModel

__all__ = ["Family", "Layout"]


@dataclass(frozen=True, eq=False)
class Layout:
    """How the features of one picture are arranged.

    Parameters
    ----------
    patches : Tensor, shape (N,), int64
        Which of the picture's n features are visual tokens. The others are separators (a learned
        "new line"): structure like text, never dropped.
    grids : tuple of tuples of int
        Shapes of the visual tokens, see `lofi_core.pruners.VisualTokens`.
    """

    patches: Tensor
    grids: tuple[Grid, ...]


class Family:
    """The common path: what a family overrides if it differs."""

    vision_tower = "vision_tower"
    projector: str | None = "multi_modal_projector"

    def consumed(self, model: "PreTrainedModel", inputs: Mapping[str, Any]) -> dict[str, list[str]]:
        """By modality present in ``inputs``: the names that its encoder takes, its pixels first."""
        names = {}
        for modality in ("image", "video"):
            encoder = getattr(model.base_model, f"get_{modality}_features", None)
            if encoder is not None:
                known = list(inspect.signature(encoder).parameters)
                if inputs.get(known[0]) is not None:
                    names[modality] = [name for name in known if inputs.get(name) is not None]
        return names

    def encode(self, model: "PreTrainedModel", modality: str, arguments: Mapping[str, Any]) -> Any:
        """Run the vision encoder and the projector, as the model's own ``forward`` would."""
        encoder = getattr(model.base_model, f"get_{modality}_features")
        return encoder(**arguments, return_dict=True)

    def features(self, model: "PreTrainedModel", output: Any) -> list[Tensor]:
        """Split the encoder's output into pictures, (n_i, D) each, in the placeholders' order."""
        return list(output.pooler_output)

    def project(self, model: "PreTrainedModel") -> Any:
        """Return the module that takes encoder features, one row a token, to visual tokens."""
        if self.projector is None:
            raise LofiError(
                "prune_inputs: the pruner needs features, one a token, before the projector; this "
                f"projector merges patches ({model.config.model_type}): choose a pruner that "
                "reads tokens after it"
            )
        return model.base_model.get_submodule(self.projector)

    def encoder(self, model: "PreTrainedModel") -> Callable[[Tensor], Tensor]:
        """Return encoder and projector for images of any size: (B, 3, h, w) to (B, n, D)."""
        raise LofiError(
            "prune_inputs: the pruner encodes images in other sizes; this model's "
            f"({model.config.model_type}) takes one size, or prepares sizes in its processor: "
            "shrink the images before the processor instead"
        )

    def grids(
        self, model: "PreTrainedModel", modality: str, arguments: Mapping[str, Any]
    ) -> list[Grid] | None:
        """Each picture's grid of tokens, where the inputs tell; by default they don't."""
        return None

    def layouts(
        self,
        model: "PreTrainedModel",
        modality: str,
        arguments: Mapping[str, Any],
        features: Sequence[Tensor],
    ) -> list[Layout]:
        """Tell each picture's visual tokens from its separators, and give their grids."""
        told = self.grids(model, modality, arguments)
        grids: Sequence[Grid | None] = [None] * len(features) if told is None else told
        return [plain_layout(x, grid) for x, grid in zip(features, grids, strict=True)]

    def align(
        self, model: "PreTrainedModel", arguments: Mapping[str, Any], x: Tensor
    ) -> list[Tensor]:
        """Bring facts on the encoder's patches, (crops, n, C), into the order of each picture's."""
        return list(x)

    def positions(
        self, model: "PreTrainedModel", inputs: Mapping[str, Any], mask: Tensor
    ) -> Tensor:
        """Position ids of the unpruned sequence, (B, L), or (3, B, L) for M-RoPE."""
        return (mask.long().cumsum(-1) - 1).masked_fill(mask == 0, 0)

    def rebuild(self, output: Any, choices: Sequence[Any]) -> Any:
        """Wrap what was chosen of each picture, `Choice`, as ``output`` was."""
        pooled: Any = [choice.features for choice in choices]
        if isinstance(output.pooler_output, Tensor):
            # One "picture" a token: transformers' beam search splits this by row, however unequal
            # the pictures are, which a tensor of shape (pictures, tokens, D) could not even hold.
            pooled = torch.cat(pooled)[:, None]
        return type(output)(pooler_output=pooled)


def plain_layout(features: Tensor, grid: Grid | None = None) -> Layout:
    """Lay out a picture without separators, on ``grid``, or on a square if it fits one."""
    n = len(features)
    side = math.isqrt(n)
    if grid is not None and math.prod(grid) != n:
        raise LofiError(
            f"prune_inputs: {n} features for a picture of grid {grid}; expected {math.prod(grid)}: "
            "do processor and model belong together?"
        )
    shape = grid or ((side, side) if side * side == n else (n,))
    return Layout(torch.arange(n, device=features.device), (shape,))
