r"""Deflated LoFi: leverage of what the chosen tokens do not span yet. Ours.

The m tokens of highest leverage may be m copies of one thing. Here each choice is deflated before
the next: with a kernel K,

    j = argmax_i K_ii - K_iS K_SS^-1 K_Si,

a pivoted Cholesky. "leverage": K = G (G + lambda I)^-1, whose diagonal are the ridge leverages;
"gram": K = G, whose residuals are the energies outside the span of the chosen tokens.
"""

from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor

from lofi_core.errors import LofiError
from lofi_core.leverage import ridge_projector
from lofi_core.pruners.greedy import GreedyPruner, pivoted_cholesky
from lofi_core.pruners.merging import group_means
from lofi_core.pruners.tokens import Selection, VisualTokens
from lofi_core.spectrum import unit_scale

__all__ = ["DeflatedLoFi"]


@dataclass(frozen=True, kw_only=True)
class DeflatedLoFi(GreedyPruner, name="deflated-lofi"):
    """Keep tokens one at a time by what the others do not span.

    Parameters
    ----------
    kernel : {"leverage", "gram"}
        Ridge leverages, or energies.
    ridge : float > 0
        lambda in units of the mean eigenvalue, ``tr(G) / min(N, D)``; for "leverage".
    center : bool
        Subtract the mean token first.
    merge : bool
        Let each dropped token join the kept one of highest cosine similarity, which becomes the
        mean of its group.

    Examples
    --------
    >>> import torch
    >>> X = torch.tensor([[[3.0, 0.0], [3.0, 0.0], [0.0, 1.0], [0.0, 0.9]]])
    >>> DeflatedLoFi(keep=0.5, center=False)(VisualTokens(X)).kept
    (tensor([0, 2]),)
    """

    kernel: Literal["leverage", "gram"] = "leverage"
    ridge: float = 1.0
    center: bool = True
    merge: bool = False

    follows = "ours: ridge leverage with deflation"

    def __post_init__(self) -> None:
        """Refuse an unknown kernel and a ridge that is not positive."""
        super().__post_init__()
        if self.kernel not in ("leverage", "gram") or not 0 < self.ridge < float("inf"):
            raise LofiError(
                f"DeflatedLoFi: kernel={self.kernel!r}, ridge={self.ridge}; expected 'leverage' or "
                "'gram', and a positive, finite ridge"
            )

    def ranking(self, tokens: VisualTokens, m: int) -> Tensor:
        """Return the first m tokens in the order of choice, shape (B, m)."""
        X = tokens.projected
        if self.kernel == "leverage":
            K = ridge_projector(X, self.ridge, relative=True, center=self.center)
        else:
            unit, _ = unit_scale(X, self.center, torch.float64)
            K = unit @ unit.mT
        return pivoted_cholesky(K, m)

    def select(self, tokens: VisualTokens) -> Selection:
        """Keep the first m of the ranking, and merge."""
        selection = super().select(tokens)
        if not self.merge:
            return selection
        return Selection(selection.kept, group_means(tokens.projected, selection.kept))
