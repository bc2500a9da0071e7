r"""ToMe: merge similar tokens by bipartite matching (arXiv 2210.09461).

One step halves the tokens into A (even places) and B (odd places), links each of A to its most
similar of B by the cosine of their keys k, and merges the r closest pairs, weighted by how many
patches each token stands for:

    b(a) = argmax_{b in B} cos(k_a, k_b),    y_b = sum_{group} n_i x_i / sum_{group} n_i

`match` and `merge_matched` are that step, as the authors run it between attention and MLP of every
encoder layer, followed by attention in proportion to size. `ToMe` repeats it on the encoder's
output, where any encoder can be pruned without being changed: our variant, not the authors' model.
"""

from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn.functional import normalize

from lofi_core.errors import LofiError
from lofi_core.pruners.base import FixedPruner
from lofi_core.pruners.budget import token_count
from lofi_core.pruners.merging import Merged, MergingPruner
from lofi_core.pruners.tokens import VisualTokens

__all__ = ["Matching", "ToMe", "match", "merge_matched"]


@dataclass(frozen=True, eq=False)
class Matching:
    """Which of n tokens merge into which, for each of B images.

    Parameters
    ----------
    unmerged : Tensor, shape (B, a), int64
        Even tokens that stay as they are, in the order of the output.
    source, target : Tensor, shape (B, r), int64
        Even tokens, most similar first, and the odd ones that they merge into.
    odd : Tensor, shape (B, n // 2), int64
        All odd tokens.
    """

    unmerged: Tensor
    source: Tensor
    target: Tensor
    odd: Tensor

    @property
    def places(self) -> Tensor:
        """Input token whose place each output token takes, shape (B, n - r)."""
        return torch.cat((self.unmerged, self.odd), -1)

    @property
    def groups(self) -> Tensor:
        """Row of the output that each input token ends in, shape (B, n)."""
        places = self.places
        groups = places.new_zeros(len(places), places.shape[1] + self.source.shape[1])
        rows = torch.arange(places.shape[1], device=places.device).expand_as(places)
        groups.scatter_(1, places, rows)
        return groups.scatter(1, self.source, groups.gather(1, self.target))


def match(metric: Tensor, r: int) -> Matching:
    """Pair the r even tokens that are closest to an odd one with it.

    Parameters
    ----------
    metric : Tensor, shape (B, n, d)
        What similarity is measured on: keys, averaged over heads.
    r : int >= 0
        Tokens to merge, at most n // 2. The even tokens left over come by descending similarity.
    """
    n = metric.shape[1]
    r = min(r, n // 2)
    unit = normalize(metric, dim=-1)
    similar = unit[:, ::2] @ unit[:, 1::2].mT
    best, partner = similar.max(-1)
    order = best.argsort(dim=-1, descending=True, stable=True)
    source, unmerged = order[:, :r], order[:, r:]
    odd = torch.arange(1, n, 2, device=metric.device).expand(len(metric), -1)
    return Matching(2 * unmerged, 2 * source, 2 * partner.gather(1, source) + 1, odd)


def merge_matched(
    x: Tensor, matching: Matching, size: Tensor | None = None
) -> tuple[Tensor, Tensor]:
    """Average each group, weighted by size.

    Parameters
    ----------
    x : Tensor, shape (B, n, C)
        Tokens.
    matching : Matching
        Of these tokens.
    size : Tensor, shape (B, n, 1), optional
        How many patches each stands for; 1 by default.

    Returns
    -------
    tuple of Tensors
        Tokens (B, n - r, C): the unmerged, then the odd ones; and their sizes, (B, n - r, 1).
    """
    size = x.new_ones(*x.shape[:2], 1) if size is None else size
    groups = matching.groups[..., None]
    sums = x.new_zeros(len(x), matching.places.shape[1], x.shape[2])
    sums.scatter_add_(1, groups.expand_as(x), x * size)
    sizes = x.new_zeros(*sums.shape[:2], 1).scatter_add_(1, groups, size)
    return sums / sizes, sizes


@dataclass(frozen=True, kw_only=True)
class ToMe(FixedPruner, MergingPruner, name="tome"):
    """Merge the encoder's tokens step by step until m are left.

    Parameters
    ----------
    r : int >= 1
        Tokens merged in one step.
    """

    r: int = 16

    paper = "2210.09461"
    reads = "keys of the feature layer, encoded tokens"
    follows = "code, for one step of matching and merging"
    deviations = (
        "our variant: steps run on the encoder's output instead of inside every layer, so there is "
        "no attention in proportion to size; merged keys are averaged as tokens are; tokens at the "
        "place of the one merged into, unless order='authors'"
    )

    def __post_init__(self) -> None:
        """Refuse steps that merge nothing."""
        super().__post_init__()
        if self.r < 1:
            raise LofiError(f"ToMe: r={self.r}; expected at least 1 token a step")

    @property
    def needs(self) -> tuple[str, ...]:
        """Keys, features before the projector, and the projector."""
        return ("keys", "encoded", "project")

    def merge(self, tokens: VisualTokens) -> list[Merged]:
        """Match and merge until m tokens are left."""
        x = tokens.require("encoded", "ToMe").float()
        keys = tokens.require("keys", "ToMe").float()
        B, N, _ = x.shape
        m = token_count(self.keep, N)
        size, places = x.new_ones(B, N, 1), torch.arange(N, device=x.device).expand(B, N)
        while places.shape[1] > m:
            matching = match(keys, min(self.r, places.shape[1] - m))
            places = places.gather(1, matching.places)
            keys, _ = merge_matched(keys, matching, size)
            x, size = merge_matched(x, matching, size)
        x = x.to(tokens.require("encoded", "ToMe").dtype)
        return [Merged(*image) for image in zip(x, places, strict=True)]
