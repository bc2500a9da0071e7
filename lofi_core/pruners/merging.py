"""Merging: kept tokens that stand for dropped ones too, and where they stand in the sequence.

A method that merges in the encoder's space returns, image by image, its tokens in its authors'
order and the place of each: the index of the patch whose position it takes. A token that is no
patch (CLS, a mean of what was dropped) takes the place of a dropped patch.
"""

from abc import abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor
from torch.nn.functional import normalize

from lofi_core.errors import LofiError
from lofi_core.pruners.base import Pruner
from lofi_core.pruners.tokens import Selection, VisualTokens

__all__ = [
    "Merged",
    "MergingPruner",
    "first_dropped",
    "group_means",
    "merge_into_nearest",
    "take",
]


@dataclass(frozen=True, eq=False)
class Merged:
    """What is left of one image.

    Parameters
    ----------
    tokens : Tensor, shape (m, C)
        In the authors' order, as the projector shall receive them.
    places : Tensor, shape (m,), int64
        Distinct indices in 0..N-1: whose place each token takes.
    """

    tokens: Tensor
    places: Tensor


@dataclass(frozen=True, kw_only=True)
class MergingPruner(Pruner):
    """A pruner that makes new tokens of the encoder's, and projects them.

    Parameters
    ----------
    order : {"spatial", "authors"}
        Give each token to its place; or fill the places in the order in which the authors' code
        lines the tokens up, which with ``positions="compact"`` is what their model receives.
    """

    order: Literal["spatial", "authors"] = "spatial"

    def __post_init__(self) -> None:
        """Refuse an unknown order."""
        super().__post_init__()
        if self.order not in ("spatial", "authors"):
            raise LofiError(
                f"{type(self).__name__}: order={self.order!r}; expected 'spatial' or 'authors'"
            )

    @abstractmethod
    def merge(self, tokens: VisualTokens) -> list[Merged]:
        """Merge each image's tokens."""

    def select(self, tokens: VisualTokens) -> Selection:
        """Merge, project, and put tokens in their places; with ``keep=1`` change nothing."""
        if self.keep == 1:
            B, N, _ = tokens.projected.shape
            return Selection(tuple(torch.arange(N, device=tokens.projected.device).expand(B, N)))
        project = tokens.require("project", type(self).__name__)
        images = self.merge(tokens)
        values = project(torch.cat([image.tokens for image in images]))
        values = values.to(tokens.projected.dtype).split([len(image.places) for image in images])
        kept, new = [], []
        for image, X in zip(images, values, strict=True):
            places, order = image.places.sort()
            kept.append(places)
            new.append(X[order] if self.order == "spatial" else X)
        return Selection(tuple(kept), tuple(new))


def merge_into_nearest(X: Tensor, kept: Tensor) -> tuple[Tensor, Tensor]:
    """Let each dropped token join the kept token of highest cosine similarity.

    Parameters
    ----------
    X : Tensor, shape (N, D)
        One image's tokens.
    kept : Tensor, shape (m,), int64
        Indices of the kept ones.

    Returns
    -------
    tuple of Tensors
        Sum of each kept token's group, itself included, (m, D) in float32 or float64; and the
        size of the group, (m,), int64.

    Examples
    --------
    >>> import torch
    >>> X = torch.tensor([[1.0, 0.0], [0.0, 1.0], [0.1, 2.0]])
    >>> merge_into_nearest(X, torch.tensor([0, 1]))[1]
    tensor([1, 2])
    """
    X = X.to(torch.promote_types(X.dtype, torch.float32))
    unit = normalize(X, dim=-1)
    nearest = (unit @ unit[kept].mT).argmax(-1)
    nearest[kept] = torch.arange(len(kept), device=X.device)
    sums = X.new_zeros(len(kept), X.shape[-1]).index_add_(0, nearest, X)
    return sums, nearest.bincount(minlength=len(kept))


def group_means(X: Tensor, kept: Sequence[Tensor], least: int = 1) -> tuple[Tensor, ...]:
    """Replace each kept token by the mean of itself and of the dropped ones nearest to it.

    Parameters
    ----------
    X : Tensor, shape (B, N, D)
        Tokens.
    kept : sequence of B Tensors, int64
        Indices of the kept ones, image by image.
    least : int
        Divide sums by at least so much.
    """
    new = []
    for tokens, chosen in zip(X, kept, strict=True):
        sums, counts = merge_into_nearest(tokens, chosen)
        new.append((sums / counts.clamp(min=least)[:, None]).to(X.dtype))
    return tuple(new)


def first_dropped(kept: Tensor, N: int, last: bool = False) -> Tensor:
    """Find, for each row of kept indices (..., m), the first (last) index that is not kept."""
    dropped = torch.ones(*kept.shape[:-1], N, dtype=torch.int8, device=kept.device)
    dropped.scatter_(-1, kept, 0)
    return N - 1 - dropped.flip(-1).argmax(-1) if last else dropped.argmax(-1)


def take(X: Tensor, index: Tensor) -> Tensor:
    """Gather rows of each image: (B, N, C) at (B, m) gives (B, m, C)."""
    return X.gather(1, index[..., None].expand(-1, -1, X.shape[-1]))
