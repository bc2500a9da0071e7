r"""VisPruner: attended tokens, and diverse ones among the rest (arXiv 2412.01818v2).

Of m tokens, ``int(m r)`` are those of highest CLS attention. The others are what is left of the
residual list, in order of attention, after repeated thinning: split the list into its even and odd
entries E and O, and of E drop the (at most 8) tokens most similar to any of O,

    max_{b in O} cos(x_a, x_b),  a in E,    list <- [rest of E, least duplicated last ... , O]

so near-duplicates go first. x are the features that the projector reads.
"""

from dataclasses import dataclass

import torch
from torch import Tensor

from lofi_core.errors import LofiError
from lofi_core.pruners.base import FixedPruner
from lofi_core.pruners.budget import token_count
from lofi_core.pruners.merging import take
from lofi_core.pruners.tokens import Selection, VisualTokens

__all__ = ["VisPruner"]


@dataclass(frozen=True, kw_only=True)
class VisPruner(FixedPruner, name="vispruner"):
    """Keep attended tokens and diverse ones.

    Parameters
    ----------
    important : float in [0, 1]
        Share r of the kept tokens that are chosen by attention.
    step : int >= 1
        Tokens dropped at a time from the residual list.
    """

    important: float = 0.5
    step: int = 8

    paper = "2412.01818v2"
    reads = "CLS attention of the feature layer, encoded tokens"
    follows = "paper and code"
    deviations = (
        "lists of odd length are split with the extra token on the thinned side, where the code "
        "stops with an error"
    )

    def __post_init__(self) -> None:
        """Refuse shares and steps that mean nothing."""
        super().__post_init__()
        if not 0 <= self.important <= 1 or self.step < 1:
            raise LofiError(
                f"VisPruner: important={self.important}, step={self.step}; expected a share in "
                "[0, 1] and a step >= 1"
            )

    @property
    def needs(self) -> tuple[str, ...]:
        """The CLS token's attention, and the features before the projector."""
        return ("cls_attention", "encoded")

    def parts(self, tokens: VisualTokens) -> tuple[Tensor, Tensor]:
        """Choose the attended and the diverse tokens: (B, m_1) and (B, m_2), each ascending."""
        A, X = tokens.require("cls_attention", "VisPruner"), tokens.require("encoded", "VisPruner")
        order = A.float().mean(1).argsort(dim=-1, descending=True, stable=True)
        m = token_count(self.keep, order.shape[-1])
        attended, rest = order.tensor_split([int(m * self.important)], -1)
        target = m - attended.shape[-1]
        unit = torch.nn.functional.normalize(X.float(), dim=-1)
        while rest.shape[-1] > target > 0:
            rest = self._thin(unit, rest, target)
        return attended.sort(-1).values, rest[:, :target].sort(-1).values

    def _thin(self, unit: Tensor, rest: Tensor, target: int) -> Tensor:
        """Drop up to ``step`` tokens that have a near-duplicate."""
        even, odd = rest[:, ::2], rest[:, 1::2]
        closest = (take(unit, even) @ take(unit, odd).mT).max(-1).values
        order = closest.argsort(dim=-1, descending=True, stable=True)
        drop = min(self.step, rest.shape[-1] - target, even.shape[-1])
        return torch.cat((even.gather(1, order[:, drop:]), odd), -1)

    def select(self, tokens: VisualTokens) -> Selection:
        """Keep both parts."""
        return Selection(torch.cat(self.parts(tokens), -1).sort(-1).values.unbind())
