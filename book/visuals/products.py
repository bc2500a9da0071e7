r"""Leading left singular subspaces by matrix products: what a GPU does best, and does not wait for.

An SVD or an eigensolver makes the host wait for the device. Two older ideas don't.

*Purification* (Palser & Manolopoulos 1998; Niklasson 2002, equation 9) cuts a spectrum in two. Both

    x -> x^2   and   x -> 2 x - x^2

map [0, 1] onto itself, keep the order and leave 0 and 1 in place; one pushes down, the other up.
Applied to the eigenvalues of T / ||T||, the first while the trace is above k and the second while
it is below, they drive the k largest to 1 and the others to 0: T becomes the projector onto its top
k eigenvectors, with one product a step and nothing to decide on the host.

*Block subspace iteration* first makes a large matrix small: b > k columns, multiplied by G and made
orthonormal by a Cholesky factor of b x b, sweep after sweep. What lies beyond direction b dies out
as (s_{b+1} / s_k)^2 a sweep; the cut at k is then made by purification in b dimensions.
"""

import torch
from torch import Tensor

from lofi_core.spectrum import ratio

__all__ = ["ROUNDING", "purify", "subspace_iteration"]

ROUNDING = 32  # eigenvalues up to this many eps, relative to the norm, may be rounding of a product
_SLACK = 1e-3  # traces this close to k count as k


def purify(
    T: Tensor, k: Tensor | None = None, energy: float | None = None, steps: int = 48
) -> Tensor:
    """Projector onto the leading eigenvectors of T, by products alone.

    Parameters
    ----------
    T : Tensor, shape (..., n, n), float32 or float64
        Symmetric positive semidefinite.
    k : Tensor, shape (...), optional
        How many eigenvectors, matrix by matrix.
    energy : float in (0, 1], optional
        Instead of k: as few eigenvectors as hold this share of the trace.
    steps : int
        Products.

    Returns
    -------
    Tensor, shape (..., n, n)
        Symmetric, eigenvalues in [0, 1] and trace k up to rounding. Where eigenvalues are too close
        to the cut to be told apart in so many steps, the directions share what is left of k.

    Notes
    -----
    Eigenvalues up to ``32 eps ||T||_F`` are rounding and don't count, whatever k is. By ``energy``
    the rank comes out of the first half of the steps; it may be one off.

    Examples
    --------
    >>> import torch
    >>> purify(torch.diag(torch.tensor([1.0, 5.0, 2.0])), k=torch.tensor(2)).diagonal().round()
    tensor([0., 1., 1.])
    """
    norm = torch.linalg.matrix_norm(T, keepdim=True)
    X = T / torch.where(norm == 0, 1, norm)
    rank = _numerical_rank(X)
    target = rank if k is None else torch.minimum(k.to(rank), rank)
    wanted = 0 if energy is None else energy * _trace(X)
    start = X
    for step in range(steps):
        square, count = X @ X, _trace(X)
        if energy is not None and step == steps // 2:
            missing = wanted - (X * start).sum((-2, -1))
            target = torch.minimum((count + _directions(missing, X - square, start)).ceil(), rank)
        # At the target the two maps take turns: each undoes what the other does to rounding.
        above = count > target + (_SLACK if step % 2 else -_SLACK)
        if energy is not None and step < steps // 2:
            above |= (X * start).sum((-2, -1)) > wanted
        X = torch.where(above[..., None, None], square, 2 * X - square)
    square = X @ X
    return 3 * square - 2 * square @ X  # pushes both ways at once: what is nearly 0 or 1 gets there


def _directions(energy: Tensor, edge: Tensor, T: Tensor) -> Tensor:
    """Energy in units of the eigenvalues at the cut: those where ``edge = X - X^2`` isn't 0."""
    at_cut = ratio((edge * T).sum((-2, -1)), _trace(edge).clamp(min=0))
    return ratio(energy, at_cut) - _SLACK


def _numerical_rank(X: Tensor) -> Tensor:
    """Eigenvalues above the floor, counted as sum x / (x + floor): no decomposition but L L^T."""
    n, floor = X.shape[-1], ROUNDING * torch.finfo(X.dtype).eps
    eye = torch.eye(n, dtype=X.dtype, device=X.device)
    L, _ = torch.linalg.cholesky_ex(X + floor * eye)
    inverse = torch.linalg.solve_triangular(L, eye.expand_as(L), upper=False)
    return (n - floor * inverse.square().sum((-2, -1))).round()


def _trace(X: Tensor) -> Tensor:
    return X.diagonal(dim1=-2, dim2=-1).sum(-1)


def subspace_iteration(G: Tensor, b: int, sweeps: int = 8, seed: int = 0) -> Tensor:
    """Orthonormal basis of about the leading b-dimensional invariant subspace of G.

    Parameters
    ----------
    G : Tensor, shape (..., n, n), float32 or float64
        Symmetric positive semidefinite.
    b : int in [1, n]
        Columns. For the leading k directions take more than k: direction k is found up to an angle
        of about ``(lambda_{b+1} / lambda_k)^sweeps``.
    sweeps : int
        Products with G.
    seed : int
        Of the Gaussian start, which all matrices of a batch share.

    Returns
    -------
    Tensor, shape (..., n, b)
        Orthonormal columns, as far as G has rank b.

    Examples
    --------
    >>> import torch
    >>> V = subspace_iteration(torch.diag(torch.tensor([1.0, 9.0, 4.0])), b=2)
    >>> (V @ V.mT).diagonal().round(decimals=3)
    tensor([0., 1., 1.])
    """
    generator = torch.Generator(G.device).manual_seed(seed)
    V = torch.randn(G.shape[-1], b, generator=generator, device=G.device, dtype=G.dtype)
    for _ in range(sweeps):
        # Y's columns all lean towards the first direction, and Y^T Y squares that: in float64.
        Y = (G @ V).double()
        W = Y.mT @ Y
        jitter = b * torch.finfo(W.dtype).eps * _trace(W)[..., None, None]
        eye = torch.eye(b, dtype=W.dtype, device=W.device)
        L, _ = torch.linalg.cholesky_ex(W + torch.where(jitter == 0, 1, jitter) * eye)
        V = torch.linalg.solve_triangular(L.mT, Y, upper=True, left=False).to(G.dtype)
    return V
