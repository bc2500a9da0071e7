r"""LLaVA-PruMerge and PruMerge+: attended tokens that take up their neighbours (arXiv 2403.15388).

    a = softmax(q_CLS K^T / sqrt(C)),    the encoder's last layer, all heads taken as one

Centres are the outliers of a (PruMerge+: and a grid of others). Each centre i takes up its 32
nearest neighbours by key, chosen among all tokens, and one more token holds what was pruned:

    y_i = x_i + sum_{j in N(i)} a_j x_j,          extra = sum_{j pruned} a_j x_j

The weights are not normalised: neighbours add about 32 / N of the attention to a token that counts
1. In the authors' setting, N = 576, that is 6 %, and small; with N = 144 it is 22 %, and blurs
every token that is kept, however many are.
"""

from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn.functional import normalize

from lofi_core.errors import LofiError
from lofi_core.pruners.budget import IPRBudget, OutlierBudget, token_count
from lofi_core.pruners.merging import Merged, MergingPruner, first_dropped
from lofi_core.pruners.tokens import VisualTokens

__all__ = ["PruMerge", "PruMergePlus"]


@dataclass(frozen=True, kw_only=True)
class PruMerge(MergingPruner, name="prumerge"):
    """Keep the outliers of attention, with their neighbours added, and one token for the rest.

    Parameters
    ----------
    keep : float in (0, 1] or OutlierBudget
        The authors' rule, or a fraction: m = T + 1 counts the extra token. The latter is our
        variant.
    neighbours : int >= 1
        Tokens that each centre takes up: the authors' number, for 576 tokens an image. For encoders
        with fewer tokens, 32 N / 576 of them cover the same part of the image.
    """

    keep: float | IPRBudget | OutlierBudget = OutlierBudget()
    neighbours: int = 32

    paper = "2403.15388"
    reads = "queries and keys of the encoder's last layer, encoded tokens"
    follows = "code, training-free"
    deviations = (
        "outliers are counted image by image, not over the batch, and at least one is kept; a "
        "fixed budget is our variant; tokens in spatial order, with the extra one at the last "
        "dropped patch, unless order='authors'"
    )

    def __post_init__(self) -> None:
        """Refuse a budget that the method has no order of preference for."""
        super().__post_init__()
        if isinstance(self.keep, IPRBudget) or self.neighbours < 1:
            raise LofiError(
                f"{type(self).__name__}: keep={self.keep}, neighbours={self.neighbours}; expected "
                "a fraction or an OutlierBudget, and at least 1 neighbour"
            )

    @property
    def needs(self) -> tuple[str, ...]:
        """Attention and keys of the last layer, features before the projector, the projector."""
        return ("last_cls_attention", "last_keys", "encoded", "project")

    def centres(self, tokens: VisualTokens) -> list[Tensor]:
        """Choose the centres of each image, in the authors' order."""
        a = tokens.require("last_cls_attention", type(self).__name__)
        order = a.argsort(dim=-1, descending=True, stable=True)
        return [row[:T] for row, T in zip(order, self._attended(a), strict=True)]

    def _attended(self, a: Tensor) -> list[int]:
        """Count the centres chosen by attention, image by image."""
        N = a.shape[1]
        if isinstance(self.keep, OutlierBudget):
            # By way of the fraction, as the authors have it: its rounding can cost a token.
            return [max(1, int(N * (count / N))) for count in self.keep.counts(a).tolist()]
        return [token_count(float(self.keep), N) - 1] * len(a)  # type: ignore[arg-type]

    def merge(self, tokens: VisualTokens) -> list[Merged]:
        """Add neighbours to the centres, and append the rest."""
        caller = type(self).__name__
        a, X = tokens.require("last_cls_attention", caller), tokens.require("encoded", caller)
        unit = normalize(tokens.require("last_keys", caller).float(), dim=-1)
        centres = self.centres(tokens)
        return [self._merge(*image) for image in zip(X, a, unit, centres, strict=True)]

    def _merge(self, X: Tensor, a: Tensor, unit: Tensor, centres: Tensor) -> Merged:
        N, T = len(X), len(centres)
        similar = unit[centres] @ unit.mT
        similar.scatter_(1, centres[:, None], -torch.inf)
        near = similar.topk(min(self.neighbours, N - 1), dim=-1).indices
        weights = torch.zeros_like(similar).scatter_(1, near, a.to(similar)[near])
        weights.scatter_(1, centres[:, None], 1.0)
        places = centres
        if T < N:
            rest = a.to(similar).index_fill(0, centres, 0)
            weights = torch.cat((weights, rest[None]))
            places = torch.cat((centres, first_dropped(centres, N, last=True)[None]))
        return Merged((weights @ X.float()).to(X.dtype), places)


@dataclass(frozen=True, kw_only=True)
class PruMergePlus(PruMerge, name="prumerge+"):
    """PruMerge with further centres sampled on a grid, so that the whole image is seen.

    Parameters
    ----------
    attended : float in [0, 1]
        Share of the tokens chosen by attention, where ``keep`` is a fraction (our variant: the grid
        then fills the budget; on average, the authors' rules have about a quarter).
    bug_compatible : bool
        Never sample the last patch, as the code does.
    """

    attended: float = 0.25
    bug_compatible: bool = False

    deviations = PruMerge.deviations + (
        "; the grid may hold the last patch; ratios above 1/3 sample every patch, where the code "
        "stops with an error"
    )

    def _attended(self, a: Tensor) -> list[int]:
        counts = super()._attended(a)
        if isinstance(self.keep, OutlierBudget):
            return counts
        return [round(self.attended * count) for count in counts]

    def centres(self, tokens: VisualTokens) -> list[Tensor]:
        """Append a grid of the tokens not chosen yet: every g-th, ``g = int(int(N / T) / 3)``."""
        N = tokens.projected.shape[1]
        every = torch.arange(N, device=tokens.projected.device)
        images = []
        for chosen in super().centres(tokens):
            if isinstance(self.keep, OutlierBudget):
                step = max(1, int(int(1 / (len(chosen) / N)) / 3))
                grid = every[: N - self.bug_compatible : step]
                grid = grid[~torch.isin(grid, chosen)]
            else:
                free = every[~torch.isin(every, chosen)]
                fill = super()._attended(tokens.last_cls_attention[:1])[0] - len(chosen)  # type: ignore[index]
                grid = free[(2 * every[:fill] + 1) * len(free) // (2 * max(1, fill))]
            images.append(torch.cat((chosen, grid)))
        return images
