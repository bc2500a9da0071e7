r"""Leading eigenvectors of Gram matrices: all eigenvalues first, then only the vectors asked for.

A rank rule such as a share of the energy needs every eigenvalue of T, but leverage needs only the k
eigenvectors that the rule then asks for. Stopping LAPACK's symmetric solver in between,

    T = Q H Q^T, H tridiagonal    4/3 n^3 operations    sytrd
    eigenvalues of H              O(n^2)                sterf
    k eigenvectors Z of H         O(n k^2)              stein, by inverse iteration
    V = Q Z                       2 n^2 k               ormqr

halves the time while k is small. PyTorch has no such solver, SciPy has its parts; on an accelerator
all vectors are computed.
"""

from collections.abc import Callable

import numpy as np
import torch
from scipy.linalg.lapack import get_lapack_funcs
from torch import Tensor
from torch.nn.functional import pad

__all__ = ["leading_eigenvectors"]

_FEW = 4  # up to n / 4 vectors cost less one by one than all of them together, by measurement


def leading_eigenvectors(
    T: Tensor, ranks: Callable[[Tensor], Tensor]
) -> tuple[Tensor, Tensor, Tensor]:
    """Compute as many leading eigenvectors as a rule asks for once it has seen the spectrum.

    Parameters
    ----------
    T : Tensor, shape (..., n, n), float32 or float64
        Symmetric positive semidefinite.
    ranks : callable
        Takes the square roots of the eigenvalues, shape (..., n), descending, and returns k, shape
        (...), in [0, n].

    Returns
    -------
    V : Tensor, shape (..., n, K)
        Eigenvectors by descending eigenvalue. K is at least the largest k; beyond its own k, an
        image's columns mean nothing.
    s : Tensor, shape (..., n)
        What ``ranks`` was given.
    k : Tensor, shape (...)
        What it returned.

    Examples
    --------
    >>> import torch
    >>> T = torch.diag(torch.tensor([1.0, 16.0, 4.0]))
    >>> V, s, k = leading_eigenvectors(T, lambda s: (s > 1).sum(-1))
    >>> s, k, V[..., :2].square().sum(-1)
    (tensor([4., 2., 1.]), tensor(2), tensor([0., 1., 1.]))
    """
    if T.device.type != "cpu" or T.shape[-1] < _FEW:
        values, vectors = torch.linalg.eigh(T)
        s = values.flip(-1).clamp(min=0).sqrt()
        return vectors.flip(-1), s, ranks(s)
    halves = [_Half(matrix) for matrix in T.reshape(-1, *T.shape[-2:])]
    s = torch.stack([half.values for half in halves]).flip(-1).clamp(min=0).sqrt()
    s = s.view(T.shape[:-1])
    k = ranks(s)
    # Each image gets what it needs, whatever else is in the batch, and the same as alone.
    found = [half.vectors(most) for half, most in zip(halves, k.view(-1).tolist(), strict=True)]
    K = max(vectors.shape[-1] for vectors in found)
    V = torch.stack([pad(vectors, (0, K - vectors.shape[-1])) for vectors in found])
    return V.view(*T.shape[:-1], K), s, k


class _Half:
    """A symmetric matrix half way to its eigenvectors: reduced to Q H Q^T, eigenvalues known."""

    def __init__(self, matrix: Tensor) -> None:
        self.matrix = matrix
        array = matrix.numpy().T  # the same matrix, in the order of indices that LAPACK wants
        names = ("sytrd", "sytrd_lwork", "sterf", "stein", "ormqr")
        sytrd, workspace, sterf, self.stein, self.ormqr = get_lapack_funcs(names, (array,))
        self.lwork = int(workspace(len(array), lower=1)[0])
        self.Q, self.d, self.e, self.tau, _ = sytrd(array, lower=1, lwork=self.lwork)
        self.ascending, _ = sterf(self.d, self.e)
        self.values = torch.from_numpy(self.ascending)

    def vectors(self, k: int) -> Tensor:
        """Those of the k largest eigenvalues, or of the largest one, descending, (n, max(1, k))."""
        n, k = len(self.d), max(1, k)
        # As one block, however weakly H hangs together: within one, stein keeps them orthogonal.
        blocks, ends = np.ones(n, np.int32), np.full(n, n, np.int32)
        few = k <= n // _FEW
        if few:
            Z, failed = self.stein(self.d, self.e, self.ascending[-k:], blocks, ends)
        # Inverse iteration may not converge, and divides by zero if T is zero; the other can both.
        if not few or failed or not np.isfinite(Z).all():
            return torch.linalg.eigh(self.matrix).eigenvectors.flip(-1)[:, :k]
        # Q's reflections leave the first row alone: they stand below the subdiagonal.
        Z[1:] = self.ormqr("L", "N", self.Q[1:, :-1], self.tau, Z[1:], self.lwork)[0]
        return torch.from_numpy(Z).flip(-1)
