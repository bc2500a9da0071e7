"""Variants of LoFi, one choice varied at a time; compared on the validation split."""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor

from lofi_core.leverage import EffectiveRank, EnergyRank
from lofi_core.pruners import (
    DeflatedLoFi,
    LoFi,
    Pruner,
    Random,
    Selection,
    VisualTokens,
    get_pruner,
)

__all__ = ["Compensated", "variants"]


@dataclass(frozen=True, kw_only=True)
class Compensated(Pruner):
    """Another pruner's choice, its tokens changed so as to make up for those that are gone.

    Parameters
    ----------
    chooser : str
        Registered name of the pruner that chooses.
    restore : {"energy", "covariance"}
        "energy": scale the kept tokens until their energies sum to what all tokens' sum to.
        "covariance": give them the mean and covariance of all tokens by the map that moves them
        least, the optimal transport between two Gaussians. Then IPR about the mean is restored too,
        but for the small ridge that stands in for directions which no kept token has.
    """

    chooser: str = "lofi"
    restore: Literal["energy", "covariance"] = "energy"

    def select(self, tokens: VisualTokens) -> Selection:
        """Choose, then change what was chosen."""
        kept = get_pruner(self.chooser, keep=self.keep)(tokens).kept
        change = _scaled if self.restore == "energy" else _moved
        images = zip(tokens.projected, kept, strict=True)
        return Selection(kept, tuple(change(X[S].double(), X.double()).to(X) for X, S in images))


def _scaled(kept: Tensor, X: Tensor) -> Tensor:
    return kept * (X.square().sum() / kept.square().sum()).sqrt()


def _moved(kept: Tensor, X: Tensor, ridge: float = 0.01) -> Tensor:
    """Apply A = C_S^-1/2 (C_S^1/2 C C_S^1/2)^1/2 C_S^-1/2, C_S and C being the covariances."""
    C = X.T.cov(correction=0)
    small = ridge * C.diagonal().mean() * torch.eye(len(C), dtype=C.dtype, device=C.device)
    root, inverse = _roots(kept.T.cov(correction=0) + small)
    A = inverse @ _roots(root @ (C + small) @ root)[0] @ inverse
    return X.mean(0) + (kept - kept.mean(0)) @ A


def _roots(C: Tensor) -> tuple[Tensor, Tensor]:
    """Return the square root of a positive definite matrix, and its inverse."""
    w, V = torch.linalg.eigh(C)
    return (V * w.sqrt()) @ V.T, (V / w.sqrt()) @ V.T


def variants(keep: float) -> Iterator[tuple[str, str, Pruner]]:
    """Axis, label and pruner of each variant."""
    yield "baseline", "lofi", LoFi(keep=keep)
    yield "baseline", "random", Random(keep=keep)
    yield "baseline", "divprune", get_pruner("divprune", keep=keep)
    for k in (4, 8, 16, 32, 64):
        yield "rank", f"k = {k}", LoFi(keep=keep, rank=k)
    for fraction in (0.5, 0.8, 0.99):
        yield "rank", f"{fraction:.0%} of the energy", LoFi(keep=keep, rank=EnergyRank(fraction))
    for factor in (1.0, 2.0):
        label = f"{factor:g} x effective rank"
        yield "rank", label, LoFi(keep=keep, rank=EffectiveRank(factor))
    yield "centring", "not centred, 90% of the energy", LoFi(keep=keep, center=False)
    yield "centring", "not centred, k = 16", LoFi(keep=keep, center=False, rank=16)
    yield "site", "encoder, 90% of the energy", LoFi(keep=keep, site="encoder")
    yield "site", "encoder, k = 16", LoFi(keep=keep, site="encoder", rank=16)
    for ridge in (0.1, 1.0, 10.0):
        yield "ridge", f"ridge {ridge:g}", LoFi(keep=keep, ridge=ridge)
    for ridge in (0.1, 1.0, 10.0):
        yield "deflation", f"deflated, ridge {ridge:g}", DeflatedLoFi(keep=keep, ridge=ridge)
    yield "deflation", "deflated, energies", DeflatedLoFi(keep=keep, kernel="gram")
    label = "deflated, energies, not centred"
    yield "deflation", label, DeflatedLoFi(keep=keep, kernel="gram", center=False)
    yield "merging", "merged", LoFi(keep=keep, merge=True)
    yield "merging", "deflated, ridge 1, merged", DeflatedLoFi(keep=keep, merge=True)
    label = "deflated, energies, merged"
    yield "merging", label, DeflatedLoFi(keep=keep, kernel="gram", merge=True)
    for restore in ("energy", "covariance"):
        for name, label in (("lofi", ""), ("deflated-lofi", "deflated, "), ("random", "random, ")):
            pruner = Compensated(keep=keep, chooser=name, restore=restore)
            yield "compensation", f"{label}{restore} restored", pruner
