r"""VisionZip: dominant tokens, and contextual ones that sum up the rest (arXiv 2412.04467).

Of m tokens, D are dominant: the CLS token and the D - 1 patches that it attends to most. Of the
other patches, C evenly spaced ones are targets; every other one joins the target of most similar
key (cosine; keys k averaged over heads),

    contextual_t = x_t + mean { x_i : t = argmax_t' cos(k_i, k_t') },

the second term being 0 for an empty group. A sum of two terms, about twice as long as a token: so
the authors' code has it.
"""

from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn.functional import normalize

from lofi_core.errors import LofiError
from lofi_core.pruners.base import FixedPruner
from lofi_core.pruners.budget import token_count
from lofi_core.pruners.merging import Merged, MergingPruner, first_dropped, take
from lofi_core.pruners.tokens import VisualTokens

__all__ = ["VisionZip", "VisionZipParts"]


@dataclass(frozen=True, eq=False)
class VisionZipParts:
    """What VisionZip chooses and makes, image by image.

    Parameters
    ----------
    dominant : Tensor, shape (B, D - 1), int64
        Dominant patches, ascending; the CLS token is not among them.
    targets : Tensor, shape (B, C), int64
        Patches that the others are merged into, ascending.
    counts : Tensor, shape (B, C), int64
        How many patches joined each target.
    tokens : Tensor, shape (B, D + C, C')
        CLS, dominant, contextual.
    """

    dominant: Tensor
    targets: Tensor
    counts: Tensor
    tokens: Tensor


@dataclass(frozen=True, kw_only=True)
class VisionZip(FixedPruner, MergingPruner, name="visionzip"):
    """Keep CLS and dominant patches, and merge the others into contextual tokens.

    Parameters
    ----------
    contextual : float in [0, 1)
        Share C / m. The authors take 10 of 64, 20 of 128, 30 of 192.
    """

    contextual: float = 5 / 32

    paper = "2412.04467"
    reads = "CLS attention and keys of the feature layer, encoded tokens with CLS"
    follows = "code"
    deviations = (
        "an image in several crops is one sequence of patches, with the CLS token of its first "
        "crop; patches in spatial order with contextual tokens at their targets and CLS at the "
        "first dropped patch, unless order='authors'"
    )

    def __post_init__(self) -> None:
        """Refuse a share that leaves no dominant token."""
        super().__post_init__()
        if not 0 <= self.contextual < 1:
            raise LofiError(
                f"VisionZip: contextual={self.contextual}; expected a share in [0, 1), e.g. 5/32"
            )

    @property
    def needs(self) -> tuple[str, ...]:
        """Attention, keys, features before the projector with CLS, and the projector."""
        return ("cls_attention", "keys", "encoded", "cls_encoded", "project")

    def parts(self, tokens: VisualTokens) -> VisionZipParts:
        """Choose and merge."""
        caller = "VisionZip"
        A, K = tokens.require("cls_attention", caller), tokens.require("keys", caller)
        X, cls = tokens.require("encoded", caller), tokens.require("cls_encoded", caller)[:, :1]
        B, N, width = X.shape
        m = token_count(self.keep, N)
        C = min(round(self.contextual * m), m - 1)
        order = A.float().sum(1).argsort(dim=-1, descending=True, stable=True)
        dominant = order[:, : m - C - 1].sort(-1).values
        rest = order[:, m - C - 1 :].sort(-1).values
        step = max(1, rest.shape[1] // max(1, C))
        chosen = torch.zeros(rest.shape[1], dtype=torch.bool, device=X.device)
        chosen[: C * step : step] = True
        targets, others = rest[:, chosen], rest[:, ~chosen]
        kept = torch.cat((cls, take(X, dominant)), 1)
        counts = targets.new_zeros(B, C)
        if C:
            unit = normalize(K.float(), dim=-1)
            nearest = (take(unit, others) @ take(unit, targets).mT).argmax(-1)
            counts.scatter_add_(1, nearest, torch.ones_like(nearest))
            sums = X.new_zeros(B, C, width, dtype=torch.float32)
            index = nearest[..., None].expand(-1, -1, width)
            sums.scatter_add_(1, index, take(X, others).float())
            means = sums / counts.clamp(min=1)[..., None]
            kept = torch.cat((kept, take(X, targets) + means.to(X.dtype)), 1)
        return VisionZipParts(dominant, targets, counts, kept)

    def merge(self, tokens: VisualTokens) -> list[Merged]:
        """Give CLS, dominant and contextual tokens their places."""
        parts = self.parts(tokens)
        patches = torch.cat((parts.dominant, parts.targets), 1)
        cls = first_dropped(patches, tokens.projected.shape[1])
        places = torch.cat((cls[:, None], patches), 1)
        return [Merged(x, p) for x, p in zip(parts.tokens, places, strict=True)]
