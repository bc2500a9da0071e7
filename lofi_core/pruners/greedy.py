r"""Greedy choice: one token at a time, given those chosen already. Two rules that share no code.

Pivoted Cholesky of a kernel K takes the token of largest residual, the part of K_ii that the chosen
set S doesn't span,

    j = argmax_i d_i,    d_i = K_ii - K_iS K_SS^-1 K_Si,

which is also the greedy maximum-a-posteriori estimate of a determinantal point process (Chen, Zhang
& Zhou, NeurIPS 2018): the determinant of K_SS grows by the factor d_j. Farthest-point traversal
takes the token whose nearest chosen one is farthest, j = argmax_i min_{s in S} D_is. Both orders
are nested: the first m tokens of a longer order are the order of length m.
"""

from abc import abstractmethod
from dataclasses import dataclass

import torch
from torch import Tensor

from lofi_core.pruners.base import Pruner
from lofi_core.pruners.budget import token_count
from lofi_core.pruners.tokens import Selection, VisualTokens

__all__ = ["GreedyPruner", "farthest_points", "pivoted_cholesky"]


def pivoted_cholesky(K: Tensor, m: int) -> Tensor:
    """Order m tokens by the residual of a kernel, in O(N m^2) an image.

    Parameters
    ----------
    K : Tensor, shape (B, N, N)
        Symmetric positive semidefinite kernels. Worked on in float64.
    m : int in [1, N]
        Tokens to order.

    Returns
    -------
    Tensor, shape (B, m), int64
        Indices in the order of choice. When the kernel is used up, residuals at most
        ``N * eps * max K_ii``, the rest follow by their own K_ii.

    Examples
    --------
    >>> import torch
    >>> x = torch.tensor([[3.0, 0.0], [2.9, 0.0], [0.0, 1.0]])
    >>> pivoted_cholesky(x @ x.T[None], 3)
    tensor([[0, 2, 1]])
    """
    K = K.double()
    B, N, _ = K.shape
    residual = K.diagonal(dim1=-2, dim2=-1).clone()
    top = residual.amax(-1, keepdim=True)
    floor = N * torch.finfo(K.dtype).eps * top
    # In [-2, -1], below any residual: the order of those that no longer have one.
    exhausted = residual / top.clamp(min=torch.finfo(K.dtype).tiny) - 2
    factor = K.new_empty(B, m, N)
    order = torch.empty(B, m, dtype=torch.int64, device=K.device)
    for t in range(m):
        j = torch.where(residual > floor, residual, exhausted).argmax(-1, keepdim=True)
        order[:, t : t + 1] = j
        pivot = residual.gather(1, j)
        across = j[..., None].expand(B, t, 1)  # column j of the factor so far
        column = factor[:, :t].gather(2, across).mT
        row = torch.baddbmm(_row(K, j), column, factor[:, :t], alpha=-1)[:, 0]
        row *= torch.where(pivot > floor, pivot, torch.inf).rsqrt()
        factor[:, t] = row
        residual.addcmul_(row, row, value=-1)
        # A token that is taken is never chosen again.
        residual.scatter_(1, j, -torch.inf)
        exhausted.scatter_(1, j, -torch.inf)
    return order


def farthest_points(D: Tensor, m: int) -> Tensor:
    """Order m tokens so that each is as far as possible from those before it.

    Parameters
    ----------
    D : Tensor, shape (B, N, N)
        Symmetric distances.
    m : int in [1, N]
        Tokens to order.

    Returns
    -------
    Tensor, shape (B, m), int64
        The first is the token whose nearest neighbour is farthest; ties go to the earlier token.

    Examples
    --------
    >>> import torch
    >>> x = torch.tensor([0.0, 1.0, 5.0])
    >>> farthest_points((x[:, None] - x).abs()[None], 2)
    tensor([[2, 0]])
    """
    B, N, _ = D.shape
    order = torch.empty(B, m, dtype=torch.int64, device=D.device)
    itself = torch.eye(N, dtype=torch.bool, device=D.device)
    j = D.masked_fill(itself, torch.inf).amin(-1).argmax(-1, keepdim=True)
    nearest = D.new_full((B, N), torch.inf)
    for t in range(m):
        order[:, t : t + 1] = j
        # In place, and a token that is taken is never farthest again.
        torch.minimum(nearest, _row(D, j)[:, 0], out=nearest).scatter_(1, j, -torch.inf)
        j = nearest.argmax(-1, keepdim=True)
    return order


def _row(K: Tensor, j: Tensor) -> Tensor:
    """Row ``j[b]`` of each ``K[b]``: shape (B, 1, N)."""
    return K.gather(1, j[..., None].expand(-1, -1, K.shape[-1]))


@dataclass(frozen=True, kw_only=True)
class GreedyPruner(Pruner):
    """A pruner that chooses one token at a time, given those chosen already."""

    @abstractmethod
    def ranking(self, tokens: VisualTokens, m: int) -> Tensor:
        """Return the first m tokens in the order of choice, shape (B, m)."""

    def select(self, tokens: VisualTokens) -> Selection:
        """Keep the first m of the ranking; a rule in place of m sees the whole ranking."""
        N = tokens.projected.shape[1]
        if isinstance(self.keep, float | int):
            m = token_count(self.keep, N)
            return Selection.first(self.ranking(tokens, m), m)
        order = self.ranking(tokens, N)
        return Selection.first(order, self.budget(tokens, order))
