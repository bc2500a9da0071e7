r"""Ways to compute the diagonal of the projector onto the top-k left singular subspace.

    svd        U and s of X, in X's precision: the reference
    gram       eigenvectors of the smaller Gram matrix, in float64 (`lofi_core.eigenvectors`)
    gram32     the same in float32
    purify     no eigenvectors: the projector itself, by products in float32 (`lofi_core.subspaces`)
    subspace   the same, after subspace iteration has cut the problem down to 2 k + 16 dimensions

With T the smaller Gram matrix and P the projector onto its top k eigenvectors, the scores are the
diagonal of P itself if T = X X^T, and that of X P T^-1 X^T if T = X^T X.

What rounding does to them: an error E in T turns the subspace by at most 2 ||E|| / (s_k^2 -
s_{k+1}^2) (Davis & Kahan 1970), and no score moves by more than that. ||E|| is about eps s_1^2.
"""

from typing import Literal

import torch
from torch import Tensor

from lofi_core.eigenvectors import leading_eigenvectors
from lofi_core.errors import LofiError
from lofi_core.ranks import EffectiveRank, EnergyRank, RankRule
from lofi_core.scaling import ratio
from lofi_core.subspaces import ROUNDING, purify, subspace_iteration

__all__ = ["Method", "by_decomposition", "by_products", "fastest"]

Method = Literal["auto", "svd", "gram", "gram32", "subspace", "purify"]

_EPS = torch.finfo(torch.float32).eps


def fastest(X: Tensor, rank: int | RankRule) -> Method:
    """Name the method that "auto" takes, by device, shape and rank.

    On the CPU, by measurement (``benchmarks/results``): eigenvectors cost less than fifty products,
    and float32 about half of float64. On accelerators, by counting: an eigensolver makes the host
    wait, and products don't. float64 is taken for float64 tokens, for few tokens or channels, and
    where directions may count that float32 can't tell from rounding: a fraction of the energy close
    to 1, a large rank, rules not known here.

    Examples
    --------
    >>> import torch
    >>> fastest(torch.ones(144, 512), EnergyRank(0.9)), fastest(torch.ones(576, 1024), 32)
    ('gram', 'gram32')
    """
    n, cpu = min(X.shape[-2:]), X.device.type == "cpu"
    if X.dtype == torch.float64 or (n <= 256 and cpu):
        return "gram"
    few = isinstance(rank, int) and 16 * rank <= n
    # The last direction that EnergyRank counts has at least (1 - fraction) / n of the energy.
    faint = isinstance(rank, EnergyRank) and 1 - rank.fraction <= ROUNDING * n * _EPS
    rule = isinstance(rank, EnergyRank | EffectiveRank) and not faint
    if cpu:
        return "gram32" if few or rule else "gram"
    if few:
        return "subspace"
    return "purify" if rule or isinstance(rank, int) else "gram"


def by_decomposition(unit: Tensor, scale: Tensor, rule: RankRule, method: Method) -> Tensor:
    """Scores from singular vectors, for any rule; waits for the device.

    Directions with ``s_j <= floor * s_1`` are rounding and never count: ``max(N, D) * eps`` of the
    tokens, or what a product leaves of small singular values, if that is more.
    """
    N, D = unit.shape[-2:]
    floor = max(N, D) * torch.finfo(unit.dtype).eps

    def ranks(s: Tensor) -> Tensor:
        k = rule(s.to(unit.dtype) * scale[..., 0])  # rules see the singular values of X
        return torch.minimum(k, (s > floor * s[..., :1]).sum(-1))

    if method == "svd":
        U, s, _ = torch.linalg.svd(unit, full_matrices=False)
        k = ranks(s)
    else:
        A = unit.double() if method == "gram" else unit
        lost = max(N, D) * torch.finfo(A.dtype).eps if A.dtype == torch.float64 else ROUNDING * _EPS
        floor = max(floor, lost**0.5)
        U, s, k = leading_eigenvectors(A @ A.mT if N <= D else A.mT @ A, ranks)
        if N > D:
            U = A @ U / s[..., None, : U.shape[-1]]
    counts = torch.arange(U.shape[-1], device=U.device) < k[..., None]
    # where, not a product: beyond its rank an image's U may hold anything, also infinities
    return torch.where(counts[..., None, :], U, 0).square().sum(-1)


def by_products(unit: Tensor, rank: int | RankRule, method: Method) -> Tensor:
    """Scores from matrix products and Cholesky factors alone; doesn't wait for the device."""
    N, D = unit.shape[-2:]
    T, A = (unit @ unit.mT, None) if N <= D else (unit.mT @ unit, unit)
    if method == "subspace":
        if not isinstance(rank, int):
            raise LofiError(
                f"leverage_scores: method='subspace' with rank={rank}; expected an integer: for a "
                "rule, method='purify' or 'gram32'"
            )
        V = subspace_iteration(T, b=min(T.shape[-1], 2 * rank + 16))
        T, A = V.mT @ T @ V, V if A is None else A @ V
    P = purify(T, *_cut(T, rank))
    if A is None:
        return P.diagonal(dim1=-2, dim2=-1)
    if N > D:
        P = _divide(P, T)
    return (A @ P * A).sum(-1)


def _cut(T: Tensor, rank: int | RankRule) -> tuple[Tensor | None, float | None]:
    """Say where to cut a spectrum that nobody has seen: after k directions, or by energy."""
    match rank:
        case int():
            return torch.full(T.shape[:-2], rank, device=T.device), None
        case EnergyRank(fraction):
            return None, fraction
        case EffectiveRank(factor):
            trace = T.diagonal(dim1=-2, dim2=-1).sum(-1)
            k = factor * ratio(trace.square(), T.square().sum((-2, -1)))
            return k.round().clamp(1, T.shape[-1]), None
    raise LofiError(
        f"leverage_scores: method='purify' with rank={rank}; expected an integer, EnergyRank or "
        "EffectiveRank: other rules need the singular values, e.g. by method='gram32'"
    )


def _divide(P: Tensor, T: Tensor) -> Tensor:
    """Return P T^-1, with T's other eigenvalues made harmless: its Cholesky factor exists."""
    eye = torch.eye(T.shape[-1], dtype=T.dtype, device=T.device)
    norm = torch.linalg.matrix_norm(T, keepdim=True)
    inside = P @ T @ P + (eye - P) * torch.where(norm == 0, 1, norm)
    L, _ = torch.linalg.cholesky_ex((inside + inside.mT) / 2)
    return torch.cholesky_solve(P, L)
