r"""HiRED: a token budget for each crop of a high-resolution image (arXiv 2408.10945).

    s_i = sum_h A[h, CLS, i]   in the feature layer,      f_i the same in the first layer

One crop: keep the m tokens of highest s. An overview and P - 1 crops of its parts: the overview
gets a share alpha of the budget M; each crop gets of the rest in proportion to how many of the
overview's top N (1 - alpha) tokens by f lie in the crop's part. Within a crop, highest s.
"""

from dataclasses import dataclass

import torch
from torch import Tensor

from lofi_core.errors import LofiError
from lofi_core.pruners.base import FixedPruner
from lofi_core.pruners.budget import token_count
from lofi_core.pruners.tokens import Selection, VisualTokens

__all__ = ["HiRED"]


@dataclass(frozen=True, kw_only=True)
class HiRED(FixedPruner, name="hired"):
    """Keep attended tokens, with a budget for each crop.

    Parameters
    ----------
    alpha : float in [0, 1]
        The overview's share.
    bug_compatible : bool
        As the code has it: horizontal bands of the overview stand for the crops, whatever their
        arrangement, and rounding leaves some of the budget unused.
    """

    keep: float = 0.2
    alpha: float = 0.5
    bug_compatible: bool = False

    paper = "2408.10945"
    reads = "CLS attention of the first and of the feature layer"
    follows = "paper"
    deviations = (
        "crops are compared with their own parts of the overview, and the whole budget is used, "
        "unless bug_compatible; padding is cut off before, and separators stay"
    )

    def __post_init__(self) -> None:
        """Refuse a share that means nothing."""
        super().__post_init__()
        if not 0 <= self.alpha <= 1:
            raise LofiError(f"HiRED: alpha={self.alpha}; expected a share in [0, 1]")

    @property
    def needs(self) -> tuple[str, ...]:
        """Two layers' attention, and which crop each token is from."""
        return ("cls_attention", "first_cls_attention", "crops")

    def select(self, tokens: VisualTokens) -> Selection:
        """Share the budget out, and keep the most attended tokens of each crop."""
        scores = tokens.require("cls_attention", "HiRED").float().sum(1)
        order = scores.argsort(dim=-1, descending=True, stable=True)
        crops = tokens.require("crops", "HiRED")
        if not crops.any():
            return Selection.first(order, token_count(self.keep, order.shape[1]), scores)
        kept = []
        for b, budgets in enumerate(self.budgets(tokens)):
            ranked = crops[b][order[b]]
            member = ranked == torch.arange(len(budgets), device=crops.device)[:, None]
            within = (member.cumsum(1) <= budgets[:, None]) & member
            kept.append(order[b][within.any(0)].sort().values)
        return Selection(tuple(kept), scores=scores)

    def budgets(self, tokens: VisualTokens) -> list[Tensor]:
        """Share each image's budget out among its crops, the overview first: (P,) each."""
        first = tokens.require("first_cls_attention", "HiRED").float().sum(1)
        return [
            self._budgets(crops, f, tokens.grids)
            for crops, f in zip(tokens.require("crops", "HiRED"), first, strict=True)
        ]

    def _budgets(self, crops: Tensor, first: Tensor, grids: tuple[tuple[int, ...], ...]) -> Tensor:
        sizes = crops.bincount()
        N = int(sizes[0])
        total = token_count(self.keep, len(crops))
        overview = min(int(total * self.alpha), N)
        if len(sizes) == 1:
            return sizes.new_tensor([min(total, N)])
        parts = self._parts(crops, N, len(sizes) - 1, grids)
        f = first[crops == 0]
        top = f.argsort(descending=True, stable=True)[: int(N * (1 - self.alpha))]
        votes = parts[top].bincount(minlength=len(sizes) - 1)
        if self.bug_compatible:
            shares = (
                ((total - overview) * (votes / votes.sum().clamp(min=1)))
                .long()
                .clamp(max=sizes[1:])
            )
            return torch.cat((sizes.new_tensor([overview]), shares))
        dealt = _apportion(total - overview, votes.tolist(), sizes[1:].tolist())
        spare = total - overview - sum(dealt)  # when every crop is full
        return sizes.new_tensor([overview + spare, *dealt])

    def _parts(self, crops: Tensor, N: int, P: int, grids: tuple[tuple[int, ...], ...]) -> Tensor:
        """Tell which crop, 0..P-1, shows each token of the overview, (N,)."""
        places = torch.arange(N, device=crops.device)
        if self.bug_compatible or [len(grid) for grid in grids] != [2, 2]:
            return places * P // N
        (h, w), below = grids
        columns = len(crops[N:].view(below)[0].unique())
        row, column = places // w * (P // columns) // h, places % w * columns // w
        return row * columns + column


def _apportion(total: int, votes: list[int], caps: list[int]) -> list[int]:
    """Share out a total by votes, one at a time to the crop furthest below its due, within caps."""
    shares = [0] * len(votes)
    due = [max(v, 1e-9) for v in votes]
    for _ in range(min(total, sum(caps))):
        open_crops = [p for p in range(len(votes)) if shares[p] < caps[p]]
        p = min(open_crops, key=lambda p: (shares[p] + 0.5) / due[p])
        shares[p] += 1
    return shares
