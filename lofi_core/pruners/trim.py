r"""TRIM: tokens that matter for the question, and the mean of the others (arXiv 2409.10994).

    s = softmax(-z),    z_i = e_i . t  (not normalised),    S = the T tokens of highest s

followed by the mean of all dropped features. e_i are patches and t the question in CLIP's joint
space. The minus sign is the authors'. Without a budget, T is the number of outliers of s.
"""

from dataclasses import dataclass

import torch
from torch import Tensor

from lofi_core.errors import LofiError
from lofi_core.pruners.budget import IPRBudget, OutlierBudget, token_count
from lofi_core.pruners.clip import ClipPruner
from lofi_core.pruners.merging import Merged, MergingPruner, first_dropped
from lofi_core.pruners.tokens import VisualTokens

__all__ = ["TRIM"]


@dataclass(frozen=True, kw_only=True)
class TRIM(MergingPruner, ClipPruner, name="trim"):
    """Keep relevant tokens, and one for the rest.

    Parameters
    ----------
    keep : float in (0, 1] or OutlierBudget
        m = T + 1 counts the mean token; with the rule, T is what it counts.
    """

    keep: float | IPRBudget | OutlierBudget = OutlierBudget()

    paper = "2409.10994"
    reads = "encoded tokens, CLIP embeddings of patches and question"
    follows = "code, training-free"
    deviations = (
        "outliers are counted image by image, not over the batch; nothing is rounded to float16; "
        "tokens are ordered before the softmax, which may vanish; "
        "the mean token takes the place of the last dropped patch unless order='authors'; sign=1 "
        "is an option of ours"
    )

    @property
    def needs(self) -> tuple[str, ...]:
        """Features before the projector, and the projector."""
        return ("encoded", "project")

    def relevance(self, tokens: VisualTokens) -> Tensor:
        """Minus z, or z with ``sign=1``, shape (B, N)."""
        patches, text = self.embeds(tokens)
        if text.shape[1] != 1:
            raise LofiError(
                f"TRIM: the question in {text.shape[1]} pieces; expected one, cut off at 77 tokens"
            )
        return self.sign * (patches @ text.mT)[..., 0]

    def scores(self, tokens: VisualTokens) -> Tensor:
        """Relevance after softmax, shape (B, N), summing to 1."""
        return self.relevance(tokens).softmax(-1)

    def chosen(self, tokens: VisualTokens) -> list[Tensor]:
        """Indices of the T tokens kept as they are, ascending, image by image."""
        relevance = self.relevance(tokens)
        scores, N = relevance.softmax(-1), relevance.shape[1]
        if isinstance(self.keep, IPRBudget):
            raise LofiError(f"TRIM: keep={self.keep}; expected a fraction or an OutlierBudget")
        if isinstance(self.keep, OutlierBudget):
            # By way of the fraction, as the authors have it: its rounding can cost a token.
            counts = [int(N * (count / N)) for count in self.keep.counts(scores).tolist()]
        else:
            counts = [token_count(self.keep, N) - 1] * len(scores)
        # Not the softmax, which vanishes, and ties, where z spreads widely.
        order = relevance.argsort(dim=-1, descending=True, stable=True)
        return [row[:T].sort().values for row, T in zip(order, counts, strict=True)]

    def merge(self, tokens: VisualTokens) -> list[Merged]:
        """Append the mean of what was dropped."""
        images = []
        for X, kept in zip(tokens.require("encoded", "TRIM"), self.chosen(tokens), strict=True):
            dropped = torch.ones(len(X), dtype=torch.bool, device=X.device)
            dropped[kept] = False
            mean = X[dropped].float().mean(0, keepdim=True).to(X.dtype)
            place = first_dropped(kept, len(X), last=True)
            images.append(Merged(torch.cat((X[kept], mean)), torch.cat((kept, place[None]))))
        return images
