"""What pruners need of CLIP that a vision-language model doesn't hold: its text side.

TRIM and CDPruner compare patches with the question in CLIP's joint space. The question's embedding
and the map of patches into that space come from the CLIP model that the vision tower was taken
from; both are given explicitly, and without them the pruners refuse to work.
"""

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from torch import Tensor

from lofi_core.errors import LofiError
from lofi_core.pruners.base import Pruner
from lofi_core.pruners.tokens import VisualTokens

if TYPE_CHECKING:
    from transformers import CLIPModel

__all__ = ["ClipPruner", "patch_embedder"]


def patch_embedder(clip: "CLIPModel") -> Callable[[Tensor], Tensor]:
    """Return the map of patch features into CLIP's joint space: layer norm, then projection."""
    return lambda x: clip.visual_projection(clip.vision_model.post_layernorm(x))


@dataclass(frozen=True, kw_only=True)
class ClipPruner(Pruner):
    """A pruner that compares patches with the question.

    Parameters
    ----------
    text_embeds : Tensor, shape (M, E) or (B, M, E)
        CLIP embeddings of the question, in M pieces of up to 77 tokens; one question for all images
        or one for each.
    embed : callable
        Maps features (B, N, C), as the projector receives them, to CLIP's joint space, (B, N, E):
        see `patch_embedder`.
    """

    text_embeds: Tensor | None = field(default=None, compare=False, repr=False)
    embed: Callable[[Tensor], Tensor] | None = field(default=None, compare=False, repr=False)

    @property
    def needs(self) -> tuple[str, ...]:
        """Features before the projector."""
        return ("encoded",)

    def embeds(self, tokens: VisualTokens) -> tuple[Tensor, Tensor]:
        """Embed patches and question in float32: (B, N, E) and (B, M, E).

        Raises
        ------
        LofiError
            If one of the two arguments is missing, or their shapes do not match.
        """
        caller = type(self).__name__
        if self.text_embeds is None or self.embed is None:
            raise LofiError(
                f"{caller}: text_embeds or embed is None; expected both, because the vision-"
                "language model lacks CLIP's text side: pass embeddings of the question, and "
                "lofi_core.pruners.clip.patch_embedder(clip) of the CLIP model it was built from"
            )
        patches = self.embed(tokens.require("encoded", caller)).float()
        text = self.text_embeds.to(patches)
        text = text if text.ndim == 3 else text[None]
        if (
            text.ndim != 3
            or len(text) not in (1, len(patches))
            or text.shape[2] != patches.shape[2]
        ):
            raise LofiError(
                f"{caller}: text_embeds of shape {tuple(self.text_embeds.shape)} for patches "
                f"embedded as {tuple(patches.shape)}; expected (M, E) or (B, M, E), same CLIP"
            )
        return patches, text.expand(len(patches), -1, -1)
