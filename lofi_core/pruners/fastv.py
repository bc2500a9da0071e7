r"""FastV: drop the tokens that the prompt's last token ignores (arXiv 2403.06764).

    s_j = mean_h A_{K-1}[h, last, j]

with A_{K-1} the attention of layer K - 1. The T visual tokens of highest s go on to layer K, all
other tokens too, in their order and at their original positions.
"""

from dataclasses import dataclass

from torch import Tensor

from lofi_core.pruners.inside import LayerView, OneStagePruner, Stage, top

__all__ = ["FastV"]


@dataclass(frozen=True, kw_only=True)
class FastV(OneStagePruner, name="fastv"):
    """Drop visual tokens once, by attention of the last token.

    See `OneStagePruner` for the layer K and the ratio R.
    """

    paper = "2403.06764"
    reads = "attention of the prompt's last token in layer K - 1"
    follows = "paper"
    deviations = "any batch size; layer K - 1 runs once, where the code with a cache runs it twice"

    def pick(self, view: LayerView, stage: Stage) -> tuple[Tensor, None]:
        """Choose by the last token's attention in the layer before."""
        row = view.previous(view.visual.new_tensor([len(view.hidden) - 1]))[:, 0]
        return self.choose(row, view.visual, stage.count), None

    def scores(self, row: Tensor, visual: Tensor) -> Tensor:
        """Score visual tokens by the last token's attention.

        Parameters
        ----------
        row : Tensor, shape (H, L)
            Attention of the last prompt token to all tokens, softmaxed.
        visual : Tensor, shape (n,), int64
            Where the visual tokens stand.

        Returns
        -------
        Tensor, shape (n,)
            Not normalised over the visual tokens.
        """
        return row.float().mean(0)[visual]

    def choose(self, row: Tensor, visual: Tensor, count: int) -> Tensor:
        """Choose ``count`` of the n visual tokens: indices in 0..n-1, ascending."""
        return top(self.scores(row, visual), count)
