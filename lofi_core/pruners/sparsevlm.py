r"""SparseVLM: tokens that the question's telling words attend to (arXiv 2410.04417).

Raters are the text tokens after the image that visual tokens are most like, by the language model's
input embeddings V (visual) and Q (text):

    m_j = mean_i softmax_j(v_i . q_j),    raters = { j : m_j > mean m }

After layers 2, 6 and 15, visual tokens are scored by what raters attend to in that layer,

    s_i = mean over raters and heads of A[h, rater, i].

Version 1.5 recycles: of the dropped tokens the best three tenths are clustered by density peaks
(DPC-KNN), and each cluster's mean is added after the kept ones. Version 2 ("SparseVLM+") divides A
by what position alone does to it,

    g(m, n) = 2 sum_j cos((m - n) theta_j) / sqrt(d),

takes the 14 heads that look at the image most, and recycles nothing.
"""

from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor

from lofi_core.errors import LofiError
from lofi_core.pruners.density_peaks import density_peaks
from lofi_core.pruners.inside import InsidePruner, LayerView, Stage, solve, top

__all__ = ["SparseVLM", "SparseVLMPlus", "position_prior"]


@dataclass(frozen=True, kw_only=True)
class SparseVLM(InsidePruner, name="sparsevlm"):
    """Drop visual tokens after three layers, and recycle some. Version 1.5.

    Parameters
    ----------
    retain : {192, 128, 96, 64}
        Which of the authors' lists of counts to take, for images of 576 tokens.
    after : tuple of int
        Layers on whose output it acts.
    """

    retain: int = 192
    after: tuple[int, int, int] = (2, 6, 15)

    paper = "2410.04417"
    reads = "input embeddings; attention of rater tokens in layers 2, 6 and 15"
    follows = "code, version 1.5"
    deviations = (
        "no random noise on densities (ties go to the earlier token); where no token is above the "
        "mean, all text tokens are raters; keep scales the authors' counts: our variant"
    )

    COUNTS: ClassVar[dict[int, tuple[int, int, int]]] = {
        192: (300, 200, 110),
        128: (303, 110, 36),
        96: (238, 48, 26),
        64: (66, 30, 17),
    }
    recycles: ClassVar[bool] = True
    renumbers = True

    def __post_init__(self) -> None:
        """Refuse a budget that the authors have no list for."""
        super().__post_init__()
        if self.retain not in self.COUNTS:
            raise LofiError(
                f"{type(self).__name__}: retain={self.retain}; expected one of {list(self.COUNTS)}"
            )

    def schedule(self, N: int, layers: int) -> list[Stage]:
        """Give what enters the layers after 2, 6 and 15, recycled tokens included."""

        def stages(x: float) -> list[Stage]:
            result, n = [], N
            for layer, count in zip(self.after, self.COUNTS[self.retain], strict=True):
                # 0 drops all, 1/2 is what the authors do, 1 drops nothing.
                wanted = 2 * x * count if x <= 0.5 else count + (2 * x - 1) * (N - count)
                kept = self.kept(round(wanted), n)
                merged = self.recycled(n - kept)[1] if self.recycles else 0
                n = kept + merged
                result.append(Stage(layer + 1, n, merged))
            return self.checked(result, layers)

        if self.keep is None:
            return stages(0.5)
        return solve(stages, self.keep, N, layers, type(self).__name__)

    def kept(self, count: int, n: int) -> int:
        """Tokens kept of n where the list says ``count``: at least one is dropped."""
        return max(0, min(count, n - 1))

    def recycled(self, dropped: int) -> tuple[int, int]:
        """Tokens recycled of those dropped, and clusters they make."""
        t = int(0.3 * dropped) + 1
        return t, int(t / 10) + 1

    def pick(self, view: LayerView, stage: Stage) -> tuple[Tensor, Tensor | None]:
        """Choose by the raters' attention in the layer before, and recycle."""
        if not len(view.after):
            raise LofiError(
                f"{type(self).__name__}: no text after the image; expected a question there, whose "
                "words rate the visual tokens"
            )
        raters = view.after[self.raters(*view.inputs)]
        scores = self.scores(view.previous(raters), view.visual, raters, view.positions)
        kept = self.choose(scores, stage.count - stage.merged)
        if not self.recycles:
            return kept, None
        dropped = torch.ones_like(scores, dtype=torch.bool)
        dropped[kept] = False
        return kept, self.recycle(view.hidden[view.visual[dropped]], scores[dropped])

    def raters(self, visual: Tensor, text: Tensor) -> Tensor:
        """Choose raters among the text tokens after the image: indices, ascending.

        Parameters
        ----------
        visual : Tensor, shape (n, D)
            Input embeddings of the visual tokens.
        text : Tensor, shape (M, D)
            Input embeddings of the tokens after them.
        """
        mean = (visual.float() @ text.float().mT).softmax(-1).mean(0)
        chosen = (mean > mean.mean()).nonzero()[:, 0]
        return chosen if len(chosen) else torch.arange(len(text), device=text.device)

    def scores(self, rows: Tensor, visual: Tensor, raters: Tensor, positions: Tensor) -> Tensor:
        """Score visual tokens.

        Parameters
        ----------
        rows : Tensor, shape (H, R, L)
            Attention of the raters to all tokens, softmaxed.
        visual : Tensor, shape (n,), int64
            Where the visual tokens stand.
        raters : Tensor, shape (R,), int64
            Where the raters stand.
        positions : Tensor, shape (L,)
            Position ids; for version 2.

        Returns
        -------
        Tensor, shape (n,)
        """
        return rows.float().mean((0, 1))[visual]

    def choose(self, scores: Tensor, count: int) -> Tensor:
        """Choose visual tokens by their scores: indices, ascending."""
        return top(scores, self.kept(count, len(scores)))

    def recycle(self, x: Tensor, scores: Tensor) -> Tensor:
        """Cluster the best of the dropped tokens: their sums over ``count + 1e-6``, (c, D).

        Parameters
        ----------
        x : Tensor, shape (n, D)
            Dropped tokens, as the layer gave them, in their order.
        scores : Tensor, shape (n,)
            Their scores.
        """
        t, c = self.recycled(len(x))
        x = x[scores.argsort(descending=True, stable=True)[:t]].float()
        cluster = density_peaks(x, c)
        sums = x.new_zeros(c, x.shape[1]).index_add_(0, cluster, x)
        return sums / (cluster.bincount(minlength=c)[:, None] + 1e-6)


@dataclass(frozen=True, kw_only=True)
class SparseVLMPlus(SparseVLM, name="sparsevlm+"):
    """Drop visual tokens after three layers, with position's part in attention removed. Version 2.

    Parameters
    ----------
    heads : int
        Heads that vote.
    base : float
        Of the rotary embedding.
    head_dim : int
        d; where the prior crosses zero (d = 32, say), scores mean nothing.
    """

    heads: int = 14
    base: float = 10000.0
    head_dim: int = 128

    follows = "code, version 2"
    deviations = SparseVLM.deviations.split("; ", 1)[1]

    COUNTS: ClassVar[dict[int, tuple[int, int, int]]] = {
        192: (300, 200, 118),
        128: (238, 108, 60),
        96: (246, 54, 28),
        64: (66, 34, 20),
    }
    recycles: ClassVar[bool] = False
    renumbers = False

    def scores(self, rows: Tensor, visual: Tensor, raters: Tensor, positions: Tensor) -> Tensor:
        """Score visual tokens by the heads that look at them most, position's part removed."""
        gap = positions[raters][:, None] - positions[visual]
        corrected = rows.float()[..., visual] / position_prior(gap, self.head_dim, self.base)
        looking = corrected.sum((1, 2)).argsort(descending=True, stable=True)[: self.heads]
        return corrected[looking].mean((0, 1))


def position_prior(gap: Tensor, head_dim: int, base: float = 10000.0) -> Tensor:
    """Product of two all-ones vectors after rotary embedding, over ``sqrt(d)``.

    Parameters
    ----------
    gap : Tensor, any shape
        Difference of the two positions.
    head_dim, base
        d, and the base of the rotary embedding.

    Examples
    --------
    >>> import torch
    >>> position_prior(torch.tensor(0), head_dim=64)
    tensor(8.)
    """
    theta = base ** (-torch.arange(0, head_dim, 2, dtype=torch.float64) / head_dim)
    angles = gap[..., None].double() * theta.to(gap.device)
    return (2 * angles.cos().sum(-1) * head_dim**-0.5).float()
