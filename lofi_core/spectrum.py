r"""How the energy of visual tokens is spread over directions: singular values, IPR and kin.

With X = U diag(s) V^T and energies p_i = s_i^2 / sum_j s_j^2, the inverse participation ratio is
IPR = sum_i p_i^2. Because the p_i are the eigenvalues of G = X X^T over their sum, it needs no SVD,

    IPR(X) = ||G||_F^2 / tr(G)^2,

and because both are sums over entries of G, the IPR of every nested prefix of an ordering of the
tokens follows from one product and prefix sums.

The *zero matrix* (with ``center=True`` also any set of equal tokens, hence any single token) has
no direction at all: its energies, IPR, effective rank, entropy and stable rank are 0 here. No other
matrix has IPR, effective rank or stable rank 0.
"""

from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor

from lofi_core.errors import LofiError, check_tokens

__all__ = ["Spectrum", "ipr", "ipr_path", "ratio", "rescaled", "spectrum", "unit_scale"]

Weights = Literal["energy", "amplitude"]

BLOCK = 512  # rows of G at a time in `ipr_path`: 10,000 tokens never need G as a whole


@dataclass(frozen=True, eq=False)
class Spectrum:
    """Singular values and what follows from them, for a matrix or a batch of matrices.

    Parameters
    ----------
    singular_values : Tensor, shape (..., r), descending, non-negative
        ``s``, with r = min(N, D).
    weights : {"energy", "amplitude"}
        What the distribution ``p`` weighs: ``s_i^2`` (default) or ``s_i``. It enters ``energies``
        and what is computed from them: ``ipr``, ``effective_rank``, ``entropy``.

    Examples
    --------
    >>> import torch
    >>> flat = Spectrum(torch.tensor([2.0, 2.0, 2.0, 2.0]))
    >>> flat.ipr.item(), flat.effective_rank.item(), flat.stable_rank.item()
    (0.25, 4.0, 4.0)
    """

    singular_values: Tensor
    weights: Weights = "energy"

    @property
    def energies(self) -> Tensor:
        """Energies ``p_i``, shape (..., r), descending, summing to 1 (0 for a zero matrix)."""
        s = self.singular_values
        p = ratio(s, s[..., :1])  # over the largest first: squares of tiny values vanish
        p = p.square() if self.weights == "energy" else p
        return p / p.sum(-1, keepdim=True).clamp(min=1)  # the sum is >= 1 unless the matrix is zero

    @property
    def ipr(self) -> Tensor:
        """Inverse participation ratio ``sum p_i^2``, shape (...), in [1/r, 1]."""
        return self.energies.square().sum(-1).clamp(max=1)

    @property
    def effective_rank(self) -> Tensor:
        """Participation ratio ``1 / IPR``, shape (...), in [1, r]."""
        return ratio(torch.ones_like(self.ipr), self.ipr)

    @property
    def entropy(self) -> Tensor:
        """Spectral entropy ``-sum p_i ln p_i`` in nats, shape (...), in [0, ln r]."""
        return -torch.xlogy(self.energies, self.energies).sum(-1)

    @property
    def stable_rank(self) -> Tensor:
        """``||X||_F^2 / ||X||_2^2``, shape (...), in [1, r]; the same for either ``weights``."""
        s = self.singular_values
        return ratio(s, s[..., :1]).square().sum(-1)


def spectrum(X: Tensor, center: bool = False, weights: Weights = "energy") -> Spectrum:
    """Spectrum of visual tokens: the singular values ``s`` of ``X = U diag(s) V^T``.

    Parameters
    ----------
    X : Tensor, shape (..., N, D), any floating dtype
        Visual tokens, one per row. float64 stays float64, all else is worked on in float32.
    center : bool
        Subtract the mean token first.
    weights : {"energy", "amplitude"}
        See `Spectrum`.

    Returns
    -------
    Spectrum
        With ``singular_values`` of shape (..., min(N, D)), in float64 if float32 can't hold them.

    Raises
    ------
    LofiError
        If the tokens are not a finite floating tensor of shape (..., N, D), or ``weights`` is
        unknown.

    Notes
    -----
    On CUDA the SVD makes the host wait for the device; `ipr` does not.

    Examples
    --------
    >>> import torch
    >>> s = spectrum(torch.diag(torch.tensor([4.0, 3.0])))
    >>> s.singular_values, s.energies
    (tensor([4., 3.]), tensor([0.6400, 0.3600]))
    """
    check_tokens(X, "spectrum", waits=True)
    if weights not in ("energy", "amplitude"):
        raise LofiError(f"spectrum: weights={weights!r}; expected 'energy' or 'amplitude'")
    unit, scale = unit_scale(X, center)
    return Spectrum(rescaled(torch.linalg.svdvals(unit), scale[..., 0], unit.dtype), weights)


def ipr(X: Tensor, center: bool = False) -> Tensor:
    """Inverse participation ratio without an SVD: ``||G||_F^2 / tr(G)^2``.

    ``G`` is the Gram matrix of the smaller side, ``X X^T`` or ``X^T X``: both have the same trace
    and the same Frobenius norm. One matrix product, no wait for the device, and the result does not
    depend on the scale of X.

    Parameters
    ----------
    X : Tensor, shape (..., N, D), any floating dtype
        Visual tokens, one per row. float64 stays float64, all else is accumulated in float32.
    center : bool
        Subtract the mean token first.

    Returns
    -------
    Tensor, shape (...), float32 or float64
        In [1/min(N, D), 1], or 0 for a zero matrix.

    Raises
    ------
    LofiError
        If the tokens are refused by `check_tokens`: shape, dtype, NaN or Inf.

    Examples
    --------
    >>> import torch
    >>> ipr(torch.eye(4)), ipr(torch.ones(4, 3)), ipr(torch.ones(4, 3), center=True)
    (tensor(0.2500), tensor(1.), tensor(0.))
    """
    check_tokens(X, "ipr")
    unit, _ = unit_scale(X, center)
    if unit.shape[-2] > unit.shape[-1]:
        unit = unit.mT
    G = unit @ unit.mT
    trace = G.diagonal(dim1=-2, dim2=-1).sum(-1)
    return ratio(G.square().sum((-2, -1)), trace.square()).clamp(max=1)


def ipr_path(X: Tensor, order: Tensor, center: bool = False) -> Tensor:
    r"""IPR of every nested prefix of an ordering of the tokens, from one product and prefix sums.

    With ``G = X X^T`` in the given order and S_m its first m tokens, ``t_m = sum_{i<=m} G_ii`` and
    ``q_m = sum_{i<=m} (G_ii^2 + 2 sum_{j<i} G_ij^2)`` give ``IPR(S_m) = q_m / t_m^2``. With
    ``center`` each prefix is centred on *its own* mean, as ``ipr(X[S_m], center=True)`` does: with
    G_m the leading m x m block, its entries' sum ``a_m = 1^T G_m 1`` and its row sums' squared
    length ``b_m = ||G_m 1||^2``,

        IPR(S_m) = (q_m - 2 b_m / m + a_m^2 / m^2) / (t_m - a_m / m)^2.

    Parameters
    ----------
    X : Tensor, shape (..., N, D), any floating dtype
        Visual tokens, one per row. The product is in float32 (float64 if X is, or if centred), the
        sums in float64.
    order : Tensor, shape (..., N) or (N,), int64
        A permutation of the tokens' indices, usually ``scores.argsort(-1, descending=True)``.
    center : bool
        Centre each prefix on its own mean token.

    Returns
    -------
    Tensor, shape (..., N), float32 or float64
        Entry m - 1 is the IPR of the first m tokens; the last one is ``ipr(X, center)``.

    Raises
    ------
    LofiError
        If the tokens are refused by `check_tokens`, or ``order`` does not fit them.

    Examples
    --------
    >>> import torch
    >>> X = torch.tensor([[2.0, 0.0], [0.0, 2.0], [2.0, 0.0]])
    >>> ipr_path(X, torch.tensor([0, 2, 1]))
    tensor([1.0000, 1.0000, 0.5556])
    """
    check_tokens(X, "ipr_path")
    _check_order(X, order)
    dtype = torch.promote_types(X.dtype, torch.float32)
    unit, _ = unit_scale(X.double() if center else X, False)
    order = order.expand(unit.shape[:-1])
    unit = unit.gather(-2, order[..., None].expand_as(unit))
    energy = unit.square().sum(-1).cumsum(-1)
    if center:
        # Any origin will do. The first token is in every prefix, so that a massive one further on
        # does not move those before it.
        unit = unit - unit[..., :1, :]
    rows = unit.new_zeros(unit.shape[:-1], dtype=torch.float64)  # sums over the prefix, row by row
    traces, squares, means = [], [], []
    for start in range(0, unit.shape[-2], BLOCK):
        stop = min(start + BLOCK, unit.shape[-2])
        G = (unit[..., start:stop, :] @ unit[..., :stop, :].mT).double()
        diagonal = G.diagonal(start, -2, -1).clone()  # no view: G goes
        traces.append(diagonal)
        squares.append(diagonal.square() + 2 * G.tril(start - 1).square().sum(-1))
        if center:
            a = diagonal + 2 * G.tril(start - 1).sum(-1)
            rows[..., start:stop] = G[..., :start].sum(-1)
            G = G.cumsum_(-2).add_(rows[..., None, :stop])  # row m: the sums of all rows over S_m
            rows[..., :stop] = G[..., -1, :]
            means.append((a, G.tril_(start).square().sum(-1)))
    t, q = torch.cat(traces, -1).cumsum(-1), torch.cat(squares, -1).cumsum(-1)
    if center:
        m = torch.arange(1, unit.shape[-2] + 1, device=unit.device, dtype=t.dtype)
        a, b = torch.cat([a for a, _ in means], -1).cumsum(-1), torch.cat([b for _, b in means], -1)
        # Variance below the rounding of the tokens is no variance (equal tokens, or m = 1).
        spread = t - a / m
        nothing = spread <= (8 * torch.finfo(dtype).eps) ** 2 * energy
        q = (q - 2 * b / m + (a / m).square()).masked_fill(nothing, 0)
        t = spread.masked_fill(nothing, 0)
    return ratio(q, t.square()).clamp(0, 1).to(dtype)


def _check_order(X: Tensor, order: Tensor) -> None:
    shape, N = tuple(order.shape), X.shape[-2]
    if order.dtype != torch.int64 or shape not in (tuple(X.shape[:-1]), (N,)):
        raise LofiError(
            f"ipr_path: order of {order.dtype}, shape {shape}, for tokens of shape "
            f"{tuple(X.shape)}; expected torch.int64, shape {tuple(X.shape[:-1])}: pass "
            "scores.argsort(-1, descending=True)"
        )
    if order.device.type == "cpu" and bool((order.sort(-1).values != torch.arange(N)).any()):
        raise LofiError(
            f"ipr_path: order of shape {shape} is no permutation; expected each of 0..{N - 1} "
            "once: pass scores.argsort(-1, descending=True)"
        )


def unit_scale(X: Tensor, center: bool, dtype: torch.dtype | None = None) -> tuple[Tensor, Tensor]:
    """Divide tokens by their largest absolute entry, and subtract their mean if asked.

    Parameters
    ----------
    X : Tensor, shape (..., N, D), any floating dtype
        Visual tokens, one per row.
    center : bool
        Subtract the mean token. Tokens that are equal up to the rounding of X become exact zeros.
    dtype : torch.dtype, optional
        What to work in; by default float32, or float64 if X is.

    Returns
    -------
    unit : Tensor, shape (..., N, D)
        The tokens, scaled and centred.
    scale : Tensor, shape (..., 1, 1)
        The entry they were divided by; 1 if that is 0.

    Examples
    --------
    >>> import torch
    >>> unit_scale(torch.tensor([[4.0, 1.0], [2.0, 1.0]]), center=True)[0]
    tensor([[ 0.2500,  0.0000],
            [-0.2500,  0.0000]])
    """
    given = torch.promote_types(X.dtype, torch.float32)
    unit = X.to(dtype or given)
    scale = unit.detach().abs().amax((-2, -1), keepdim=True)
    scale = torch.where(scale == 0, 1, scale)
    unit = unit / scale
    if not center:
        return unit, scale
    rounding = 8 * torch.finfo(given).eps * torch.linalg.vector_norm(unit, dim=(-2, -1))
    # Twice: where the mean is much larger than the spread, its rounding would count as a direction.
    for _ in range(2):
        unit -= unit.mean(-2, keepdim=True)
    equal = torch.linalg.vector_norm(unit.detach(), dim=(-2, -1)) <= rounding
    return unit.mul_(~equal[..., None, None]), scale


def rescaled(s: Tensor, scale: Tensor, dtype: torch.dtype) -> Tensor:
    """Turn singular values of unit tokens into those of the tokens, in float64 if they need it.

    Examples
    --------
    >>> import torch
    >>> rescaled(torch.tensor([2.0]), torch.tensor([3e38]), torch.float32)
    tensor([6.0000e+38], dtype=torch.float64)
    """
    values = s.double() * scale
    if bool((values > torch.finfo(dtype).max).any()):
        if not bool(values.isfinite().all()):
            raise LofiError(
                "spectrum: singular values beyond float64; expected at most 1.8e308: divide the "
                "tokens by their largest entry"
            )
        return values
    return values.to(dtype)


def ratio(above: Tensor, below: Tensor) -> Tensor:
    """Divide, with 0 where ``below`` is 0; NaN stays NaN.

    Examples
    --------
    >>> import torch
    >>> ratio(torch.tensor([1.0, 0.0]), torch.tensor([2.0, 0.0]))
    tensor([0.5000, 0.0000])
    """
    zero = below == 0
    return torch.where(zero, 0, above / torch.where(zero, 1, below))
