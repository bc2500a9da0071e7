"""Eigenvectors one by one against all of them at once, on spectra that are hard on either."""

import pytest
import torch
from torch import Tensor

from lofi_core.eigenvectors import leading_eigenvectors

N = 60


def generator() -> torch.Generator:
    return torch.Generator().manual_seed(0)


def with_eigenvalues(values: Tensor) -> Tensor:
    Q = torch.linalg.qr(torch.randn(N, N, generator=generator(), dtype=torch.float64)).Q
    return Q * values.double() @ Q.mT


def grouped(same: bool) -> Tensor:
    """Three groups of tokens that have nothing in common: H falls into blocks."""
    X = torch.zeros(N, 3 * N, dtype=torch.float64)
    for group in range(3):
        rows = slice(20 * group, 20 * group + 20)
        g = torch.Generator().manual_seed(0 if same else group)
        X[rows, N * group : N * (group + 1)] = torch.randn(20, N, generator=g).double()
    return X @ X.mT


SPECTRA = {
    "falling": with_eigenvalues(torch.arange(1, N + 1).double() ** -1.5),
    "fast": with_eigenvalues(torch.arange(N).double().neg().exp()),
    "low rank": with_eigenvalues((torch.arange(N) < 4).double()),
    "flat": torch.eye(N, dtype=torch.float64),
    "diagonal": torch.diag(torch.arange(1.0, N + 1).double()),
    "groups": grouped(same=False),
    "equal groups": grouped(same=True),  # every eigenvalue three times
    "equal tokens": torch.ones(N, N, dtype=torch.float64),
    "zero": torch.zeros(N, N, dtype=torch.float64),
    "tiny": with_eigenvalues(torch.arange(1, N + 1).double() ** -1.5) * 1e-30,
}


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("name", SPECTRA)
def test_a_few_vectors_are_eigenvectors(name: str, dtype: torch.dtype) -> None:
    """Orthonormal, T V = V diag(s^2), and s that of LAPACK's other solver."""
    T, k = SPECTRA[name].to(dtype), 8
    V, s, _ = leading_eigenvectors(T, lambda s: torch.tensor(k))
    norm, eps = float(torch.linalg.matrix_norm(T, 2)), torch.finfo(dtype).eps
    expected = torch.linalg.eigvalsh(T).flip(-1).clamp(min=0).sqrt()
    assert V.shape == (N, k) and s.shape == (N,) and V.dtype == s.dtype == dtype
    # an eigenvalue is off by a few N eps ||T||, its root by the root of that at worst
    torch.testing.assert_close(s.square(), expected.square(), rtol=0, atol=8 * N * eps * norm)
    eye = torch.eye(k, dtype=dtype)
    torch.testing.assert_close(V.mT @ V, eye, rtol=0, atol=8 * N * eps)
    residual = T @ V - V * s[:k].square()
    assert residual.abs().max() <= 8 * N * eps * norm


def test_ranks_by_image() -> None:
    """In a batch each image gets its own rank, and bit for bit what it gets alone."""
    T = torch.stack([SPECTRA["falling"], SPECTRA["zero"], SPECTRA["fast"]])
    ranks = torch.tensor([3, 0, 40])
    V, s, k = leading_eigenvectors(T, lambda s: ranks)
    assert V.shape == (3, N, 40) and s.shape == (3, N) and k is ranks
    for b in (0, 2):
        alone, _, _ = leading_eigenvectors(T[b], lambda s, b=b: ranks[b])
        assert torch.equal(V[b, :, : ranks[b]], alone)


@pytest.mark.parametrize("k", [1, 15, 16, 60])
@pytest.mark.parametrize("name", ["falling", "groups"])
def test_projector_whichever_way(name: str, k: int) -> None:
    """Few vectors by one solver, many by another: the projectors agree with float64's `eigh`."""
    T = SPECTRA[name]
    V, _, _ = leading_eigenvectors(T, lambda s: torch.tensor(k))
    U = torch.linalg.eigh(T).eigenvectors.flip(-1)[:, :k]
    torch.testing.assert_close(V[:, :k] @ V[:, :k].mT, U @ U.mT, rtol=0, atol=1e-9)


@pytest.mark.parametrize("n", [1, 2, 3, 4, 5, 9])
def test_small_matrices(n: int) -> None:
    X = torch.randn(n, n + 1, generator=generator(), dtype=torch.float64)
    V, s, _ = leading_eigenvectors(X @ X.mT, lambda s: torch.tensor(1))
    torch.testing.assert_close(s, torch.linalg.svdvals(X))
    torch.testing.assert_close((X @ X.mT) @ V[:, 0], V[:, 0] * s[0].square())
