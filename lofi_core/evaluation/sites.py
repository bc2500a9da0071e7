r"""What pruning does to a model's representations, site by site: spectra before and after.

A *site* is a place where tokens can be read: the encoder's output, the projector's, and what each
layer of the language model gives. With X (N x D) the tokens of the unpruned model at a site, Y
(m x D) those of the pruned one, X_c and Y_c the same about their own means::

    ipr, ipr_centered                 IPR of Y and of Y_c, energies s_i^2 / sum s^2
    amplitude_ipr, ..._centered       the same with weights s_i / sum s
    retained_energy                   ||X_c Q||_F^2 / ||X_c||_F^2,
                                      Q an orthonormal basis of the rows of Y_c
    subspace_distance                 sqrt(1 - ||V_k^T W_k||_F^2 / k), V_k and W_k the first k right
                                      singular vectors of X_c and Y_c; the cosines of the principal
                                      angles are the singular values of V_k^T W_k

`lofi_core.evaluation.states` reads the tokens off a model.
"""

from collections.abc import Sequence
from copy import copy
from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn.utils.rnn import pad_sequence

from lofi_core.errors import LofiError, check_tokens
from lofi_core.leverage import EnergyRank, RankRule
from lofi_core.spectrum import Spectrum, ipr, unit_scale

__all__ = ["IPRS", "SiteReference", "text_iprs"]

IPRS = ("ipr", "ipr_centered", "amplitude_ipr", "amplitude_ipr_centered")


@dataclass(frozen=True, eq=False)
class _Axes:
    """Singular values (B, r), descending, and right singular vectors (B, D, r), in float64.

    Through the Gram matrix of the smaller side: exact to the square root of float64's rounding,
    below which singular values are taken for zero, and their vectors are zero.
    """

    s: Tensor
    V: Tensor

    @classmethod
    def of(cls, X: Tensor, center: bool) -> "_Axes":
        unit = unit_scale(X, center)[0].double()
        wide = unit.shape[-2] <= unit.shape[-1]
        energies, U = torch.linalg.eigh(unit @ unit.mT if wide else unit.mT @ unit)
        energies, U = energies.flip(-1), U.flip(-1)
        floor = 1e-12 * energies[..., :1]
        energies = torch.where(energies > floor, energies, 0)
        s = energies.sqrt()
        V = (
            unit.mT @ U / torch.where(s > 0, s, torch.inf)[:, None]
            if wide
            else U * (s > 0)[:, None]
        )
        return cls(s, V)

    @property
    def amplitude_ipr(self) -> Tensor:
        return Spectrum(self.s, "amplitude").ipr.float()


class SiteReference:
    """The visual tokens of B images at one site of the unpruned model, to compare others with.

    Parameters
    ----------
    X : Tensor, shape (B, N, D)
        Tokens of the unpruned model.
    rank : RankRule
        Gives k of the subspaces from the singular values of X_c.

    Raises
    ------
    LofiError
        If tokens are refused by `check_tokens`, or are not (B, N, D).

    Examples
    --------
    >>> import torch
    >>> X = torch.tensor([[[4.0, 0.0], [-4.0, 0.0], [0.0, 1.0], [0.0, -1.0]]])
    >>> figures = SiteReference(X).figures(X[:, :2])
    >>> figures["retained_energy"], figures["subspace_distance"].round(decimals=6)
    (tensor([0.9412]), tensor([0.]))
    """

    def __init__(self, X: Tensor, rank: RankRule = EnergyRank(0.9)) -> None:
        _check(X, "SiteReference")
        self.shape = X.shape
        axes = _Axes.of(X, center=True)
        self.total = axes.s.square().sum(-1)  # (B,), energy of X_c
        self.k = rank(axes.s)  # (B,)
        self.first = axes.V * _leading(axes.V, self.k)
        self.weighted = axes.V * axes.s[:, None]  # X_c along its own axes

    def __getitem__(self, images: Sequence[int]) -> "SiteReference":
        """Return the reference for some of the images, in the order given."""
        part = copy(self)
        part.shape = torch.Size((len(images), *self.shape[1:]))
        for name in ("total", "k", "first", "weighted"):
            setattr(part, name, getattr(self, name)[images])
        return part

    def figures(self, Y: Tensor) -> dict[str, Tensor]:
        """Return the figures of the same images' tokens in a pruned model.

        Parameters
        ----------
        Y : Tensor, shape (B, m, D)
            Kept or merged tokens; m may be anything.

        Returns
        -------
        dict of str to Tensor, shape (B,), float32
            The four IPRs of Y, ``retained_energy`` and ``subspace_distance`` in [0, 1]. Where Y
            has fewer than k directions, those that it lacks count as lost; tokens X without any
            spread lose nothing.
        """
        _check(Y, "SiteReference.figures")
        if (len(Y), Y.shape[-1]) != (self.shape[0], self.shape[-1]):
            raise LofiError(
                f"SiteReference.figures: tokens of shape {tuple(Y.shape)}; expected (B, m, D) with "
                f"B and D of {tuple(self.shape)}"
            )
        axes = _Axes.of(Y, center=True)
        inside = (self.weighted.mT @ axes.V).square().sum((1, 2))
        shared = (self.first.mT @ (axes.V * _leading(axes.V, self.k))).square().sum((1, 2))
        lost = torch.where(self.k > 0, 1 - shared / self.k.clamp(min=1), 0)
        return {
            "ipr": ipr(Y).float(),
            "ipr_centered": ipr(Y, center=True).float(),
            "amplitude_ipr": _Axes.of(Y, center=False).amplitude_ipr,
            "amplitude_ipr_centered": axes.amplitude_ipr,
            "retained_energy": torch.where(self.total > 0, inside / self.total, 1)
            .clamp(0, 1)
            .float(),
            "subspace_distance": lost.clamp(0, 1).sqrt().float(),
        }


def _leading(V: Tensor, k: Tensor) -> Tensor:
    """Mask (B, 1, r) of the first k columns."""
    return (torch.arange(V.shape[-1], device=V.device) < k[:, None])[:, None]


def _check(tokens: Tensor, caller: str) -> None:
    check_tokens(tokens, caller)
    if tokens.ndim != 3:
        raise LofiError(f"{caller}: tokens of shape {tuple(tokens.shape)}; expected (B, N, D)")


def text_iprs(states: Sequence[Tensor]) -> Tensor:
    """Centred and uncentred IPR of several sets of tokens, all in two products.

    Parameters
    ----------
    states : sequence of Q Tensors, shape (L_q, D)
        Of any lengths.

    Returns
    -------
    Tensor, shape (Q, 2), float32
        ``ipr(X)`` and ``ipr(X, center=True)``.
    """
    padded = pad_sequence([x.double() for x in states], batch_first=True)
    centred = pad_sequence([x.double() - x.double().mean(0) for x in states], batch_first=True)
    return torch.stack((ipr(padded), ipr(centred)), -1).float()
