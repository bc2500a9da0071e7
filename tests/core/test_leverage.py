"""Leverage against float64 SciPy, another project's vectors, and what it must satisfy."""

from pathlib import Path

import numpy as np
import pytest
import scipy.linalg
import scipy.stats
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from safetensors.torch import load_file
from torch import Tensor

from book.visuals.products import purify
from lofi_core import LoFi, SceneVQA, ask, scene_vlm
from lofi_core.errors import LofiError
from lofi_core.leverage import (
    EffectiveRank,
    EnergyRank,
    Method,
    effective_dimension,
    leverage_scores,
    ridge_leverage_scores,
    ridge_projector,
)
from lofi_core.pruners import VisualTokens
from lofi_core.spectrum import spectrum

VECTORS = Path(__file__).parents[1] / "vectors"
METHODS = ["svd", "gram"]
# The oracle sees the rounded input, so only the library's own float32 arithmetic is left
TOLERANCE = {torch.float64: 1e-9, torch.float32: 3e-5, torch.float16: 3e-5, torch.bfloat16: 3e-5}


def tokens(*shape: int, seed: int = 0, mean: float = 0.5) -> Tensor:
    """Tokens with well separated singular values, float64."""
    rng = np.random.default_rng(seed)
    X = rng.normal(size=shape)
    U, _, Vt = np.linalg.svd(X, full_matrices=False)
    s = 10.0 * 0.7 ** np.arange(min(shape[-2:]))
    return torch.from_numpy((U * s) @ Vt + mean)


def oracle(X: Tensor, k: int, center: bool = False) -> np.ndarray:
    x = X.double().numpy()
    U, _, _ = scipy.linalg.svd(x - x.mean(0) if center else x, full_matrices=False)
    return (U[:, :k] ** 2).sum(1)


def ridge_oracle(X: Tensor, ridge: float, center: bool = False) -> np.ndarray:
    x = X.double().numpy()
    x = x - x.mean(0) if center else x
    G = x @ x.T
    return np.diag(G @ np.linalg.inv(G + ridge * np.eye(len(G))))


cases = st.tuples(
    st.integers(2, 12),
    st.integers(1, 12),
    st.integers(0, 10_000),
    st.booleans(),
    st.sampled_from(METHODS),
)


@pytest.mark.parametrize("shape", [(12, 5), (5, 12), (8, 8), (40, 16)])
@pytest.mark.parametrize("center", [False, True])
@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize("dtype", TOLERANCE)
def test_against_scipy(
    shape: tuple[int, int], center: bool, method: str, dtype: torch.dtype
) -> None:
    X = tokens(*shape).to(dtype)
    for k in (1, 3, min(shape) - 1):
        scores = leverage_scores(X, k, method=method, center=center)
        assert scores.dtype == (torch.float64 if dtype == torch.float64 else torch.float32)
        np.testing.assert_allclose(scores, oracle(X, k, center), atol=TOLERANCE[dtype] * 10)


@settings(deadline=None, max_examples=60)
@given(cases)
def test_range_sum_and_invariances(case: tuple[int, int, int, bool, str]) -> None:
    N, D, seed, center, method = case
    X = tokens(N, D, seed=seed)
    k = 1 + seed % max(1, min(N - center, D))
    scores = leverage_scores(X, k, method, center)
    assert scores.min() >= 0 and scores.max() <= 1
    assert scores.sum().item() == pytest.approx(k, abs=1e-6)
    Q = torch.from_numpy(
        scipy.stats.ortho_group.rvs(D, random_state=seed) if D > 1 else -np.ones((1, 1))
    )
    for same in (X @ Q, X * 1e-9, X * -1e9):
        torch.testing.assert_close(
            leverage_scores(same, k, method, center), scores, rtol=0, atol=1e-6
        )
    shuffle = torch.randperm(N, generator=torch.Generator().manual_seed(seed))
    torch.testing.assert_close(
        leverage_scores(X[shuffle], k, method, center), scores[shuffle], rtol=0, atol=1e-6
    )


@settings(deadline=None, max_examples=30)
@given(cases)
def test_full_rank_scores_see_only_the_column_space(case: tuple[int, int, int, bool, str]) -> None:
    """At full rank an invertible change of channels changes nothing: X R spans what X spans."""
    N, D, seed, center, method = case
    X = tokens(N, D, seed=seed)
    R = torch.eye(D).double() + 0.3 * tokens(D, D, seed=seed + 1) / 10
    k = min(N, D)
    torch.testing.assert_close(
        leverage_scores(X @ R, k, method, center),
        leverage_scores(X, k, method, center),
        rtol=0,
        atol=1e-5,
    )


@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize("dtype", TOLERANCE)
def test_full_rank_degeneracy(method: str, dtype: torch.dtype) -> None:
    """N <= D and full rank: every token is indispensable, so leverage ranks nothing."""
    N = 9
    X = torch.from_numpy(np.random.default_rng(0).normal(size=(N, 30)) + 1).to(dtype)
    for rank in (N, EnergyRank(1.0)):
        whole = leverage_scores(X, rank, method)
        torch.testing.assert_close(whole, torch.ones_like(whole), rtol=0, atol=1e-5)
        centred = leverage_scores(X, rank, method, center=True)
        torch.testing.assert_close(centred, torch.full_like(centred, 1 - 1 / N), rtol=0, atol=1e-5)


@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize("dtype", TOLERANCE)
def test_rank_deficient_scores_sum_to_the_numerical_rank(method: str, dtype: torch.dtype) -> None:
    # small integers: the product is exact in every dtype, so its rank is exactly 3
    rng = np.random.default_rng(1)
    A = torch.from_numpy(rng.integers(-3, 4, (20, 3)) @ rng.integers(-3, 4, (3, 11))).to(dtype)
    for X in (A, A.T):
        scores = leverage_scores(X, 10, method)
        assert scores.sum().item() == pytest.approx(3, abs=1e-4)
        np.testing.assert_allclose(scores, oracle(X, 3), atol=1e-4)


@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize("dtype", TOLERANCE)
def test_degenerate_inputs_are_defined(method: str, dtype: torch.dtype) -> None:
    single, zero = torch.tensor([[1.0, 2.0, 3.0]], dtype=dtype), torch.zeros(4, 3, dtype=dtype)
    equal = torch.full((7, 3), 0.1, dtype=dtype)
    for rank in (1, EnergyRank(0.9), EffectiveRank()):
        assert leverage_scores(single, rank, method).tolist() == pytest.approx([1])
        assert leverage_scores(single, rank, method, center=True).tolist() == [0]
        assert leverage_scores(zero, rank, method).tolist() == [0] * 4
        assert leverage_scores(equal, rank, method, center=True).tolist() == [0] * 7
        assert leverage_scores(equal, rank, method).tolist() == pytest.approx([1 / 7] * 7)
    assert ridge_leverage_scores(zero, 1.0).tolist() == [0] * 4
    assert ridge_leverage_scores(zero, 1.0, relative=True).tolist() == [0] * 4
    assert ridge_leverage_scores(single, 14.0).tolist() == pytest.approx([0.5])


@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize("center", [False, True])
@pytest.mark.parametrize("rank", [2, EnergyRank(0.9), EffectiveRank(1.5)])
def test_batch_equals_loop(
    method: str, center: bool, rank: int | EnergyRank | EffectiveRank
) -> None:
    """Images of one batch get their own k."""
    X = torch.stack([tokens(10, 6, seed=i, mean=i / 2) for i in range(6)]).view(2, 3, 10, 6)
    scores = leverage_scores(X, rank, method, center)
    ridges = torch.arange(1.0, 7).view(2, 3)
    ridged = ridge_leverage_scores(X, ridges, center=center)
    assert scores.shape == ridged.shape == (2, 3, 10)
    for i in [(b, h) for b in range(2) for h in range(3)]:
        torch.testing.assert_close(scores[i], leverage_scores(X[i], rank, method, center))
        torch.testing.assert_close(
            ridged[i], ridge_leverage_scores(X[i], ridges[i].item(), center=center)
        )


def test_rank_rules() -> None:
    s = torch.tensor([[2.0, 1, 1, 0], [1, 1, 1, 1], [1, 0, 0, 0], [0, 0, 0, 0]])
    assert EnergyRank(0.6)(s).tolist() == [1, 3, 1, 0]  # energies 4:1:1, flat, one, none
    assert EnergyRank(0.5)(s).tolist() == [1, 2, 1, 0]  # exactly half of a flat spectrum
    assert EnergyRank(1.0)(s).tolist() == [3, 4, 1, 0]
    assert EffectiveRank()(s).tolist() == [2, 4, 1, 1]  # 1/IPR = 36/18
    assert EffectiveRank(2.0)(s).tolist() == [4, 4, 2, 1]
    assert EffectiveRank(0.1)(s).tolist() == [1, 1, 1, 1]


@settings(deadline=None, max_examples=50)
@given(st.lists(st.floats(1e-3, 1e3), min_size=1, max_size=12), st.floats(0.01, 0.99))
def test_energy_rank_is_the_smallest(values: list[float], fraction: float) -> None:
    s = torch.tensor(sorted(values, reverse=True), dtype=torch.float64)
    k = int(EnergyRank(fraction)(s))
    head = s.square().cumsum(0) / s.square().sum()
    assert head[k - 1] >= fraction - 1e-9
    assert k == 1 or head[k - 2] < fraction + 1e-9


def test_a_rule_is_any_callable_of_the_singular_values() -> None:
    X = tokens(3, 10, 6)
    scores = leverage_scores(X, lambda s: (s > 3).sum(-1))
    torch.testing.assert_close(scores.sum(-1), (spectrum(X).singular_values > 3).sum(-1).double())


@pytest.mark.parametrize("shape", [(12, 5), (5, 12), (8, 8)])
@pytest.mark.parametrize("center", [False, True])
@pytest.mark.parametrize("dtype", TOLERANCE)
def test_ridge_against_inverse(shape: tuple[int, int], center: bool, dtype: torch.dtype) -> None:
    X = tokens(*shape).to(dtype)
    for ridge in (1e-3, 0.7, 40.0, 1e6):
        scores = ridge_leverage_scores(X, ridge, center=center)
        np.testing.assert_allclose(
            scores, ridge_oracle(X, ridge, center), rtol=1e-4, atol=TOLERANCE[dtype]
        )
        s2 = spectrum(X.double(), center=center).singular_values ** 2
        dimension = effective_dimension(X, ridge, center=center).double()
        torch.testing.assert_close(
            dimension, (s2 / (s2 + ridge)).sum(), rtol=1e-4, atol=TOLERANCE[dtype]
        )


@settings(deadline=None, max_examples=40)
@given(cases, st.floats(1e-4, 1e4))
def test_ridge_properties(case: tuple[int, int, int, bool, str], ridge: float) -> None:
    """In [0, 1], falling in the ridge, and between the cuts of ranks whose s^2 lie around it."""
    N, D, seed, center, _ = case
    X = tokens(N, D, seed=seed)
    scores = ridge_leverage_scores(X, ridge, relative=True, center=center)
    assert scores.min() >= 0 and scores.max() <= 1
    assert (
        ridge_leverage_scores(X, 2 * ridge, relative=True, center=center) <= scores + 1e-9
    ).all()
    torch.testing.assert_close(
        ridge_leverage_scores(X * 1e5, ridge, relative=True, center=center), scores
    )
    mean_eigenvalue = spectrum(X, center=center).singular_values.square().sum().item() / min(N, D)
    absolute = ridge_leverage_scores(X, ridge * mean_eigenvalue, center=center)
    torch.testing.assert_close(absolute, scores, rtol=1e-6, atol=1e-9)


def test_a_small_ridge_is_full_rank_leverage() -> None:
    for X in (tokens(20, 6), tokens(6, 20)):
        full = leverage_scores(X, min(X.shape))
        torch.testing.assert_close(ridge_leverage_scores(X, 1e-9), full, rtol=0, atol=1e-6)
    # a ridge of nothing must not break the Cholesky
    deficient = torch.cat([tokens(6, 4), tokens(6, 4)], 1)
    scores = ridge_leverage_scores(deficient, 1e-300)
    full = leverage_scores(deficient.double(), 4)
    torch.testing.assert_close(scores.double(), full, rtol=0, atol=1e-5)
    torch.testing.assert_close(scores.sum().item(), 4.0, rtol=0, atol=1e-5)


@pytest.mark.parametrize("scale", [1e-37, 1e-20, 1e20, 1e36])
def test_float32_scale_neither_over_nor_underflows(scale: float) -> None:
    X = tokens(10, 6).float()
    for method in METHODS:
        torch.testing.assert_close(
            leverage_scores(X * scale, 3, method), leverage_scores(X, 3, method), rtol=0, atol=2e-5
        )
    ridged = ridge_leverage_scores(X * scale, 0.5, relative=True)
    torch.testing.assert_close(
        ridged, ridge_leverage_scores(X, 0.5, relative=True), rtol=0, atol=2e-5
    )


@pytest.mark.parametrize(
    "name", ["gauss_s64_d32_k16", "struct_s144_d32_k32_square", "struct_s144_d64_k48"]
)
def test_kvpress_vectors(name: str) -> None:
    """kvpress scores: full-rank leverage of the centred, sketched keys with a ridge of 1e-2."""
    file = load_file(VECTORS / f"kvpress_leverage__{name}.safetensors")
    keys, Phi, scores = file["in.keys"], file["in.Phi"], file["out.scores"]
    sketched, d = keys.double() @ Phi.double(), keys.shape[-1]
    near = {"rtol": 0, "atol": 2e-3 * scores.max().item()}
    torch.testing.assert_close(
        ridge_leverage_scores(sketched, 1e-2, center=True).float(), scores, **near
    )
    exact = file["out.exact_leverage_f64_reference"]
    for method in METHODS:
        torch.testing.assert_close(leverage_scores(keys, d, method, center=True), exact, **near)
        if name.endswith("square"):  # orthogonal, and a ridge of 1e-2 is nothing to these keys
            ours = leverage_scores(sketched, d, method, center=True).float()
            torch.testing.assert_close(ours, scores, **near)
            top = ours.topk(file["out.rank"].shape[-1], dim=-1).indices.sort(-1).values
            assert top.equal(file["out.rank"])


def decaying(*shape: int, power: float, seed: int = 0) -> Tensor:
    """Float32 tokens with singular values j^-power about a mean: no gap but that between j's."""
    rng = np.random.default_rng(seed)
    U, _, Vt = np.linalg.svd(rng.normal(size=shape), full_matrices=False)
    s = np.arange(1, min(shape) + 1) ** -power
    return torch.from_numpy((U * s) @ Vt + 0.1 * rng.normal(size=shape[-1])).float()


def test_purification_cuts_where_it_is_told() -> None:
    T = torch.diag(torch.tensor([0.1, 3.0, 2.0, 1.0]))
    for k in (1, 2, 3):
        P = purify(T, k=torch.tensor(k))
        torch.testing.assert_close(P @ P, P, rtol=0, atol=1e-5)
        assert P.diagonal().round().tolist() == [0, 1, float(k > 1), float(k > 2)]
    assert purify(T, energy=0.8).diagonal().round().tolist() == [0, 1, 1, 0]  # 5 of 6.1
    assert purify(T, energy=1.0).trace().item() == pytest.approx(4, abs=1e-3)
    tie = purify(torch.eye(4), k=torch.tensor(2))  # four directions share two places
    torch.testing.assert_close(tie.diagonal(), torch.full((4,), 0.5), rtol=0, atol=0.1)


def test_fast_methods_change_no_answer_of_the_shipped_model() -> None:
    model, processor = scene_vlm.load()
    scenes = [SceneVQA("test", seed=0)[i] for i in range(2)]
    exact = ask(model, processor, scenes, LoFi(keep=0.25, method="svd"))
    for method in ("auto", "gram"):
        fast = ask(model, processor, scenes, LoFi(keep=0.25, method=method))
        assert fast.predicted.tolist() == exact.predicted.tolist(), method


def test_no_gradients_but_no_complaint() -> None:
    X = tokens(5, 4).requires_grad_()
    assert not leverage_scores(X, 2).requires_grad
    assert not ridge_leverage_scores(X, 2.0).requires_grad


def test_bad_input() -> None:
    X = tokens(2, 5, 4)
    for rank in (0, -1, 5, True, 2.0, "3", None):
        with pytest.raises(LofiError, match="leverage_scores: rank="):
            leverage_scores(X, rank)  # type: ignore[arg-type]
    with pytest.raises(LofiError, match="method='qr'"):
        leverage_scores(X, 2, method="qr")  # type: ignore[arg-type]
    for ridge in (0, -1.0, float("nan"), float("inf"), torch.tensor([1.0, -1.0]), torch.ones(3)):
        with pytest.raises(LofiError, match="ridge"):
            ridge_leverage_scores(X, ridge)
    for fraction in (0, 1.01, -0.1, float("nan")):
        with pytest.raises(LofiError, match="fraction"):
            EnergyRank(fraction)
    for factor in (0, -1, float("inf"), float("nan")):
        with pytest.raises(LofiError, match="factor"):
            EffectiveRank(factor)
    for bad in (X / 0, X[0, 0], X.long()):
        with pytest.raises(LofiError, match="token"):
            leverage_scores(bad, 1)
        with pytest.raises(LofiError, match="token"):
            ridge_leverage_scores(bad, 1.0)


@pytest.mark.cuda
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs CUDA")
def test_cuda_agrees_and_ridge_does_not_wait() -> None:
    X = tokens(2, 50, 20).float()
    there = X.cuda()
    for method in METHODS:
        for rank in (5, EnergyRank(0.9)):
            ours = leverage_scores(there, rank, method).cpu()
            torch.testing.assert_close(ours, leverage_scores(X, rank, method), rtol=0, atol=1e-4)
    torch.cuda.set_sync_debug_mode("error")
    try:
        scores = ridge_leverage_scores(there, 0.1, relative=True)
    finally:
        torch.cuda.set_sync_debug_mode("default")
    here = ridge_leverage_scores(X, 0.1, relative=True)
    torch.testing.assert_close(scores.cpu(), here, rtol=0, atol=1e-5)


def massive(N: int, D: int, factor: float, seed: int = 0) -> Tensor:
    """Tokens of ordinary length, and one that is ``factor`` times as long."""
    X = torch.randn(N, D, generator=torch.Generator().manual_seed(seed))
    X[N // 3] *= factor
    return X


@pytest.mark.parametrize("factor", [1e1, 1.5e2, 1e3, 1e4, 1e5, 1e6])
@pytest.mark.parametrize("shape", [(144, 512), (200, 96)])
@pytest.mark.parametrize("center", [False, True])
def test_massive_tokens(factor: float, shape: tuple[int, int], center: bool) -> None:
    """Real encoders have them. The default keeps its bound of 4 n eps64 / gap."""
    X = massive(*shape, factor)
    exact = X.double().numpy()
    exact = exact - exact.mean(0) if center else exact
    U, s, _ = scipy.linalg.svd(exact, full_matrices=False)
    visible = int((s > 2 * (max(shape) * 2.3e-16) ** 0.5 * s[0]).sum())  # in a Gram matrix
    energy = int(EnergyRank(0.9)(torch.from_numpy(s)))
    for rank, k in ((EnergyRank(0.9), energy), (1, 1), (8, 8)):
        scores = leverage_scores(X, rank, "auto", center)
        assert scores.isfinite().all() and scores.min() >= 0 and scores.max() <= 1
        if k > visible:
            assert scores.sum() <= k + 1e-4
            continue
        gap = (s[k - 1] ** 2 - s[k] ** 2) / s[0] ** 2
        bound = 2e-6 + 4 * max(shape) * 2.3e-16 / gap
        assert np.abs(scores.numpy() - (U[:, :k] ** 2).sum(1)).max() <= bound
        assert scores.sum().item() == pytest.approx(k, abs=1e-3)
    kept = LoFi(keep=0.25, center=center)(VisualTokens(X[None])).kept[0].tolist()
    assert shape[0] // 3 in kept and kept != list(range(len(kept)))


def test_almost_all_energy_in_one_direction() -> None:
    g = torch.Generator().manual_seed(0)
    X = torch.randn(576, 1024, generator=g)
    X += (19 * (576 * 1024) / 576) ** 0.5 * torch.nn.functional.normalize(
        torch.randn(1024, generator=g), dim=0
    )
    scores = leverage_scores(X, EnergyRank(0.9), "auto")
    assert scores.isfinite().all() and scores.sum().item() == pytest.approx(1, abs=1e-4)


def test_rank_one_and_ties() -> None:
    row = torch.randn(40, generator=torch.Generator().manual_seed(0))
    line = torch.linspace(1, 2, 30)[:, None] * row
    for rank in (EnergyRank(0.9), EffectiveRank(1.0), 5):
        scores = leverage_scores(line, rank, "auto")
        weights = torch.linspace(1, 2, 30).square()
        torch.testing.assert_close(scores, weights / weights.sum(), rtol=1e-4, atol=1e-6)
    tied = leverage_scores(torch.eye(12), 4, "auto")
    assert tied.isfinite().all() and tied.sum().item() == pytest.approx(4, abs=1e-5)


def test_scores_beyond_the_range_of_float32_squares() -> None:
    X = massive(30, 20, 1.0) * 8e37
    assert X.isfinite().all()
    scores = leverage_scores(X, EnergyRank(0.9), "auto")
    torch.testing.assert_close(scores, leverage_scores(X / 8e37, EnergyRank(0.9), "auto"))
    assert spectrum(X).ipr.item() == pytest.approx(spectrum(X / 8e37).ipr.item(), rel=1e-5)


@pytest.mark.parametrize("times", [1e1, 1e2, 1e3, 1e4, 1e5, 1e6])
def test_a_fixed_rank_beside_a_massive_token(times: float) -> None:
    """The other tokens keep their scores: the reference loses none of them, the default to 1e4."""
    X, k = massive(144, 512, times), 16
    U, s, _ = torch.linalg.svd(X.double(), full_matrices=False)
    exact = U[:, :k].square().sum(1)
    gap = (s[k - 1].square() - s[k].square()) / s[0].square()
    bounds = {"svd": 1e-6, "gram": 1e-6 + 512 * torch.finfo(torch.float64).eps / gap.item()}
    for method, bound in bounds.items():
        scores = leverage_scores(X, k, method)  # type: ignore[arg-type]
        assert scores.double().sum().item() == pytest.approx(k, abs=1e-5)
        assert (scores - exact).abs().max() <= bound


@pytest.mark.parametrize("times", [1e1, 1e3, 1e6])
def test_one_channel_that_all_tokens_share(times: float) -> None:
    """A large mean: in float64, centring leaves what float32 tokens still hold."""
    X = massive(144, 512, 1.0)
    X[:, 3] += times
    x = X.double()
    U, s, _ = torch.linalg.svd(x - x.mean(0), full_matrices=False)
    k = int(EnergyRank(0.9)(s))
    for method in METHODS:
        scores = leverage_scores(X, EnergyRank(0.9), method, center=True)
        assert scores.double().sum().item() == pytest.approx(k, abs=1e-4)
        assert (scores - U[:, :k].square().sum(1)).abs().max() <= 1e-6


@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize("shape", [(48, 64), (64, 48)])
def test_ties_lie_between_the_ranks_around_them(shape: tuple[int, int], method: Method) -> None:
    """Ten equal singular values: a cut through them shares them out somehow, and no other."""
    rng = np.random.default_rng(0)
    U, _, Vt = np.linalg.svd(rng.normal(size=shape), full_matrices=False)
    s = np.array([5.0] * 4 + [2.0] * 10 + [1.0] * 34)
    X = torch.from_numpy((U * s) @ Vt)
    low, high = ((U[:, :k] ** 2).sum(1) for k in (4, 14))
    for k in (4, 9, 14):
        scores = leverage_scores(X, k, method)
        assert scores.sum().item() == pytest.approx(k, abs=1e-9)
        assert ((low - 1e-9 <= scores.numpy()) & (scores.numpy() <= high + 1e-9)).all()


@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize("shape", [(64, 96), (96, 64)])
def test_a_flat_spectrum_gives_half_its_directions_half_its_energy(
    shape: tuple[int, int], method: Method
) -> None:
    """Rounding must not decide whether 32 of 64 equal directions hold half of the energy."""
    for seed in range(10):
        rng = np.random.default_rng(seed)
        U, _, Vt = np.linalg.svd(rng.normal(size=shape), full_matrices=False)
        X = torch.from_numpy(3 * U @ Vt).float()
        assert leverage_scores(X, EnergyRank(0.5), method).sum().item() == pytest.approx(32)


@pytest.mark.parametrize("method", METHODS)
def test_tokens_equal_up_to_their_own_rounding_have_no_leverage(method: Method) -> None:
    row = torch.randn(30, generator=torch.Generator().manual_seed(0))
    X = row.expand(20, 30) * (1 + torch.finfo(torch.float32).eps * torch.arange(20)[:, None] % 2)
    assert leverage_scores(X, EnergyRank(0.9), method, center=True).tolist() == [0] * 20
    assert ridge_leverage_scores(X, 1.0, relative=True, center=True).tolist() == [0] * 20


@pytest.mark.parametrize("relative", [False, True])
@pytest.mark.parametrize("ridge", [1e-300, 1e-16])
def test_a_tiny_ridge_on_deficient_tokens(ridge: float, relative: bool) -> None:
    """Directions that are only rounding must not count, however small the ridge."""
    deficient = torch.cat([tokens(6, 4), tokens(6, 4)], 1)
    for X in (deficient, deficient.mT):
        scores = ridge_leverage_scores(X, ridge, relative=relative)
        assert scores.sum().item() == pytest.approx(4, abs=1e-9)
        full = leverage_scores(X, 4, "svd")
        torch.testing.assert_close(scores, full, rtol=0, atol=1e-9)


def test_ridge_projector_holds_the_scores() -> None:
    for X in (tokens(12, 5), tokens(5, 12)):
        for ridge in (1e-12, 0.5):  # by eigenvectors, by a Cholesky factor
            P = ridge_projector(X, ridge, relative=True, center=True)
            Y = X - X.mean(0)
            G = Y @ Y.mT
            lam = ridge * G.trace() / min(X.shape)
            torch.testing.assert_close(P @ G + lam * P, G, rtol=0, atol=1e-9)
            scores = ridge_leverage_scores(X, ridge, relative=True, center=True)
            torch.testing.assert_close(P.diagonal(), scores)
