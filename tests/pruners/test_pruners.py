"""Pruners on tokens alone: budgets, order, batches, registry, bad input."""

from dataclasses import FrozenInstanceError, dataclass, fields

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from lofi_core.errors import LofiError
from lofi_core.leverage import leverage_scores
from lofi_core.pruners import (
    AntiLoFi,
    IPRBudget,
    LoFi,
    Norm,
    Pruner,
    Random,
    ScorePruner,
    Selection,
    UniformGrid,
    VisualTokens,
    get_pruner,
    pruner_names,
    token_count,
)
from lofi_core.spectrum import ipr

OURS = ("anti-lofi", "lofi", "norm", "random", "uniform")


def make(B: int = 3, N: int = 24, D: int = 16, seed: int = 0, grid: bool = True) -> VisualTokens:
    g = torch.Generator().manual_seed(seed)
    X = torch.randn(B, N, D, generator=g) * torch.linspace(2, 0.1, D) + 1
    return VisualTokens(X, encoded=X.flip(-1), grids=((4, N // 4),) if grid else ((N,),))


@pytest.mark.parametrize("name", OURS)
@settings(deadline=None)
@given(keep=st.floats(0.001, 1), N=st.sampled_from([1, 4, 24, 144]))
def test_budget_order_and_range(name: str, keep: float, N: int) -> None:
    selection = get_pruner(name, keep=keep)(make(2, N, grid=N % 4 == 0))
    for kept in selection.kept:
        assert kept.dtype == torch.int64
        assert len(kept) == token_count(keep, N) == max(1, round(keep * N))
        assert (kept.diff() > 0).all() and kept[0] >= 0 and kept[-1] < N


@pytest.mark.parametrize("name", OURS)
def test_batches_equal_single_images(name: str) -> None:
    tokens = make()
    batch = get_pruner(name, keep=0.3)(tokens)
    for b, X in enumerate(tokens.projected):
        alone = get_pruner(name, keep=0.3)(VisualTokens(X[None], grids=tokens.grids))
        assert torch.equal(batch.kept[b], alone.kept[0])


def test_lofi_keeps_the_highest_leverage() -> None:
    X = make().projected
    for center in (False, True):
        kept = LoFi(keep=0.25, rank=5, center=center)(VisualTokens(X)).kept
        scores = leverage_scores(X, 5, center=center)
        for b in range(3):
            assert set(kept[b].tolist()) == set(scores[b].topk(6).indices.tolist())


def test_lofi_site_and_opposite() -> None:
    tokens = make()
    swapped = VisualTokens(tokens.encoded, encoded=tokens.projected)
    a = LoFi(keep=0.5, rank=3, site="encoder")(tokens).kept
    b = LoFi(keep=0.5, rank=3)(swapped).kept
    assert all(torch.equal(x, y) for x, y in zip(a, b, strict=True))
    low = AntiLoFi(keep=0.5, rank=3)(tokens).kept
    high = LoFi(keep=0.5, rank=3)(tokens).kept
    for x, y in zip(low, high, strict=True):
        assert torch.equal(torch.cat((x, y)).sort().values, torch.arange(24))


def test_random_depends_on_seed_alone() -> None:
    kept = [Random(keep=0.5, seed=s)(make(seed=t)).kept[0].tolist() for s in (0, 1) for t in (2, 3)]
    assert kept[0] == kept[1] != kept[2] == kept[3]


def test_norm_and_ties() -> None:
    X = torch.zeros(1, 6, 2)
    X[0, [1, 4]] = 3.0
    assert Norm(keep=0.5)(VisualTokens(X)).kept[0].tolist() == [0, 1, 4]


def test_uniform_grid_is_a_lattice() -> None:
    X = torch.randn(1, 576, 4)
    kept = UniformGrid(keep=0.25)(VisualTokens(X, grids=((24, 24),))).kept[0]
    cells = torch.zeros(576).index_fill_(0, kept, 1.0).view(24, 24)
    assert (torch.nn.functional.avg_pool2d(cells[None], 2) == 0.25).all()
    line = UniformGrid(keep=0.25)(VisualTokens(X, grids=((12, 24), (12, 24)))).kept[0]
    assert (line.diff() == 4).all()


@settings(deadline=None)
@given(h=st.integers(1, 12), w=st.integers(1, 12), share=st.floats(0.01, 1))
def test_uniform_grid_spreads(h: int, w: int, share: float) -> None:
    """Exactly m cells, and no row or pair of rows holds more than its share and one."""
    tokens = VisualTokens(torch.randn(1, h * w, 2), grids=((h, w),))
    kept = UniformGrid(keep=share)(tokens).kept[0]
    assert len(kept) == token_count(share, h * w)
    per_row = (kept // w).bincount(minlength=h)
    used = per_row[per_row > 0]
    assert used.max() - used.min() <= 1


# Budgets


def smallest(X: Tensor, order: Tensor, eps: float, floor: float, center: bool) -> int:
    """Brute force of the definition."""
    whole = ipr(X, center)
    for m in range(token_count(floor, len(X)), len(X) + 1):
        if (ipr(X[order[:m]], center) - whole).abs() <= eps * whole:
            return m
    raise AssertionError


@pytest.mark.parametrize("center", [False, True])
@pytest.mark.parametrize(("eps", "floor"), [(0.02, 0.05), (0.2, 0.05), (0.2, 0.6), (10.0, 0.2)])
def test_ipr_budget_is_the_smallest_within_tolerance(
    eps: float, floor: float, center: bool
) -> None:
    X = make(5).projected.double()
    order = torch.stack(
        [torch.randperm(24, generator=torch.Generator().manual_seed(i)) for i in range(5)]
    )
    counts = IPRBudget(eps=eps, floor=floor, center=center).counts(X, order)
    assert counts.tolist() == [smallest(X[b], order[b], eps, floor, center) for b in range(5)]


@settings(deadline=None)
@given(mean=st.floats(0.1, 1), seed=st.integers(0, 5))
def test_pinned_mean_is_met_exactly_by_one_tolerance(mean: float, seed: int) -> None:
    X = make(5, seed=seed).projected.double()
    order = torch.arange(24).expand(5, 24)
    counts = IPRBudget(floor=0.1, mean=mean).counts(X, order)
    assert counts.sum() == max(5 * 2, round(mean * 5 * 24))
    assert counts.min() >= 2 and counts.max() <= 24
    # There is an eps of which these are the counts, but for the one image where it falls between.
    whole = ipr(X, center=True)
    missed = torch.stack(
        [
            (ipr(X[b : b + 1, :m], center=True)[0] - whole[b]).abs() / whole[b]
            for b in range(5)
            for m in range(2, 25)
        ]
    )
    running = missed.view(5, 23).cummin(1).values
    taken = torch.arange(23) < (counts - 2)[:, None]
    if taken.any() and not taken[:, :-1].all():
        assert running[:, :-1][taken[:, :-1]].min() >= running[:, :-1][~taken[:, :-1]].max() - 1e-9


def test_ipr_budget_through_a_pruner() -> None:
    tokens = make(4)
    pruner = LoFi(keep=IPRBudget(mean=0.5), rank=4)
    selection = pruner(tokens)
    assert sum(map(len, selection.kept)) == 48
    assert len({len(kept) for kept in selection.kept}) > 1
    full = LoFi(keep=1.0, rank=4)
    assert selection.scores is not None
    for kept, scores in zip(selection.kept, selection.scores, strict=True):
        assert set(kept.tolist()) == set(scores.topk(len(kept)).indices.tolist())
    assert all(len(kept) == 24 for kept in full(tokens).kept)


def test_zero_and_equal_tokens_have_defined_results() -> None:
    for X in (torch.zeros(1, 8, 4), torch.ones(1, 8, 4), torch.ones(1, 1, 4)):
        for keep in (0.5, IPRBudget(eps=0.1), IPRBudget(mean=0.5)):
            kept = LoFi(keep=keep)(VisualTokens(X)).kept[0]
            assert torch.equal(kept, torch.arange(len(kept)))


# Registry and base class


def test_registry() -> None:
    assert set(OURS) <= set(pruner_names())
    for name in OURS:
        pruner = get_pruner(name)
        assert pruner.name == name and "keep" in {f.name for f in fields(pruner)}
        with pytest.raises(FrozenInstanceError):
            pruner.keep = 0.1  # type: ignore[misc]
    with pytest.raises(LofiError, match="no pruner 'lofy'"):
        get_pruner("lofy")
    with pytest.raises(LofiError, match=r"no parameter \['kepp'\]"):
        get_pruner("lofi", kepp=0.5)


def test_ten_lines_make_a_pruner() -> None:
    @dataclass(frozen=True, kw_only=True)
    class Channel(ScorePruner):
        channel: int = 0

        def scores(self, tokens: VisualTokens) -> Tensor:
            return tokens.projected[..., self.channel]

    tokens = make()
    kept = Channel(keep=0.25, channel=3)(tokens).kept
    for b in range(3):
        assert set(kept[b].tolist()) == set(tokens.projected[b, :, 3].topk(6).indices.tolist())
    assert "channel" not in pruner_names()


@pytest.mark.parametrize("keep", [0, -0.1, 1.5, 2, True, "half", float("nan"), None])
@pytest.mark.parametrize("name", OURS)
def test_bad_keep(name: str, keep: object) -> None:
    with pytest.raises(LofiError, match="fraction in"):
        get_pruner(name, keep=keep)


def test_bad_parameters() -> None:
    for bad in (
        dict(eps=0),
        dict(eps=-1),
        dict(floor=0),
        dict(floor=2),
        dict(mean=0.01),
        dict(mean=2),
    ):
        with pytest.raises(LofiError, match="IPRBudget"):
            IPRBudget(**bad)
    with pytest.raises(LofiError, match="site="):
        LoFi(site="middle")  # type: ignore[arg-type]
    with pytest.raises(LofiError, match="fraction"):
        UniformGrid(keep=IPRBudget())  # type: ignore[arg-type]
    with pytest.raises(LofiError, match="rank=99"):
        LoFi(rank=99)(make())
    with pytest.raises(LofiError, match=r"VisualTokens\.encoded"):
        LoFi(site="encoder")(VisualTokens(torch.randn(1, 4, 4)))
    bad_tokens = torch.randn(1, 4, 4)
    bad_tokens[0, 0, 0] = torch.inf
    with pytest.raises(LofiError, match="NaN or Inf"):
        Random()(VisualTokens(bad_tokens))


@pytest.mark.parametrize(
    ("kept", "tokens", "match"),
    [
        ([[3, 1]], None, "ascending"),
        ([[1, 1]], None, "ascending"),
        ([[1, 9]], None, "ascending"),
        ([[-1, 2]], None, "ascending"),
        ([[]], None, "at least one"),
        ([[1], [2]], None, "at least one"),
        ([[1, 2]], (1, 4), r"expected \(2, 4\)"),
    ],
)
def test_broken_promises(kept: list[list[int]], tokens: tuple[int, int] | None, match: str) -> None:
    class Broken(Pruner):
        def select(self, _: VisualTokens) -> Selection:
            new = None if tokens is None else (torch.zeros(tokens),)
            return Selection(tuple(torch.tensor(k, dtype=torch.int64) for k in kept), new)

    with pytest.raises(LofiError, match=match):
        Broken()(VisualTokens(torch.randn(1, 4, 4)))


X = torch.randn(2, 6, 4)
NAN = X.clone()
NAN[1, 2, 3] = torch.nan


@pytest.mark.parametrize(
    ("scores", "match"),
    [
        (torch.full((2, 6), torch.nan), "12 scores of 12 are NaN or Inf"),
        (NAN[..., 3], "1 scores of 12"),
        (X[..., 0].clone().index_fill(1, torch.tensor([4]), torch.inf), "2 scores of 12"),
        (X[0, :, 0], "one score per token"),
        (X[:, :3, 0], "one score per token"),
        (X, "one score per token"),
        (None, "NoneType"),
    ],
)
def test_scores_are_checked(scores: torch.Tensor | None, match: str) -> None:
    class Given(ScorePruner):
        def scores(self, _: VisualTokens) -> torch.Tensor:
            return scores  # type: ignore[return-value]

    with pytest.raises(LofiError, match=match):
        Given()(VisualTokens(X))


@pytest.mark.parametrize(
    ("selection", "match"),
    [
        (Selection((torch.arange(3),) * 2, (NAN[0, :3], NAN[1, :3])), "merged tokens hold NaN"),
        (Selection((torch.arange(3),) * 2, (X[0, :3],)), "tokens of shapes"),
        (Selection((torch.arange(3),) * 2, scores=NAN[..., 3]), "scores of 12 are NaN"),
        (Selection((torch.arange(3.0),) * 2), "int64"),
        ((torch.arange(3),) * 2, "expected a Selection"),
    ],
)
def test_selections_are_checked(selection: object, match: str) -> None:
    class Given(Pruner):
        def select(self, _: VisualTokens) -> Selection:
            return selection  # type: ignore[return-value]

    with pytest.raises(LofiError, match=match):
        Given()(VisualTokens(X))


@pytest.mark.parametrize(
    ("tokens", "match"),
    [
        (VisualTokens(X, keys=NAN), "VisualTokens.keys holds NaN"),
        (VisualTokens(X, keys=X[:, :5]), "VisualTokens.keys of shape"),
        (VisualTokens(X, keys=X[0]), "VisualTokens.keys of shape"),
        (VisualTokens(X[0]), "add the batch dimension"),
        (X, "expected VisualTokens"),
    ],
)
def test_facts_are_checked(tokens: VisualTokens, match: str) -> None:
    class Needs(Random):
        @property
        def needs(self) -> tuple[str, ...]:
            return ("keys",)

    with pytest.raises(LofiError, match=match):
        Needs()(tokens)
