"""Masks: which tokens stay, which attend to which, and the forms that attention back-ends take."""

import torch
from torch import Tensor

__all__ = ["additive", "causal_mask", "leave"]


def leave(stays: Tensor, among: Tensor, kept: Tensor) -> None:
    """Mark, in place, that of the places ``among`` only those at ``kept`` stay.

    Parameters
    ----------
    stays : Tensor, shape (n,), bool
        Changed at ``among`` alone.
    among : Tensor, shape (N,), int64
        Places in 0..n-1.
    kept : Tensor, shape (m,), int64
        Indices in 0..N-1.

    Examples
    --------
    >>> import torch
    >>> stays = torch.ones(5, dtype=torch.bool)
    >>> leave(stays, among=torch.tensor([1, 2, 3]), kept=torch.tensor([1]))
    >>> stays
    tensor([ True, False,  True, False,  True])
    """
    stays[among] = False
    stays[among[kept.to(among.device)]] = True


def additive(allowed: Tensor, dtype: torch.dtype) -> Tensor:
    """Return what to add to attention scores: 0 where ``allowed``, else the lowest finite number.

    Explicit ("eager") attention takes no booleans; SDPA takes both. A row that allows nothing would
    spread its attention over everything, so callers let every token see itself.
    """
    mask = torch.zeros(allowed.shape, dtype=dtype, device=allowed.device)
    return mask.masked_fill(~allowed, torch.finfo(dtype).min)


def causal_mask(columns: Tensor, hidden: Tensor, backend: str) -> Tensor | None:
    """Let the last tokens attend to all real ones up to themselves, in the back-end's form.

    Parameters
    ----------
    columns : Tensor, shape (B, K), bool
        Which keys are no padding.
    hidden : Tensor, shape (B, Q, D)
        The queries' hidden states.
    backend : str
        Name of transformers' attention implementation.
    """
    K, Q = columns.shape[1], hidden.shape[1]
    if "flash" in backend:
        return None if columns.all() else columns
    if backend == "sdpa" and columns.all() and Q in (1, K):
        return None
    upto = torch.ones(Q, K, dtype=torch.bool, device=hidden.device).tril(K - Q)
    itself = upto & ~upto.tril(K - Q - 1)
    allowed = ((upto & columns[:, None]) | itself)[:, None]  # padding sees itself
    return allowed if backend == "sdpa" else additive(allowed, hidden.dtype)
