"""What pruners need of CLIP that a vision-language model doesn't hold: its text side.

TRIM and CDPruner compare patches with the question in CLIP's joint space. The question's embedding
and the map of patches into that space come from the CLIP model that the vision tower was taken
from; both are given explicitly, and without them the pruners refuse to work.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from os import PathLike
from typing import TYPE_CHECKING, Any, Literal, TypeVar

import torch
from torch import Tensor

from lofi_core.errors import LofiError
from lofi_core.pruners.base import Pruner
from lofi_core.pruners.tokens import VisualTokens

if TYPE_CHECKING:
    from transformers import CLIPModel

__all__ = ["ClipPruner", "ClipText", "patch_embedder"]


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
    sign : {-1, 1}
        Of relevance. The authors' -1: patches of a CLIP that was trained on whole images are *less*
        similar to the text they are relevant to. Pass 1 for one whose patches learnt to match text,
        as the shipped model's did.
    """

    text_embeds: Tensor | None = field(default=None, compare=False, repr=False)
    embed: Callable[[Tensor], Tensor] | None = field(default=None, compare=False, repr=False)
    sign: Literal[-1, 1] = -1

    def __post_init__(self) -> None:
        """Refuse a sign that is none."""
        super().__post_init__()
        if self.sign not in (-1, 1):
            raise LofiError(f"{type(self).__name__}: sign={self.sign!r}; expected -1 or 1")

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
                "language model lacks CLIP's text side: ClipText.load(path).ask(pruner, questions) "
                "sets them, with the CLIP model that the vision tower was taken from"
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


P = TypeVar("P", bound=ClipPruner)


@dataclass(frozen=True, eq=False)
class ClipText:
    """The CLIP model that a vision tower was taken from, for its text side.

    Parameters
    ----------
    model : CLIPModel
        In evaluation mode.
    tokenizer
        Its own.

    Examples
    --------
    >>> from lofi_core.pruners import TRIM
    >>> from lofi_core.scene_vlm import CLIP_PATH
    >>> clip = ClipText.load(CLIP_PATH)
    >>> clip.ask(TRIM(keep=0.25, sign=1), ["What color is the circle ?"]).text_embeds.shape
    torch.Size([1, 1, 128])
    """

    model: "CLIPModel"
    tokenizer: Any

    @classmethod
    def load(cls, path: str | PathLike[str], device: str = "cpu") -> "ClipText":
        """Load from a folder or from the hub."""
        from transformers import AutoTokenizer, CLIPModel

        model: Any = CLIPModel.from_pretrained(path)
        return cls(model.to(device).eval(), AutoTokenizer.from_pretrained(path))

    @torch.no_grad()
    def embed(self, questions: Sequence[str]) -> Tensor:
        """Embed questions, each cut off where the text tower ends: (B, 1, E)."""
        longest = self.model.config.text_config.max_position_embeddings
        batch = self.tokenizer(
            list(questions),
            padding=True,
            padding_side="right",
            truncation=True,
            max_length=longest,
            return_tensors="pt",
        ).to(self.model.device)
        pooled = self.model.text_model(batch["input_ids"], batch["attention_mask"]).pooler_output
        return self.model.text_projection(pooled)[:, None]

    def ask(self, pruner: P, questions: Sequence[str]) -> P:
        """Complete a pruner for one question an image, in the images' order."""
        return replace(pruner, text_embeds=self.embed(questions), embed=patch_embedder(self.model))
