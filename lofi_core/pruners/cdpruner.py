r"""CDPruner: diverse tokens that matter for the question, by a conditional DPP (arXiv 2506.10967).

    r_i = -mean_t cos(e_i, t),              rel_i = (r_i - min r + 1e-6) / (max r - min r)
    K = diag(rel) cos(x_i, x_j) diag(rel),  S = greedy MAP of the DPP with kernel K

e_i are patches and t pieces of the question in CLIP's joint space, x projected tokens. The minus
sign is the authors' (for CLIP, patches relevant to a text are *less* similar to it), though the
paper's prose reads otherwise. Greedy MAP is a pivoted Cholesky of K.
"""

from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn.functional import normalize

from lofi_core.pruners.clip import ClipPruner
from lofi_core.pruners.greedy import GreedyPruner, pivoted_cholesky
from lofi_core.pruners.tokens import VisualTokens

__all__ = ["CDPruner"]


@dataclass(frozen=True, kw_only=True)
class CDPruner(ClipPruner, GreedyPruner, name="cdpruner"):
    """Keep tokens that span much and matter for the question."""

    paper = "2506.10967"
    reads = "projected tokens, CLIP embeddings of patches and question"
    follows = "code"
    deviations = (
        "relevance is scaled image by image, not over the batch; a kernel of rank below m is "
        "completed by relevance, where the code yields NaN; sign=1 is an option of ours"
    )

    def relevance(self, tokens: VisualTokens) -> Tensor:
        """Relevance of each token to the question, shape (B, N); 1 where all are alike."""
        patches, text = self.embeds(tokens)
        r = self.sign * (normalize(patches, dim=-1) @ normalize(text, dim=-1).mT).mean(-1)
        low, high = r.amin(-1, keepdim=True), r.amax(-1, keepdim=True)
        return torch.where(high > low, (r - low + 1e-6) / (high - low), 1)

    def ranking(self, tokens: VisualTokens, m: int) -> Tensor:
        """Return the first m tokens in the order of choice, shape (B, m)."""
        relevance = self.relevance(tokens).double()
        unit = normalize(tokens.projected.double(), dim=-1) * relevance[..., None]
        return pivoted_cholesky(unit @ unit.mT, m)
