"""Spectrum, IPR and IPR paths against float64 SciPy, brute force, and what they must satisfy."""

import math
import sys

import numpy as np
import pytest
import scipy.linalg
import scipy.stats
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from lofi_core.errors import LofiError
from lofi_core.spectrum import Spectrum, ipr, ipr_path, spectrum

# float32 sums of a few thousand products, each good to 6e-8
TOLERANCE = {torch.float64: 1e-11, torch.float32: 2e-5, torch.float16: 2e-5, torch.bfloat16: 2e-5}
SHAPES = [(1, 1), (1, 5), (5, 1), (7, 7), (12, 5), (5, 12), (40, 16)]


def tokens(*shape: int, seed: int = 0, mean: float = 1.0) -> Tensor:
    """Correlated tokens around a common mean, float64."""
    rng = np.random.default_rng(seed)
    decay = 1.0 / (1.0 + np.arange(shape[-1]))
    return torch.from_numpy(rng.normal(size=shape) * decay + mean)


def oracle_energies(X: Tensor, center: bool = False, power: int = 2) -> np.ndarray:
    """p_i in float64 by SciPy."""
    x = X.double().numpy()
    s = scipy.linalg.svdvals(x - x.mean(0) if center else x) ** power
    return s / s.sum()


def rotation(n: int, seed: int = 0) -> Tensor:
    Q = scipy.stats.ortho_group.rvs(n, random_state=seed) if n > 1 else -np.ones((1, 1))
    return torch.from_numpy(Q)


cases = st.tuples(st.integers(2, 14), st.integers(1, 14), st.integers(0, 10_000), st.booleans())


@pytest.mark.parametrize("shape", [s for s in SHAPES if s[0] > 1])
@pytest.mark.parametrize("center", [False, True])
@pytest.mark.parametrize("dtype", TOLERANCE)
def test_against_scipy(shape: tuple[int, int], center: bool, dtype: torch.dtype) -> None:
    X = tokens(*shape).to(dtype)
    p = oracle_energies(X, center)
    found = spectrum(X, center=center)
    near = {"rtol": TOLERANCE[dtype], "atol": TOLERANCE[dtype]}
    np.testing.assert_allclose(found.energies.numpy(), p, **near)
    np.testing.assert_allclose(found.ipr.numpy(), (p**2).sum(), **near)
    np.testing.assert_allclose(found.effective_rank.numpy(), 1 / (p**2).sum(), **near)
    np.testing.assert_allclose(found.stable_rank.numpy(), p.sum() / p.max(), **near)
    # -p ln p has slope ln(1/p): rounding of the smallest energies weighs more
    entropy = scipy.stats.entropy(p)
    np.testing.assert_allclose(found.entropy.numpy(), entropy, rtol=0, atol=50 * near["atol"])
    np.testing.assert_allclose(ipr(X, center=center).numpy(), (p**2).sum(), **near)
    wide = torch.float64 if dtype == torch.float64 else torch.float32
    assert found.singular_values.dtype == ipr(X).dtype == wide


def test_amplitude_weights() -> None:
    X = tokens(9, 6)
    p = oracle_energies(X, power=1)
    found = spectrum(X, weights="amplitude")
    np.testing.assert_allclose(found.energies, p, rtol=1e-12)
    np.testing.assert_allclose(found.ipr, (p**2).sum(), rtol=1e-12)
    torch.testing.assert_close(found.stable_rank, spectrum(X).stable_rank)


def test_known_spectra() -> None:
    """Flat: IPR 1/r. One direction: 1. Power law s_i = 1/i: a ratio of zeta sums."""
    r = 6
    flat = Spectrum(torch.full((r,), 3.0).double())
    assert flat.ipr.item() == pytest.approx(1 / r)
    assert [flat.effective_rank.item(), flat.stable_rank.item()] == pytest.approx([r, r])
    assert flat.entropy.item() == pytest.approx(math.log(r))
    one = spectrum(torch.outer(torch.arange(1.0, 5), torch.arange(1.0, 4)))
    assert one.ipr.item() == pytest.approx(1) and one.entropy.item() == pytest.approx(0, abs=1e-4)
    i = torch.arange(1, 200).double()
    torch.testing.assert_close(Spectrum(1 / i).ipr, (i**-4).sum() / (i**-2).sum() ** 2)


@settings(deadline=None, max_examples=40)
@given(cases)
def test_invariances(case: tuple[int, int, int, bool]) -> None:
    N, D, seed, center = case
    X = tokens(N, D, seed=seed)
    value = ipr(X, center=center)
    assert 1 / min(N, D) - 1e-12 <= value <= 1
    torch.testing.assert_close(value, spectrum(X, center=center).ipr, rtol=1e-9, atol=0)
    for same in (X @ rotation(D, seed), X.flip(0), -X, X * 3e7):
        torch.testing.assert_close(ipr(same, center=center), value, rtol=1e-9, atol=0)
    if center:
        torch.testing.assert_close(ipr(X + 10 * X[:1], center=True), value, rtol=1e-8, atol=0)
    else:
        torch.testing.assert_close(ipr(rotation(N, seed) @ X), value, rtol=1e-9, atol=0)


@pytest.mark.parametrize("scale", [1e-37, 1e-20, 1e20, 1e36])
def test_float32_scale_neither_over_nor_underflows(scale: float) -> None:
    X = tokens(8, 6).float()
    order = torch.arange(8)
    torch.testing.assert_close(ipr(X * scale), ipr(X), rtol=1e-5, atol=0)
    scaled, plain = spectrum(X * scale), spectrum(X)
    torch.testing.assert_close(scaled.energies, plain.energies, rtol=1e-5, atol=1e-6)
    torch.testing.assert_close(scaled.singular_values / scale, plain.singular_values)
    torch.testing.assert_close(ipr_path(X * scale, order), ipr_path(X, order), rtol=1e-5, atol=0)


@pytest.mark.parametrize("center", [False, True])
def test_half_precision_does_not_overflow(center: bool) -> None:
    X = (tokens(64, 32) * 1e4).half()  # squares are beyond float16
    p = oracle_energies(X, center)
    np.testing.assert_allclose(ipr(X, center=center), (p**2).sum(), rtol=2e-5)


@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize("center", [False, True])
@pytest.mark.parametrize("dtype", TOLERANCE)
def test_ipr_path_against_every_prefix(
    shape: tuple[int, int], center: bool, dtype: torch.dtype
) -> None:
    X = tokens(*shape).to(dtype)
    order = torch.randperm(shape[0], generator=torch.Generator().manual_seed(1))
    brute = torch.stack([ipr(X[order[:m]].double(), center=center) for m in range(1, shape[0] + 1)])
    path = ipr_path(X, order, center=center)
    # centring by sums cancels leading digits; they are float64, the product below them is not
    near = 1e-9 if dtype == torch.float64 else 2e-4
    torch.testing.assert_close(path.double(), brute, rtol=near, atol=near)
    torch.testing.assert_close(path[-1], ipr(X, center=center), rtol=near, atol=near)


@settings(deadline=None, max_examples=40)
@given(cases)
def test_ipr_path_property(case: tuple[int, int, int, bool]) -> None:
    N, D, seed, center = case
    X = tokens(N, D, seed=seed, mean=4.0)
    order = torch.randperm(N, generator=torch.Generator().manual_seed(seed))
    brute = torch.stack([spectrum(X[order[:m]], center=center).ipr for m in range(1, N + 1)])
    torch.testing.assert_close(ipr_path(X, order, center=center), brute, rtol=1e-7, atol=1e-9)


@pytest.mark.parametrize("center", [False, True])
def test_ipr_path_does_not_depend_on_its_blocks(
    center: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    X = torch.stack([tokens(23, 9, seed=i) for i in range(2)])
    order = torch.stack(
        [torch.randperm(23, generator=torch.Generator().manual_seed(i)) for i in (0, 1)]
    )
    whole = ipr_path(X, order, center)
    for rows in (1, 5, 22):
        monkeypatch.setattr(sys.modules["lofi_core.spectrum"], "BLOCK", rows)
        torch.testing.assert_close(ipr_path(X, order, center), whole, rtol=0, atol=1e-10)


@pytest.mark.parametrize("center", [False, True])
def test_batch_equals_loop(center: bool) -> None:
    X = tokens(2, 3, 10, 6)
    order = torch.stack([torch.randperm(10) for _ in range(6)]).view(2, 3, 10)
    one_by_one = [(b, h) for b in range(2) for h in range(3)]
    paths, values = ipr_path(X, order, center=center), ipr(X, center=center)
    s = spectrum(X, center=center)
    assert s.energies.shape == (2, 3, 6) and values.shape == s.entropy.shape == (2, 3)
    for i in one_by_one:
        torch.testing.assert_close(values[i], ipr(X[i], center=center))
        torch.testing.assert_close(s.energies[i], spectrum(X[i], center=center).energies)
        torch.testing.assert_close(paths[i], ipr_path(X[i], order[i], center=center))
    shared = ipr_path(X, order[0, 0], center=center)
    torch.testing.assert_close(shared[1, 2], ipr_path(X[1, 2], order[0, 0], center=center))


@pytest.mark.parametrize("dtype", TOLERANCE)
def test_degenerate_inputs_are_defined(dtype: torch.dtype) -> None:
    zero = torch.zeros(4, 3, dtype=dtype)
    single = tokens(1, 5).to(dtype)
    equal = torch.full((7, 3), 0.1, dtype=dtype)
    for X, center in [(zero, False), (zero, True), (single, True), (equal, True)]:
        s = spectrum(X, center=center)
        found = torch.stack([ipr(X, center), s.ipr, s.effective_rank, s.entropy, s.stable_rank])
        assert found.equal(torch.zeros_like(found))
        path = ipr_path(X, torch.arange(len(X)), center)
        assert path.equal(torch.zeros_like(path))
    assert ipr(single) == spectrum(single).ipr == ipr_path(single, torch.tensor([0])) == 1


def test_centred_path_starts_with_equal_tokens() -> None:
    """A prefix of equal tokens has no spread of its own, whatever comes later."""
    X = torch.cat([tokens(1, 8).expand(5, 8), tokens(6, 8, seed=1)]).float()
    path = ipr_path(X, torch.arange(11), center=True)
    assert path[:5].equal(torch.zeros(5))
    assert path[5].item() == pytest.approx(1, abs=1e-4)  # one token apart: one direction


def test_a_large_mean_does_not_drown_the_spread() -> None:
    X = tokens(30, 12, mean=0.0)
    shifted = (X + 1e3).float()
    # the shift leaves 24 - 10 bits of the spread
    expected = (oracle_energies(shifted, center=True) ** 2).sum()
    np.testing.assert_allclose(ipr(shifted, center=True), expected, rtol=1e-5)


def test_ipr_is_differentiable() -> None:
    X = tokens(5, 4).requires_grad_()
    assert torch.autograd.gradcheck(ipr, X)
    assert torch.autograd.gradcheck(lambda x: ipr(x, center=True), X)


def test_bad_input() -> None:
    X, order = tokens(4, 3), torch.arange(4)
    nan = X.clone()
    nan[1, 2] = float("nan")
    for call in (spectrum, ipr, lambda x: ipr_path(x, order)):
        for bad in (nan, X[0], torch.ones(4, 3, dtype=torch.int64), torch.ones(0, 3), X / 0):
            with pytest.raises(LofiError):
                call(bad)
    with pytest.raises(LofiError, match="1 token"):
        ipr(nan)
    with pytest.raises(LofiError, match="weights='power'"):
        spectrum(X, weights="power")  # type: ignore[arg-type]
    twice, from_one = torch.tensor([0, 1, 1, 3]), torch.tensor([1, 2, 3, 4])
    for wrong in (order[:3], order.float(), twice, from_one, order.expand(2, 4)):
        with pytest.raises(LofiError, match="order"):
            ipr_path(X, wrong)


@pytest.mark.cuda
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs CUDA")
@pytest.mark.parametrize("center", [False, True])
def test_cuda_agrees_and_does_not_wait(center: bool) -> None:
    X = tokens(2, 50, 20).float()
    order = X.norm(dim=-1).argsort(-1)
    there, order_there = X.cuda(), order.cuda()
    torch.cuda.set_sync_debug_mode("error")
    try:
        value, path = ipr(there, center), ipr_path(there, order_there, center)
    finally:
        torch.cuda.set_sync_debug_mode("default")
    torch.testing.assert_close(value.cpu(), ipr(X, center), rtol=1e-5, atol=1e-6)
    torch.testing.assert_close(path.cpu(), ipr_path(X, order, center), rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("factor", [1e2, 1e5, 1e6])
@pytest.mark.parametrize("place", [0, 10, 39])
def test_centred_path_beside_a_massive_token(factor: float, place: int) -> None:
    X = torch.randn(40, 24, generator=torch.Generator().manual_seed(0))
    X[place] *= factor
    path = ipr_path(X, torch.arange(40), center=True)
    for m in (2, 5, 11, 40):
        exact = X[:m].double().numpy()
        s = np.linalg.svd(exact - exact.mean(0), compute_uv=False)
        assert path[m - 1].item() == pytest.approx((s**4).sum() / (s**2).sum() ** 2, rel=1e-4)


def test_singular_values_beyond_float64_are_refused() -> None:
    X = tokens(8, 6)
    with pytest.raises(LofiError, match="beyond float64"):
        spectrum(X / X.abs().max() * 1.7e308)
