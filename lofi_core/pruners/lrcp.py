r"""LRCP: tokens that the leading principal directions do not explain (arXiv 2605.15621).

    s_i = ||(I - V_r V_r^T)(x_i - mean x)||^2,    V_r: first r right singular vectors

The opposite of leverage at rank r: a token scores by its energy *outside* the subspace. Each
dropped token joins the kept one of highest cosine similarity, which becomes its group's mean.
"""

from dataclasses import dataclass

import torch
from torch import Tensor

from lofi_core.errors import LofiError
from lofi_core.pruners.base import ScorePruner
from lofi_core.pruners.merging import group_means
from lofi_core.pruners.tokens import Selection, VisualTokens

__all__ = ["LRCP"]


@dataclass(frozen=True, kw_only=True)
class LRCP(ScorePruner, name="lrcp"):
    """Keep the tokens of largest residual energy.

    Parameters
    ----------
    rank : int in [0, min(N, D)]
        r, dimension of the subspace: 4 for LLaVA, 8 for Qwen in the port that we know.
    merge : bool
        Merge dropped tokens into kept ones.
    bug_compatible : bool
        Halve a kept token that nothing joins, as that port does.

    Examples
    --------
    >>> import torch
    >>> X = torch.tensor([[[4.0, 0.0], [-4.0, 0.0], [0.0, 1.0], [0.0, 0.0]]])
    >>> LRCP(keep=0.25, rank=1)(VisualTokens(X)).kept
    (tensor([2]),)
    """

    rank: int = 4
    merge: bool = True
    bug_compatible: bool = False

    paper = "2605.15621"
    follows = "the paper's abstract; merging as in a third party's port (no official code)"
    deviations = (
        "rank, merging and site are not confirmed by the paper; no second stage in the model"
    )

    def scores(self, tokens: VisualTokens) -> Tensor:
        """Residual energy, shape (B, N)."""
        X = tokens.projected.double()
        if not 0 <= self.rank <= min(X.shape[1:]):
            raise LofiError(
                f"LRCP: rank={self.rank} for tokens of shape {tuple(X.shape)}; expected "
                f"0 <= rank <= {min(X.shape[1:])}"
            )
        X = X - X.mean(1, keepdim=True)
        wide = X.shape[1] <= X.shape[2]
        _, vectors = torch.linalg.eigh(X @ X.mT if wide else X.mT @ X)  # ascending
        lead = vectors[..., vectors.shape[-1] - self.rank :]
        explained = lead @ (lead.mT @ X) if wide else X @ lead @ lead.mT
        return (X - explained).square().sum(-1).to(torch.float32)

    def select(self, tokens: VisualTokens) -> Selection:
        """Keep the highest scores, and merge."""
        selection = super().select(tokens)
        if not self.merge:
            return selection
        means = group_means(tokens.projected, selection.kept, least=1 + self.bug_compatible)
        return Selection(selection.kept, means, selection.scores)
