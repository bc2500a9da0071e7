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

from operator import index
from typing import SupportsIndex, get_args

import torch
from torch import Tensor

from lofi_core.errors import LofiError, check_tokens
from lofi_core.projectors import Method, by_decomposition, by_products, fastest
from lofi_core.ranks import RankRule
from lofi_core.scaling import unit_scale

__all__ = ["effective_dimension", "leverage_scores", "ridge_leverage_scores"]


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
    method : {"svd", "gram", "gram32", "subspace", "purify", "auto"}
        How, see `lofi_core.projectors`. "svd" is the reference; "gram" agrees with it to float32
        rounding, the others to the bounds below. "auto" takes the fastest for device and shape.
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
    s_k > s_{k+1}; a tie is broken by the solver, or shared by "subspace" and "purify". With
    ``gap = (s_k^2 - s_{k+1}^2) / s_1^2``, a score is off by at most about

    * "gram": ``eps64 / gap``; "gram32" and "purify": ``n eps32 / gap``, with n = max(N, D), while
      "purify" has steps enough: it separates gaps down to about 1e-5;
    * "subspace": besides, ``(s_{2k+17} / s_k)^16``: what eight sweeps leave of other directions.

    Products of float32 see singular values down to ``2e-3 s_1``, of float64 down to
    ``sqrt(n eps64) s_1``; weaker directions don't count. "svd", "gram" and "gram32" take any rule
    and make the host wait for a CUDA device. "purify" takes integers, `EnergyRank` and
    `EffectiveRank`, "subspace" integers, and neither waits. No gradients.

    Examples
    --------
    >>> import torch
    >>> X = torch.tensor([[3.0, 0.0], [0.0, 1.0], [0.0, 1.0]])
    >>> leverage_scores(X, rank=2)
    tensor([1.0000, 0.5000, 0.5000])
    """
    if method not in get_args(Method):
        raise LofiError(f"leverage_scores: method={method!r}; expected one of {get_args(Method)}")
    check_tokens(X, "leverage_scores", waits=method in ("svd", "gram", "gram32"))
    rank = rank if callable(rank) else _checked(rank, X)
    if method == "auto":
        method = fastest(X, rank)
    unit, scale = unit_scale(X, center)
    if method in ("subspace", "purify"):
        scores = by_products(unit, rank, method)
    else:
        rule = rank if callable(rank) else _fixed(rank)
        scores = by_decomposition(unit, scale, rule, method)
    return scores.clamp(0, 1).to(unit.dtype)


@torch.no_grad()
def ridge_leverage_scores(
    X: Tensor, ridge: float | Tensor, relative: bool = False, center: bool = False
) -> Tensor:
    """Ridge leverage of each token: ``diag(G (G + lambda I)^-1)``, a smooth rank, by one Cholesky.

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
    A ridge below ``max(N, D) * eps * tr(G)``, eps of float64, cannot be told from rounding and is
    raised to that. No wait for the device; no gradients. For ridge -> 0 use `leverage_scores`.

    Examples
    --------
    >>> import torch
    >>> ridge_leverage_scores(torch.diag(torch.tensor([3.0, 1.0])), ridge=1.0)
    tensor([0.9000, 0.5000])
    """
    check_tokens(X, "ridge_leverage_scores")
    _check_ridge(ridge, X)
    unit, scale = unit_scale(X, center)
    tokens = unit.double()
    N, D = tokens.shape[-2:]
    wide = N <= D
    G = tokens @ tokens.mT if wide else tokens.mT @ tokens
    trace = G.diagonal(dim1=-2, dim2=-1).sum(-1)
    lam = ridge * trace / min(N, D) if relative else ridge / scale[..., 0, 0].double().square()
    lam = lam.clamp(min=max(N, D) * torch.finfo(lam.dtype).eps * trace)
    lam = torch.where(trace == 0, 1, lam)
    eye = torch.eye(G.shape[-1], dtype=G.dtype, device=G.device)
    L, _ = torch.linalg.cholesky_ex(G + lam[..., None, None] * eye)
    if wide:
        scores = (torch.cholesky_inverse(L) * G).sum(-1)
    else:  # (G (G + lambda I)^-1)_ii = x_i^T (X^T X + lambda I)^-1 x_i
        Y = torch.linalg.solve_triangular(L, tokens.mT, upper=False)
        scores = torch.linalg.vector_norm(Y, dim=-2).square()
    return scores.clamp(0, 1).to(unit.dtype)


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
