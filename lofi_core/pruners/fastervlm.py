r"""FasterVLM: keep the patches that the CLS token attends to (arXiv 2412.01818v1).

s_i = mean_h A[h, CLS, i],    A: attention of the encoder layer that gives the features
"""

from dataclasses import dataclass

from torch import Tensor

from lofi_core.pruners.base import ScorePruner
from lofi_core.pruners.tokens import VisualTokens

__all__ = ["FasterVLM"]


@dataclass(frozen=True, kw_only=True)
class FasterVLM(ScorePruner, name="fastervlm"):
    """Keep the tokens of highest CLS attention, averaged over heads.

    Examples
    --------
    >>> import torch
    >>> A = torch.tensor([[[0.1, 0.5, 0.2], [0.1, 0.1, 0.3]]])
    >>> FasterVLM(keep=2 / 3)(VisualTokens(torch.ones(1, 3, 4), cls_attention=A)).kept
    (tensor([1, 2]),)
    """

    paper = "2412.01818v1"
    reads = "CLS attention of the feature layer"
    follows = "paper and code"
    deviations = "attention stays in float32, where the code rounds it to the image's dtype"

    @property
    def needs(self) -> tuple[str, ...]:
        """The CLS token's attention."""
        return ("cls_attention",)

    def scores(self, tokens: VisualTokens) -> Tensor:
        """Mean attention over heads, shape (B, N)."""
        return tokens.require("cls_attention", "FasterVLM").float().mean(1)
