"""Single methods: what their definitions imply."""

from typing import Any

import pytest
import torch
from clip_tokens import TEXT, make
from hypothesis import given, settings
from hypothesis import strategies as st
from tiny import FAMILIES
from torch import Tensor
from torch.nn.functional import avg_pool2d, normalize

from lofi_core.errors import LofiError
from lofi_core.leverage import ridge_leverage_scores
from lofi_core.pruners import (
    LRCP,
    AveragePool,
    ClipText,
    DeflatedLoFi,
    Downsample,
    HiRED,
    LoFi,
    PruMerge,
    ToMe,
    VisionZip,
    VisualTokens,
    get_pruner,
    token_count,
)
from lofi_core.pruners.downsample import smaller_grid
from lofi_core.pruners.greedy import farthest_points, pivoted_cholesky
from lofi_core.pruning import prune_inputs
from lofi_core.scene_vlm import CLIP_PATH


def test_greedy_choices_against_brute_force() -> None:
    X = torch.randn(2, 9, 6, generator=torch.Generator().manual_seed(1)).double()
    K = X @ X.mT
    D = torch.cdist(X, X)
    for b in range(2):
        chosen: list[int] = []
        far = [int((D[b] + torch.eye(9) * 1e9).amin(1).argmax())]
        for _ in range(4):
            sets = [[*chosen, i] for i in range(9) if i not in chosen]
            chosen = max(sets, key=lambda s: K[b][s][:, s].det().item())
            gaps = {i: min(D[b, i, s].item() for s in far) for i in range(9) if i not in far}
            far.append(max(gaps, key=lambda i: gaps[i]))
        assert pivoted_cholesky(K, 4)[b].tolist() == chosen
        assert farthest_points(D, 5)[b].tolist() == far


def test_pivoted_cholesky_outlives_the_rank() -> None:
    x = torch.tensor([[[3.0, 0], [2, 0], [0, 1], [1, 0], [0, 0]]])
    assert pivoted_cholesky(x @ x.mT, 5).tolist() == [[0, 2, 1, 3, 4]]
    assert sorted(pivoted_cholesky(torch.zeros(1, 4, 4), 4)[0].tolist()) == [0, 1, 2, 3]


@pytest.mark.parametrize("shape", [(30, 6), (6, 30)])
def test_deflated_lofi_starts_at_the_highest_ridge_leverage(shape: tuple[int, int]) -> None:
    X = torch.randn(2, *shape, generator=torch.Generator().manual_seed(2))
    first = DeflatedLoFi(keep=1e-6)(VisualTokens(X)).kept
    scores = ridge_leverage_scores(X, 1.0, relative=True, center=True)
    assert torch.equal(torch.cat(first), scores.argmax(-1))


@pytest.mark.parametrize("kernel", ["leverage", "gram"])
def test_deflated_lofi_takes_no_copies(kernel: Any) -> None:
    """Eight directions, four copies of each: plain leverage can't tell copies, deflation can."""
    distinct = torch.randn(8, 12, generator=torch.Generator().manual_seed(3))
    X = distinct.repeat(4, 1)[None]
    kept = DeflatedLoFi(keep=0.25, kernel=kernel, center=False)(VisualTokens(X)).kept[0]
    assert sorted((kept % 8).tolist()) == list(range(8))


def test_merging_conserves_the_sum() -> None:
    """Means times group sizes are all that was there."""
    tokens = make(1)
    for pruner in (DeflatedLoFi(keep=0.3, merge=True), LoFi(keep=0.3, merge=True), LRCP(keep=0.3)):
        selection = pruner(tokens)
        assert selection.tokens is not None
        X, kept = tokens.projected[0], selection.kept[0]
        unit = normalize(X, dim=-1)
        nearest = (unit @ unit[kept].mT).argmax(-1)
        nearest[kept] = torch.arange(len(kept))
        expected = torch.stack([X[nearest == j].mean(0) for j in range(len(kept))])
        torch.testing.assert_close(selection.tokens[0], expected)


def test_tome_averages_partition_the_tokens() -> None:
    tokens = make(1)
    assert tokens.encoded is not None
    merged = ToMe(keep=1 / 36, r=5)(tokens)
    assert merged.tokens is not None  # one token left: the mean of all, projected
    torch.testing.assert_close(merged.tokens[0], tokens.projected.mean(1))


def test_places_and_authors_order() -> None:
    tokens = make(2)
    spatial, authors = (
        VisionZip(keep=0.5, order=order)(tokens) for order in ("spatial", "authors")
    )
    assert all(map(torch.equal, spatial.kept, authors.kept))
    assert spatial.tokens is not None and authors.tokens is not None
    assert tokens.project is not None
    parts = VisionZip(keep=0.5).parts(tokens)
    assert parts.tokens.shape == (2, 18, 8)
    for b in range(2):
        torch.testing.assert_close(authors.tokens[b], tokens.project(parts.tokens[b]))
        where = torch.searchsorted(spatial.kept[b], parts.dominant[b])
        torch.testing.assert_close(spatial.tokens[b][where], tokens.projected[b, parts.dominant[b]])


def test_prumerge_extra_token_stands_at_the_last_gap() -> None:
    merged = PruMerge(keep=0.25).merge(make(1))[0]
    dropped = set(range(36)) - set(merged.places[:-1].tolist())
    assert merged.places[-1] == max(dropped)


@pytest.mark.parametrize(("N", "neighbours"), [(576, 32), (144, 32), (144, 8)])
def test_prumerge_adds_its_neighbours_share_of_the_attention(N: int, neighbours: int) -> None:
    """Under even attention a centre grows by neighbours / N: 6 % as published, 22 % of 144."""
    keys = torch.randn(1, N, 16, generator=torch.Generator().manual_seed(0))
    even, ones = torch.full((1, N), 1 / N), torch.ones(1, N, 4)
    tokens = VisualTokens(ones, encoded=ones, last_keys=keys, last_cls_attention=even)
    centres = PruMerge(keep=0.75, neighbours=neighbours).merge(tokens)[0].tokens[:-1]
    torch.testing.assert_close(centres, torch.full_like(centres, 1 + neighbours / N))


def test_average_pool_is_pooling() -> None:
    X = torch.randn(2, 36, 3)
    selection = AveragePool(keep=0.25)(VisualTokens(X, grids=((6, 6),)))
    assert selection.tokens is not None
    expected = avg_pool2d(X.mT.unflatten(-1, (6, 6)), 2).flatten(2).mT
    torch.testing.assert_close(torch.stack(selection.tokens), expected)


def test_lofi_by_ridge() -> None:
    tokens = make()
    scores = ridge_leverage_scores(tokens.projected, 0.3, relative=True, center=True)
    for kept, row in zip(LoFi(keep=0.25, ridge=0.3)(tokens).kept, scores, strict=True):
        assert set(kept.tolist()) == set(row.topk(9).indices.tolist())
    with pytest.raises(LofiError, match="ridge=-1"):
        LoFi(ridge=-1)


@given(h=st.integers(1, 12), w=st.integers(1, 12), share=st.floats(0.01, 1))
@settings(deadline=None)
def test_smaller_grids_fit(h: int, w: int, share: float) -> None:
    m = token_count(share, h * w)
    rows, columns = smaller_grid(h, w, m)
    assert 1 <= rows <= h and 1 <= columns <= w and rows * columns <= m
    assert m < h * w or (rows, columns) == (h, w)


def test_downsampling_encodes_a_smaller_image() -> None:
    model, inputs = FAMILIES["llava"].model(), FAMILIES["llava"].inputs([[3, "a", 4], [2, "a", 2]])
    pixels = inputs["pixel_values"]
    small = torch.nn.functional.interpolate(pixels, (12, 12), mode="bicubic", antialias=True)
    with torch.no_grad():
        pruned = prune_inputs(model, inputs, Downsample(keep=0.25))
        features = model.model.get_image_features(small, interpolate_pos_encoding=True)
    got = torch.cat(list(pruned["mm_encoder_outputs"]["image"].pooler_output))
    torch.testing.assert_close(got, torch.cat(list(features.pooler_output)))
    corner = torch.tensor([7, 9, 11, 19, 21, 23, 31, 33, 35])  # the lower right of each 2 x 2
    assert all(torch.equal(image.kept, corner) for image in pruned.report.images)
    assert Downsample(keep=0.4)(with_image(make(1))).kept[0].shape == (12,)  # 3 x 4 of at most 14


def with_image(tokens: VisualTokens) -> VisualTokens:
    """Add an image of 4 x 4 pixels a patch, and an encoder that averages each patch."""
    D = tokens.projected.shape[-1]
    h, w = tokens.grids[0]
    pixels = torch.rand(len(tokens.projected), 3, 4 * h, 4 * w, generator=torch.Generator())

    def encode(pixels: Tensor) -> Tensor:
        return avg_pool2d(pixels, 4).flatten(2).mT.repeat(1, 1, D // 3)

    return VisualTokens(**vars(tokens) | {"pixels": pixels, "encode": encode})


def test_downsampling_is_refused_where_it_cannot_be() -> None:
    for family in ("llava_next", "qwen2_vl"):
        model, inputs = FAMILIES[family].model(), FAMILIES[family].inputs([[3, "a", 4]])
        with pytest.raises(LofiError, match="before the processor"):
            prune_inputs(model, inputs, Downsample(keep=0.5))
    with pytest.raises(LofiError, match="one grid"):
        Downsample(keep=0.5)(VisualTokens(**vars(with_image(make())) | {"grids": ((36,),)}))


def test_questions_are_embedded_one_by_one() -> None:
    """Padding does not matter, and equals the text tower as CLIP itself runs it."""
    clip = ClipText.load(CLIP_PATH)
    questions = ["What color is the circle ?", "Is there a large red square ?"]
    together = clip.embed(questions)
    for question, row in zip(questions, together, strict=True):
        ids = clip.tokenizer(question, return_tensors="pt")
        with torch.no_grad():
            expected = clip.model.get_text_features(**ids).pooler_output
        torch.testing.assert_close(row, expected, rtol=0, atol=1e-5)
    trim = clip.ask(get_pruner("trim", keep=0.5, sign=1), questions)
    assert trim.sign == 1 and trim.text_embeds.shape == (2, 1, 128)
    with pytest.raises(LofiError, match="sign=0"):
        get_pruner("trim", sign=0)


@pytest.mark.parametrize("name", ["trim", "cdpruner"])
def test_the_sign_turns_relevance_around(name: str) -> None:
    tokens = make(1)
    text = {**TEXT[name], "keep": 0.1}
    near, far = (get_pruner(name, sign=sign, **text)(tokens).kept[0] for sign in (1, -1))
    assert tokens.encoded is not None
    similar = normalize(tokens.encoded[0, :, :6], dim=-1) @ TEXT[name]["text_embeds"][0]
    assert similar[near].mean() > similar[far].mean()


def hired_tokens(seed: int = 0) -> VisualTokens:
    """An overview of 4 x 4 and four crops of 4 x 4, packed into one grid of 8 x 8."""
    crops = torch.arange(1, 5).view(2, 2).repeat_interleave(4, 0).repeat_interleave(4, 1)
    crops = torch.cat((torch.zeros(16, dtype=torch.int64), crops.flatten()))
    g = torch.Generator().manual_seed(seed)
    A, F = (torch.rand(1, 2, 80, generator=g) for _ in range(2))
    return VisualTokens(
        torch.ones(1, 80, 2),
        cls_attention=A,
        first_cls_attention=F,
        crops=crops[None],
        grids=((4, 4), (8, 8)),
    )


@given(keep=st.floats(0.02, 1), alpha=st.floats(0, 1), seed=st.integers(0, 3))
@settings(deadline=None, max_examples=40)
def test_hired_spends_its_budget(keep: float, alpha: float, seed: int) -> None:
    tokens = hired_tokens(seed)
    pruner = HiRED(keep=keep, alpha=alpha)
    budgets = pruner.budgets(tokens)[0]
    assert budgets.sum() == token_count(keep, 80) and (budgets <= 16).all()
    kept = pruner(tokens).kept[0]
    assert tokens.crops is not None
    assert torch.equal(tokens.crops[0][kept].bincount(minlength=5), budgets)


def test_hired_votes_by_quadrant() -> None:
    """What the first layer sees in the overview's upper right corner feeds the upper right crop."""
    tokens = hired_tokens()
    assert tokens.first_cls_attention is not None
    tokens.first_cls_attention[..., :16] = 0
    tokens.first_cls_attention[..., [2, 3, 6, 7]] = 1
    overview = HiRED(keep=0.2, alpha=0.75).budgets(tokens)[0].tolist()
    assert overview == [12, 0, 4, 0, 0]
