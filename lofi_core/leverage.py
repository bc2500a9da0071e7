r"""Leverage scores of visual tokens: how much a token alone holds up the leading directions.

With X = U diag(s) V^T, the leverage of token i at rank k is the squared norm of row i of U_k,

    l_i = ||U_k[i, :]||^2 = (U_k U_k^T)_ii,                                   sum_i l_i = k,

the diagonal of the projector onto the top-k left singular subspace (the "hat matrix" of least
squares). The rank is not optional: for N <= D and full rank every token has leverage exactly 1
(centred: 1 - 1/N). A ridge makes the cut smooth,

    l_i(lambda) = (G (G + lambda I)^-1)_ii = sum_j U_ij^2 s_j^2 / (s_j^2 + lambda),

and their sum, the effective dimension, takes the place of k.

Mahoney & Drineas, PNAS 106(3), 2009 (rank k); Alaoui & Mahoney, NeurIPS 2015 (ridge).
"""

from dataclasses import dataclass
from operator import index
from typing import Literal, Protocol, SupportsIndex, get_args

import torch
from torch import Tensor

from lofi_core.errors import LofiError, check_tokens
from lofi_core.spectrum import Spectrum, unit_scale

__all__ = [
    "EffectiveRank",
    "EnergyRank",
    "Method",
    "RankRule",
    "effective_dimension",
    "leverage_scores",
    "ridge_kernel",
    "ridge_leverage_scores",
]

Method = Literal["auto", "svd", "gram"]


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


@torch.no_grad()
def leverage_scores(
    X: Tensor,
    rank: SupportsIndex | RankRule,
    method: Method = "svd",
    center: bool = False,
) -> Tensor:
    """Leverage of each token at rank k: ``l_i = ||U_k[i, :]||^2``.

    Parameters
    ----------
    X : Tensor, shape (..., N, D), any floating dtype
        Visual tokens, one a row.
    rank : int in [1, min(N, D)] or RankRule
        k, or a rule that chooses it image by image: `EnergyRank`, `EffectiveRank`, or your own.
    method : {"svd", "gram", "auto"}
        "svd": singular vectors of X, in X's precision: the reference. "gram": eigenvectors of the
        smaller Gram matrix in float64, faster, and what "auto" takes on every device.
    center : bool
        Subtract the mean token first.

    Returns
    -------
    Tensor, shape (..., N), float32 or float64
        In [0, 1], summing to k, or to the numerical rank if that is smaller: directions with
        ``s_j <= max(N, D) * eps * s_1`` (eps of float32, or of float64 if X is) hold nothing but
        rounding and never count. So a zero matrix has scores 0, a single non-zero token has 1.

    Raises
    ------
    LofiError
        If the tokens are not a finite floating tensor of shape (..., N, D), if an integer rank is
        outside [1, min(N, D)], or if ``method`` is unknown or can't follow the rule.

    Notes
    -----
    Scores depend on X only through the top-k left subspace, so they are defined where
    s_k > s_{k+1}; a tie is broken by the solver. An error E of the Gram matrix turns the subspace
    by at most 2 ||E|| / (s_k^2 - s_{k+1}^2) (Davis & Kahan 1970), and ||E|| is about eps s_1^2.
    With ``gap = (s_k^2 - s_{k+1}^2) / s_1^2``, a score of "gram" is off by ``n eps64 / gap``, also
    where one token is a million times as long as the others. The Gram matrix sees singular values
    down to ``sqrt(n eps64) s_1``, n = max(N, D); weaker directions don't count. Both make the host
    wait for an accelerator. No gradients.

    Examples
    --------
    >>> import torch
    >>> X = torch.tensor([[3.0, 0.0], [0.0, 1.0], [0.0, 1.0]])
    >>> leverage_scores(X, rank=2)
    tensor([1.0000, 0.5000, 0.5000])
    """
    if method not in get_args(Method):
        raise LofiError(f"leverage_scores: method={method!r}; expected one of {get_args(Method)}")
    check_tokens(X, "leverage_scores", waits=True)
    rule = rank if callable(rank) else _fixed(_checked(rank, X))
    dtype = torch.promote_types(X.dtype, torch.float32)
    # float64 before the mean is subtracted: beside a massive token, float32 would blur the others.
    unit, scale = unit_scale(X if method == "svd" else X.double(), center)
    N, D = unit.shape[-2:]
    floor = max(N, D) * torch.finfo(dtype).eps
    if method == "svd":
        U, s, _ = torch.linalg.svd(unit, full_matrices=False)
    else:
        A = unit
        floor = (max(N, D) * torch.finfo(A.dtype).eps) ** 0.5
        eigenvalues, vectors = torch.linalg.eigh(A @ A.mT if N <= D else A.mT @ A)
        U, s = vectors.flip(-1), eigenvalues.flip(-1).clamp(min=0).sqrt()
        if N > D:  # the eigenvectors are V; U = A V diag(s)^-1
            U = A @ U / s[..., None, :]
    # Rules see the singular values of X. They may exceed float32, as X times a large scale does.
    k = rule(s.double() * scale[..., 0].double())
    k = torch.minimum(k, (s > floor * s[..., :1]).sum(-1))
    counts = torch.arange(U.shape[-1], device=U.device) < k[..., None]
    # where, not a product: beyond its rank an image's U may hold anything, also infinities
    scores = torch.where(counts[..., None, :], U, 0).square().sum(-1)
    return scores.clamp(0, 1).to(dtype)


@torch.no_grad()
def ridge_leverage_scores(
    X: Tensor, ridge: float | Tensor, relative: bool = False, center: bool = False
) -> Tensor:
    """Ridge leverage of each token: ``diag(G (G + lambda I)^-1)``, a smooth rank.

    Parameters
    ----------
    X : Tensor, shape (..., N, D), any floating dtype
        Visual tokens, one a row. Worked on in float64.
    ridge : float > 0, or Tensor of shape (...)
        lambda, in units of squared singular values; a tensor gives each image its own.
    relative : bool
        Measure ``ridge`` in units of the mean eigenvalue, ``tr(G) / min(N, D)``, image by image:
        the scores then do not depend on the scale of X.
    center : bool
        Subtract the mean token first.

    Returns
    -------
    Tensor, shape (..., N), float32 or float64
        In [0, 1], summing to `effective_dimension`. Zero for a zero matrix.

    Raises
    ------
    LofiError
        If the tokens are refused by `check_tokens`, or the ridge is not positive.

    Notes
    -----
    By the eigenvalues of the smaller Gram matrix, in float64. Directions whose eigenvalue is below
    ``max(N, D) * eps * s_1^2``, eps of float64, are rounding and don't count, so that a ridge of
    almost nothing gives leverage at the numerical rank. No gradients.

    Examples
    --------
    >>> import torch
    >>> ridge_leverage_scores(torch.diag(torch.tensor([3.0, 1.0])), ridge=1.0)
    tensor([0.9000, 0.5000])
    """
    check_tokens(X, "ridge_leverage_scores")
    _check_ridge(ridge, X)
    unit, scale = unit_scale(X, center)
    A = unit.double()
    N, D = A.shape[-2:]
    eigenvalues, vectors = torch.linalg.eigh(A @ A.mT if N <= D else A.mT @ A)
    energy = eigenvalues.clamp(min=0)
    counts = energy > max(N, D) * torch.finfo(A.dtype).eps * energy[..., -1:]
    mean = energy.sum(-1) / min(N, D)
    lam = ridge * mean if relative else ridge / scale[..., 0, 0].double().square()
    whole = torch.where(counts, energy + lam[..., None], 1)
    if N <= D:  # (G (G + lambda I)^-1)_ii = sum_j U_ij^2 s_j^2 / (s_j^2 + lambda)
        factor = vectors * torch.where(counts, (energy / whole).sqrt(), 0)[..., None, :]
    else:  # the eigenvectors are V, and U s = A V
        factor = (A @ vectors) * torch.where(counts, whole.rsqrt(), 0)[..., None, :]
    return factor.square().sum(-1).clamp(0, 1).to(unit.dtype)


def ridge_kernel(unit: Tensor, ridge: float) -> Tensor:
    """Kernel whose diagonal are ridge leverages: ``G (G + lambda I)^-1``, by one Cholesky factor.

    Several times faster than eigenvectors, and as safe where the ridge is not tiny: the matrix that
    is factored has a condition of at most ``1 + min(N, D) / ridge``.

    Parameters
    ----------
    unit : Tensor, shape (..., N, D), float64
        Tokens of unit scale, see `lofi_core.spectrum.unit_scale`.
    ridge : float > 0
        lambda in units of the mean eigenvalue, ``tr(G) / min(N, D)``.

    Returns
    -------
    Tensor, shape (..., N, N), float64
    """
    N, D = unit.shape[-2:]
    T = unit @ unit.mT if N <= D else unit.mT @ unit
    lam = ridge * T.diagonal(dim1=-2, dim2=-1).sum(-1)[..., None, None] / min(N, D)
    lam = torch.where(lam > 0, lam, 1)
    eye = torch.eye(T.shape[-1], dtype=T.dtype, device=T.device)
    L, _ = torch.linalg.cholesky_ex(T + lam * eye)
    if N <= D:
        return eye - lam * torch.cholesky_inverse(L)
    Y = torch.linalg.solve_triangular(L, unit.mT, upper=False)
    return Y.mT @ Y


def effective_dimension(
    X: Tensor, ridge: float | Tensor, relative: bool = False, center: bool = False
) -> Tensor:
    """Count the directions that outweigh the ridge: ``sum_j s_j^2 / (s_j^2 + lambda)``.

    Parameters are those of `ridge_leverage_scores`, whose scores it sums.

    Returns
    -------
    Tensor, shape (...), float32 or float64
        In [0, rank of X].

    Examples
    --------
    >>> import torch
    >>> effective_dimension(torch.diag(torch.tensor([3.0, 1.0])), ridge=1.0)
    tensor(1.4000)
    """
    return ridge_leverage_scores(X, ridge, relative, center).sum(-1)


def _checked(rank: SupportsIndex, X: Tensor) -> int:
    """Refuse an integer rank that tokens of this shape can't have."""
    if isinstance(rank, bool) or not hasattr(rank, "__index__"):
        raise LofiError(
            f"leverage_scores: rank={rank!r}; expected an integer or a rule such as EnergyRank(0.9)"
        )
    (N, D), k = X.shape[-2:], index(rank)
    if not 1 <= k <= min(N, D):
        raise LofiError(
            f"leverage_scores: rank={k} for tokens of shape (..., {N}, {D}); expected 1 <= rank <= "
            f"min(N, D) = {min(N, D)}: lower it, or let a rule such as EnergyRank(0.9) choose"
        )
    return k


def _fixed(k: int) -> RankRule:
    """Turn an integer rank into the rule that gives it to every image."""
    return lambda s: torch.full(s.shape[:-1], k, device=s.device)


def _check_ridge(ridge: float | Tensor, X: Tensor) -> None:
    """Refuse a ridge that is not positive and finite (seen on the CPU only) or fits no batch."""
    if isinstance(ridge, Tensor):
        positive = ridge.device.type != "cpu" or bool(((ridge > 0) & ridge.isfinite()).all())
        if ridge.ndim and ridge.shape != X.shape[:-2]:
            raise LofiError(
                f"ridge_leverage_scores: ridge of shape {tuple(ridge.shape)} for tokens of shape "
                f"{tuple(X.shape)}; expected a number or shape {tuple(X.shape[:-2])}, one an image"
            )
    else:
        positive = 0 < ridge < float("inf")
    if not positive:
        raise LofiError(
            f"ridge_leverage_scores: ridge={ridge}; expected a positive, finite number: for scores "
            "without a ridge use leverage_scores"
        )
