r"""Rules that choose the rank k of a leverage score, image by image, from the singular values.

What is public about LoFi does not say how k is chosen; each rule here is a choice to study:

    energy fraction f:   k = min { k : sum_{i<=k} p_i >= f },        p_i = s_i^2 / sum_j s_j^2
    effective rank c:    k = round(c / IPR),                         IPR = sum_i p_i^2
"""

from dataclasses import dataclass
from typing import Protocol

import torch
from torch import Tensor

from lofi_core.errors import LofiError
from lofi_core.spectrum import Spectrum

__all__ = ["EffectiveRank", "EnergyRank", "RankRule"]


class RankRule(Protocol):
    """Anything that gives each image its rank k from its singular values.

    Called with ``s`` of shape (..., r), descending, it returns int64 ranks of shape (...).
    """

    def __call__(self, s: Tensor, /) -> Tensor:
        """Ranks, shape (...), of spectra of shape (..., r)."""
        ...


@dataclass(frozen=True)
class EnergyRank:
    """The smallest k whose leading directions hold the given fraction of the energy.

    Parameters
    ----------
    fraction : float in (0, 1]
        Of ``sum s_i^2``; 1 asks for every direction.

    Examples
    --------
    >>> import torch
    >>> EnergyRank(0.8)(torch.tensor([[3.0, 1.0, 0.1], [1.0, 1.0, 1.0]]))
    tensor([1, 3])
    """

    fraction: float

    def __post_init__(self) -> None:
        """Refuse a fraction outside (0, 1]."""
        if not 0 < self.fraction <= 1:
            raise LofiError(
                f"EnergyRank: fraction={self.fraction}; expected 0 < fraction <= 1, e.g. 0.9"
            )

    def __call__(self, s: Tensor, /) -> Tensor:
        """Ranks, shape (...), of spectra of shape (..., r)."""
        # Count the directions before which too much energy is still missing. Summing the tail, not
        # the head, keeps fraction=1 exact; the slack keeps rounding out of ties (flat spectra).
        missing = Spectrum(s).energies.double().flip(-1).cumsum(-1)
        slack = 1 + 16 * torch.finfo(s.dtype).eps
        return (missing > (1 - self.fraction) * slack).sum(-1)


@dataclass(frozen=True)
class EffectiveRank:
    """A multiple of the effective rank ``1 / IPR``, to the nearest whole number, at least 1.

    Parameters
    ----------
    factor : float > 0
        1 takes as many directions as share the energy.

    Examples
    --------
    >>> import torch
    >>> EffectiveRank(1.0)(torch.tensor([[1.0, 1.0, 1.0], [1.0, 0.0, 0.0]]))
    tensor([3, 1])
    """

    factor: float = 1.0

    def __post_init__(self) -> None:
        """Refuse a factor that is not positive and finite."""
        if not 0 < self.factor < float("inf"):
            raise LofiError(
                f"EffectiveRank: factor={self.factor}; expected a positive, finite number, e.g. 1.0"
            )

    def __call__(self, s: Tensor, /) -> Tensor:
        """Ranks, shape (...), of spectra of shape (..., r)."""
        ranks = (self.factor * Spectrum(s).effective_rank).round()
        return ranks.clamp(1, s.shape[-1]).long()
