"""What a pruner looks at, `VisualTokens`, and what it returns, a `Selection`."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from lofi_core.errors import LofiError

__all__ = ["Grid", "Selection", "VisualTokens", "check_selection"]

Grid = tuple[int, ...]


@dataclass(frozen=True, eq=False)
class VisualTokens:
    """The visual tokens of B images of N tokens each, and what the encoder knows about them.

    Parameters
    ----------
    projected : Tensor, shape (B, N, D)
        Tokens as the language model would receive them.
    encoded : Tensor, shape (B, N, C), optional
        The same tokens as the projector received them.
    cls_attention : Tensor, shape (B, H, N), optional
        Attention of the CLS token to the patches, by head, in the encoder layer that gives the
        features. The CLS token's attention to itself is left out, so rows sum to less than 1.
    first_cls_attention : Tensor, shape (B, H, N), optional
        The same in the encoder's first layer.
    last_cls_attention : Tensor, shape (B, N), optional
        The same in the encoder's last layer, with all heads taken as one wide head.
    keys : Tensor, shape (B, N, d), optional
        Keys of the layer that gives the features, averaged over heads.
    last_keys : Tensor, shape (B, N, C), optional
        Keys of the encoder's last layer, all heads side by side.
    cls_encoded : Tensor, shape (B, N, C), optional
        For each token the CLS token of its crop, in the layer that gives the features.
    crops : Tensor, shape (B, N), int64, optional
        Which of the image's crops each token is from; 0 is the overview.
    project : callable, optional
        The projector: tokens (..., C) as ``encoded`` to tokens (..., D) as ``projected``.
    pixels : Tensor, shape (B, 3, H, W), optional
        The images as the encoder received them, where it takes each in one piece.
    encode : callable, optional
        Encoder and projector: pixels (B, 3, h, w) to tokens (B, n, D) as ``projected``.
    grids : tuple of tuples of int
        Shapes whose sizes add up to N: ``((24, 24),)`` for one image in one piece, several for an
        image in crops, ``((T, h, w),)`` for a video; ``((N,),)`` where tokens have no grid.
    """

    projected: Tensor
    encoded: Tensor | None = None
    cls_attention: Tensor | None = None
    first_cls_attention: Tensor | None = None
    last_cls_attention: Tensor | None = None
    keys: Tensor | None = None
    last_keys: Tensor | None = None
    cls_encoded: Tensor | None = None
    crops: Tensor | None = None
    project: Callable[[Tensor], Tensor] | None = None
    pixels: Tensor | None = None
    encode: Callable[[Tensor], Tensor] | None = None
    grids: tuple[Grid, ...] = ()

    def require(self, name: str, caller: str) -> Any:
        """Return the optional field ``name``.

        Raises
        ------
        LofiError
            If the encoder did not provide it.
        """
        value = getattr(self, name)
        if value is None:
            raise LofiError(
                f"{caller}: needs VisualTokens.{name}, which was not given; expected it: "
                "through a model, declare the field in the pruner's `needs`"
            )
        return value


@dataclass(frozen=True, eq=False)
class Selection:
    """Which tokens stay, image by image.

    Parameters
    ----------
    kept : tuple of B Tensors, shape (m_b,), int64
        Indices in 0..N-1, strictly ascending: tokens stay in their original order.
    tokens : tuple of B Tensors, shape (m_b, D), optional
        What takes the kept tokens' places, for methods that merge; by default the tokens
        themselves.
    scores : Tensor, shape (B, N), optional
        What the choice was based on; higher is kept.
    """

    kept: tuple[Tensor, ...]
    tokens: tuple[Tensor, ...] | None = None
    scores: Tensor | None = None

    @classmethod
    def first(
        cls, order: Tensor, counts: int | Tensor, scores: Tensor | None = None
    ) -> "Selection":
        """Keep the first ``counts`` tokens of each image's order of preference, shape (B, N).

        Examples
        --------
        >>> import torch
        >>> Selection.first(torch.tensor([[3, 0, 2, 1]]), 2).kept
        (tensor([0, 3]),)
        """
        if isinstance(counts, int):
            return cls(order[:, :counts].sort(-1).values.unbind(), scores=scores)
        lengths = counts.tolist()
        kept = tuple(row[:m].sort().values for row, m in zip(order, lengths, strict=True))
        return cls(kept, scores=scores)


def check_selection(selection: Selection, X: Tensor, caller: str) -> None:
    """Refuse a selection that breaks its promise; waits for the device once.

    Raises
    ------
    LofiError
        If not one set of indices an image, ascending and in range, or tokens of other shapes.
    """
    B, N, D = X.shape
    lengths = [len(kept) for kept in selection.kept]
    if len(lengths) != B or 0 in lengths:
        raise LofiError(
            f"{caller}: kept {lengths} tokens; expected at least one of each of {B} images"
        )
    flat = torch.cat(selection.kept)
    image = torch.repeat_interleave(torch.tensor(lengths)).to(flat.device)
    if ((flat < 0) | (flat >= N)).any() or ((flat + image * N).diff() < 1).any():
        raise LofiError(
            f"{caller}: kept indices {[kept.tolist() for kept in selection.kept]}; expected them "
            f"strictly ascending, in 0..{N - 1}: sort them before returning"
        )
    for kept, tokens in zip(selection.kept, selection.tokens or (), strict=bool(selection.tokens)):
        if tokens.shape != (len(kept), D):
            raise LofiError(
                f"{caller}: tokens of shape {tuple(tokens.shape)} for {len(kept)} kept indices; "
                f"expected ({len(kept)}, {D})"
            )
