r"""Leverage scores of visual tokens: how much a token alone holds up the leading directions.

With X = U diag(s) V^T, the leverage of token i at rank k is the squared norm of row i of U_k,

    l_i = ||U_k[i, :]||^2 = (U_k U_k^T)_ii,                                   sum_i l_i = k,

the diagonal of the projector onto the top-k left singular subspace (the "hat matrix" of least
squares). The rank is not optional: for N <= D and full rank every token has leverage exactly 1
(centred: 1 - 1/N). A ridge makes the cut smooth: with G = X X^T,

    l_i(lambda) = (G (G + lambda I)^-1)_ii = sum_j U_ij^2 s_j^2 / (s_j^2 + lambda),

and their sum, the effective dimension, takes the place of k. What is public about LoFi does not say
how k is chosen; each rule here is a choice to study, with p_i = s_i^2 / sum_j s_j^2:

    energy fraction f:   k = min { k : sum_{i<=k} p_i >= f }
    effective rank c:    k = round(c / IPR),                         IPR = sum_i p_i^2

Everything is computed in float64. Mahoney & Drineas, PNAS 106(3), 2009 (rank k); Alaoui & Mahoney,
NeurIPS 2015 (ridge); Davis & Kahan, 1970 (error bounds).
"""

from dataclasses import dataclass
from operator import index
from typing import Literal, Protocol, SupportsIndex, get_args

import torch
from torch import Tensor

from lofi_core.errors import LofiError, check_tokens
from lofi_core.spectrum import Spectrum, rescaled, unit_scale

__all__ = [
    "EffectiveRank",
    "EnergyRank",
    "Method",
    "RankRule",
    "effective_dimension",
    "leverage_scores",
    "ridge_leverage_scores",
    "ridge_projector",
]

Method = Literal["auto", "svd", "gram"]

_EPS = torch.finfo(torch.float64).eps


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
    method: Method = "auto",
    center: bool = False,
) -> Tensor:
    """Leverage of each token at rank k: ``l_i = ||U_k[i, :]||^2``.

    Parameters
    ----------
    X : Tensor, shape (..., N, D), any floating dtype
        Visual tokens, one per row.
    rank : int in [1, min(N, D)] or RankRule
        k, or a rule that chooses it image by image: `EnergyRank`, `EffectiveRank`, or your own.
    method : {"auto", "svd", "gram"}
        "svd", the reference, decomposes X; "gram" the smaller of ``X X^T`` and ``X^T X``, several
        times faster. "auto" is "gram".
    center : bool
        Subtract the mean token first.

    Returns
    -------
    Tensor, shape (..., N), float32 or float64
        In [0, 1], summing to k, or to the numerical rank if that is smaller: directions with
        ``s_j <= sqrt(max(N, D) * eps) * s_1``, eps of float64, which is about 5e-7 for 1,024
        channels, are rounding to a Gram matrix and never count, whatever the method. So a zero
        matrix has scores 0, a single non-zero token has 1.

    Raises
    ------
    LofiError
        If the tokens are not a finite floating tensor of shape (..., N, D), if an integer rank is
        outside [1, min(N, D)], or if ``method`` is unknown.

    Notes
    -----
    Scores depend on X only through the top-k left subspace, so they are defined where
    s_k > s_{k+1}; the solver breaks a tie. With ``gap = (s_k^2 - s_{k+1}^2) / s_1^2``, rounding
    moves a score of "gram" by at most about ``max(N, D) * eps / gap``. `EnergyRank` seldom meets a
    small gap, since a token that dwarfs the others takes the rank down with it. A fixed rank does:
    beside a token 1e5 times as long as the others, use "svd". Either method makes the host wait for
    an accelerator. No gradients.

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
    rule = rank if callable(rank) else _fixed(rank, X)
    dtype = torch.promote_types(X.dtype, torch.float32)
    unit, scale = unit_scale(X, center, torch.float64)
    U, s = _left_vectors(unit, by_svd=method == "svd")
    k = rule(rescaled(s, scale[..., 0], dtype))
    counts = torch.arange(s.shape[-1], device=X.device) < k[..., None]
    return (U.square() @ counts[..., None].double())[..., 0].clamp(0, 1).to(dtype)


@torch.no_grad()
def ridge_leverage_scores(
    X: Tensor, ridge: float | Tensor, relative: bool = False, center: bool = False
) -> Tensor:
    """Ridge leverage of each token: ``diag(G (G + lambda I)^-1)``, a smooth rank.

    Parameters
    ----------
    X : Tensor, shape (..., N, D), any floating dtype
        Visual tokens, one per row.
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
        In [0, 1], summing to `effective_dimension`. Zero for a zero matrix. As the ridge goes to 0,
        the scores go to those of `leverage_scores` at full numerical rank.

    Raises
    ------
    LofiError
        If the tokens are refused by `check_tokens`, or the ridge is not positive.

    Notes
    -----
    A number of at least ``min(N, D) * sqrt(eps)`` mean eigenvalues, eps of float64, takes one
    Cholesky factor and does not wait for an accelerator; any other ridge takes an eigensolver,
    which does, and whose scores are exact however small the ridge. No gradients.

    Examples
    --------
    >>> import torch
    >>> ridge_leverage_scores(torch.diag(torch.tensor([3.0, 1.0])), ridge=1.0)
    tensor([0.9000, 0.5000])
    """
    left, right = _ridge_factors(X, ridge, relative, center, "ridge_leverage_scores")
    scores = torch.linalg.vecdot(left, right).clamp(0, 1)
    return scores.to(torch.promote_types(X.dtype, torch.float32))


@torch.no_grad()
def ridge_projector(
    X: Tensor, ridge: float | Tensor, relative: bool = False, center: bool = False
) -> Tensor:
    """Smooth projector ``G (G + lambda I)^-1``, shape (..., N, N), float64.

    Parameters and errors are those of `ridge_leverage_scores`, which are its diagonal.

    Examples
    --------
    >>> import torch
    >>> ridge_projector(torch.ones(2, 2), ridge=4.0)
    tensor([[0.2500, 0.2500],
            [0.2500, 0.2500]], dtype=torch.float64)
    """
    left, right = _ridge_factors(X, ridge, relative, center, "ridge_projector")
    return left @ right.mT


def effective_dimension(
    X: Tensor, ridge: float | Tensor, relative: bool = False, center: bool = False
) -> Tensor:
    """Count the directions that outweigh the ridge: ``sum_j s_j^2 / (s_j^2 + lambda)``.

    Parameters are those of `ridge_leverage_scores`, whose scores it sums; shape (...), in
    [0, rank of X].

    Examples
    --------
    >>> import torch
    >>> effective_dimension(torch.diag(torch.tensor([3.0, 1.0])), ridge=1.0)
    tensor(1.4000)
    """
    return ridge_leverage_scores(X, ridge, relative, center).sum(-1)


def _left_vectors(X: Tensor, by_svd: bool = False) -> tuple[Tensor, Tensor]:
    """Left singular vectors and values, descending; 0 beyond the numerical rank."""
    N, D = X.shape[-2:]
    if by_svd:
        U, s, _ = torch.linalg.svd(X, full_matrices=False)
    else:
        values, U = torch.linalg.eigh(X @ X.mT if N <= D else X.mT @ X)
        U, s = U.flip(-1), values.flip(-1).clamp(min=0).sqrt()
        if N > D:  # X v_j = s_j u_j: its length, not s_j, leaves weak directions of length one
            U = X @ U
            lengths = torch.linalg.vector_norm(U, dim=-2, keepdim=True)
            U /= torch.where(lengths == 0, 1, lengths)
    counts = s > (max(N, D) * _EPS) ** 0.5 * s[..., :1]
    return U.mul_(counts[..., None, :]), s * counts


def _ridge_factors(
    X: Tensor, ridge: float | Tensor, relative: bool, center: bool, caller: str
) -> tuple[Tensor, Tensor]:
    """Return A and B, each with N rows, such that A B^T = G (G + lambda I)^-1."""
    check_tokens(X, caller)
    _check_ridge(ridge, X, caller)
    X, scale = unit_scale(X, center, torch.float64)
    N, D = X.shape[-2:]
    small = min(N, D)
    lam = ridge / scale[..., 0, 0].square()
    if relative:
        lam = ridge * X.square().sum((-2, -1)) / small
    lam = torch.where(lam > 0, lam, torch.finfo(lam.dtype).tiny)[..., None, None]
    # Rounding of the Gram matrix moves a score by n eps s_1^2 / lambda.
    if not relative or isinstance(ridge, Tensor) or ridge < small * _EPS**0.5:
        U, s = _left_vectors(X)
        energies = s.square()[..., None, :]
        return U * (energies / (energies + lam)), U
    G = X @ X.mT if N <= D else X.mT @ X
    L, _ = torch.linalg.cholesky_ex(G + lam * torch.eye(small, dtype=G.dtype, device=G.device))
    if N <= D:
        return torch.cholesky_inverse(L), G
    # G (G + lambda I)^-1 = X (X^T X + lambda I)^-1 X^T
    Y = torch.linalg.solve_triangular(L, X.mT, upper=False).mT
    return Y, Y


def _fixed(rank: SupportsIndex, X: Tensor) -> RankRule:
    """Turn an integer rank into a rule; refuse one that tokens of this shape can't have."""
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
    return lambda s: torch.full(s.shape[:-1], k, device=s.device)


def _check_ridge(ridge: float | Tensor, X: Tensor, caller: str) -> None:
    """Refuse a ridge that is not positive and finite (seen on the CPU only) or fits no batch."""
    if isinstance(ridge, Tensor):
        positive = ridge.device.type != "cpu" or bool(((ridge > 0) & ridge.isfinite()).all())
        if ridge.ndim and ridge.shape != X.shape[:-2]:
            raise LofiError(
                f"{caller}: ridge of shape {tuple(ridge.shape)} for tokens of shape "
                f"{tuple(X.shape)}; expected a number or shape {tuple(X.shape[:-2])}, one per image"
            )
    else:
        positive = 0 < ridge < float("inf")
    if not positive:
        raise LofiError(
            f"{caller}: ridge={ridge}; expected a positive, finite number: for scores without a "
            "ridge use leverage_scores"
        )
