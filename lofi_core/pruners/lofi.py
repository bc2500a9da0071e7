r"""LoFi: keep the visual tokens of highest leverage (arXiv 2503.06794).

    l_i = ||U_k[i, :]||^2,    X = U diag(s) V^T,    S = the m tokens of highest l_i, in their order

The paper's summary fixes the score, not the rank, the centring, nor where X is read; each is a
parameter here, and its default is our choice:

* ``rank=EnergyRank(0.9)``: as many directions as hold 90 % of the energy, image by image. With a
  full rank every score would be 1.
* ``center=True``: visual tokens share a large mean, which alone can hold most of the energy and
  then decides the rank; about the mean, the rule measures what tells tokens apart.
* ``site="projector"``: what the language model receives. `lofi_core.pruners.lofi_inside.LoFiInside`
  reads what enters one of the language model's layers instead.

``ridge`` (a smooth rank) and ``merge`` (dropped tokens join their nearest kept one) are variants of
ours, off by default.
"""

from dataclasses import dataclass
from typing import Literal, SupportsIndex

from torch import Tensor

from lofi_core.errors import LofiError
from lofi_core.leverage import EnergyRank, Method, RankRule, leverage_scores, ridge_leverage_scores
from lofi_core.pruners.base import ScorePruner
from lofi_core.pruners.merging import group_means
from lofi_core.pruners.tokens import Selection, VisualTokens

__all__ = ["LoFi"]


@dataclass(frozen=True, kw_only=True)
class LoFi(ScorePruner, name="lofi"):
    """Keep the tokens of highest leverage.

    Parameters
    ----------
    keep : float in (0, 1] or IPRBudget
        A fraction, or ``IPRBudget(eps=0.1)`` for as many tokens as each image's IPR needs.
    rank : int or RankRule
        The rank k of the leverage scores, see `lofi_core.leverage.leverage_scores`.
    center : bool
        Subtract the mean token first.
    site : {"projector", "encoder"}
        Read the tokens as the language model or as the projector receives them.
    method : {"auto", "svd", "gram"}
        How leverage is computed, see `lofi_core.leverage.leverage_scores`.
    ridge : float > 0, optional
        Score by ridge leverage, ``diag(G (G + lambda I)^-1)``, in place of a rank; lambda in units
        of the mean eigenvalue.
    merge : bool
        Let each dropped token join the kept one of highest cosine similarity, which becomes the
        mean of its group.

    Examples
    --------
    >>> import torch
    >>> X = torch.tensor([[[1.0, 0.0], [0.0, 2.0], [1.0, 0.0], [1.0, 0.1]]])
    >>> LoFi(keep=0.5, rank=2, center=False)(VisualTokens(X)).kept
    (tensor([1, 3]),)
    """

    rank: SupportsIndex | RankRule = EnergyRank(0.9)
    center: bool = True
    site: Literal["projector", "encoder"] = "projector"
    method: Method = "auto"
    ridge: float | None = None
    merge: bool = False

    paper = "2503.06794"
    reads = "projected or encoded tokens"
    follows = "paper's abstract; rank rule, centring and site are our choices"

    def __post_init__(self) -> None:
        """Refuse an unknown site and a ridge that is not positive."""
        super().__post_init__()
        if self.site not in ("projector", "encoder"):
            raise LofiError(f"LoFi: site={self.site!r}; expected 'projector' or 'encoder'")
        if self.ridge is not None and not 0 < self.ridge < float("inf"):
            raise LofiError(
                f"LoFi: ridge={self.ridge}; expected a positive, finite number, or None"
            )

    @property
    def needs(self) -> tuple[str, ...]:
        """``encoded``, if the tokens are read before the projector."""
        return ("encoded",) if self.site == "encoder" else ()

    def scores(self, tokens: VisualTokens) -> Tensor:
        """Leverage at rank k, or ridge leverage, shape (B, N), in [0, 1]."""
        X = tokens.projected if self.site == "projector" else tokens.require("encoded", "LoFi")
        if self.ridge is not None:
            return ridge_leverage_scores(X, self.ridge, relative=True, center=self.center)
        return leverage_scores(X, self.rank, self.method, self.center)

    def select(self, tokens: VisualTokens) -> Selection:
        """Keep the m highest scores, and merge."""
        selection = super().select(tokens)
        if not self.merge:
            return selection
        means = group_means(tokens.projected, selection.kept)
        return Selection(selection.kept, means, selection.scores)
