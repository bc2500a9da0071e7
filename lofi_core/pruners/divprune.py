r"""DivPrune: the most diverse tokens, by farthest-point traversal (arXiv 2503.02175).

    max over S of min_{i != j in S} (1 - cos(x_i, x_j)),

greedily: first the token whose nearest neighbour is farthest, then always the one farthest from all
chosen. x are the language model's input embeddings of the visual tokens.
"""

from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn.functional import normalize

from lofi_core.pruners.greedy import GreedyPruner, farthest_points
from lofi_core.pruners.tokens import VisualTokens

__all__ = ["DivPrune"]


@dataclass(frozen=True, kw_only=True)
class DivPrune(GreedyPruner, name="divprune"):
    """Keep tokens far from each other in cosine distance.

    Examples
    --------
    >>> import torch
    >>> X = torch.tensor([[[1.0, 0.0], [1.0, 0.1], [0.0, 1.0]]])
    >>> DivPrune(keep=2 / 3)(VisualTokens(X)).kept
    (tensor([0, 2]),)
    """

    keep: float = 0.098  # of 576, the authors' 56 tokens

    paper = "2503.02175"
    follows = "code"
    deviations = (
        "distances in float32, where half precision makes ties; a token is never chosen twice, as "
        "it may be in the code once only duplicates are left"
    )

    def ranking(self, tokens: VisualTokens, m: int) -> Tensor:
        """Return the first m tokens in the order of choice, shape (B, m)."""
        X = tokens.projected
        unit = normalize(X.to(torch.promote_types(X.dtype, torch.float32)), dim=-1)
        D = 1 - unit @ unit.mT
        return farthest_points((D + D.mT) / 2, m)  # products need not round symmetrically
