r"""LoFi on what enters a layer of the language model. Ours.

    l_i = ||U_k[i, :]||^2,    H = U diag(s) V^T,    H: hidden states of the visual tokens

The paper's summary speaks of "internal representations"; here they are those between two layers,
where visual tokens have seen those before them. Layers before the drop see every token, so at an
equal layer-averaged budget fewer tokens are left than before the model.
"""

from dataclasses import dataclass
from typing import SupportsIndex

from torch import Tensor

from lofi_core.leverage import EnergyRank, RankRule, leverage_scores
from lofi_core.pruners.inside import LayerView, OneStagePruner, Stage, top

__all__ = ["LoFiInside"]


@dataclass(frozen=True, kw_only=True)
class LoFiInside(OneStagePruner, name="lofi-inside"):
    """Keep the visual tokens of highest leverage before a layer.

    Parameters
    ----------
    rank : int or RankRule
        The rank k, see `lofi_core.leverage.leverage_scores`.
    center : bool
        Subtract the mean visual token first.
    """

    rank: SupportsIndex | RankRule = EnergyRank(0.9)
    center: bool = True

    reads = "hidden states of the visual tokens that enter layer K"
    follows = "ours: LoFi at another site"

    def pick(self, view: LayerView, stage: Stage) -> tuple[Tensor, None]:
        """Choose by the leverage of what enters the next layer."""
        H = view.hidden[view.visual]
        return top(leverage_scores(H, self.rank, "gram", self.center), stage.count), None
