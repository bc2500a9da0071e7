"""Figures of representations, against brute force; the states that a model gives at each site."""

from dataclasses import replace

import numpy as np
import pytest
import scipy.linalg
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from lofi_core.errors import LofiError
from lofi_core.evaluation.sites import IPRS, SiteReference, text_iprs
from lofi_core.evaluation.states import Reference, read_sites
from lofi_core.pruners import AveragePool, LoFi, Random
from lofi_core.scene_vlm import load
from lofi_core.scenes.vqa import SceneVQA
from lofi_core.vlm.encoding import encode_inputs
from lofi_core.vlm.packing import Packed, pack
from lofi_core.vlm.prompts import chat_inputs


def tokens(*shape: int, seed: int = 0) -> torch.Tensor:
    generator = torch.Generator().manual_seed(seed)
    X = torch.randn(*shape, generator=generator, dtype=torch.float64)
    return X * torch.linspace(0.2, 3, shape[-1]).double() + 1.5  # a mean, and a spectrum


def brute_ipr(X: np.ndarray, power: int) -> float:
    s = np.linalg.svd(X, compute_uv=False) ** power
    return float(((s / s.sum()) ** 2).sum())


class First:
    """The first k directions, of every image."""

    def __init__(self, k: int) -> None:
        self.k = k

    def __call__(self, s: torch.Tensor) -> torch.Tensor:
        return torch.full(s.shape[:-1], self.k)


@settings(max_examples=30, deadline=None)
@given(
    m=st.integers(1, 20), k=st.integers(1, 5), D=st.sampled_from([6, 40]), seed=st.integers(0, 99)
)
def test_figures_are_those_of_brute_force(m: int, k: int, D: int, seed: int) -> None:
    X, Y = tokens(2, 20, D, seed=seed), tokens(2, m, D, seed=seed + 100)
    Y[1] = X[1, :m]
    figures = SiteReference(X, First(k)).figures(Y)
    for b in range(2):
        x, y = X[b].numpy(), Y[b].numpy()
        xc, yc = x - x.mean(0), y - y.mean(0)
        found = {name: value[b].item() for name, value in figures.items()}
        assert found["ipr"] == pytest.approx(brute_ipr(y, 2), rel=1e-5)
        assert found["amplitude_ipr"] == pytest.approx(brute_ipr(y, 1), rel=1e-5)
        span = scipy.linalg.orth(yc.T, rcond=1e-9)
        inside = (xc @ span**1) if m > 1 else np.zeros(1)
        assert found["retained_energy"] == pytest.approx(
            (inside**2).sum() / (xc**2).sum(), abs=1e-5
        )
        if m == 1:
            assert found["ipr_centered"] == found["amplitude_ipr_centered"] == 0
            assert found["subspace_distance"] == 1
            continue
        assert found["ipr_centered"] == pytest.approx(brute_ipr(yc, 2), rel=1e-5)
        assert found["amplitude_ipr_centered"] == pytest.approx(brute_ipr(yc, 1), rel=1e-5)
        there = min(k, m - 1, D)
        V = np.linalg.svd(xc, full_matrices=False)[2][:k].T
        W = np.linalg.svd(yc, full_matrices=False)[2][:there].T
        angles = scipy.linalg.subspace_angles(V, W)
        lost = 1 - (np.cos(angles) ** 2).sum() / min(k, V.shape[1])
        assert found["subspace_distance"] == pytest.approx(max(0, lost) ** 0.5, abs=1e-4)


def test_keeping_everything_changes_nothing() -> None:
    X = tokens(3, 12, 30)
    figures = SiteReference(X).figures(X[:, torch.randperm(12)])
    assert figures["retained_energy"].tolist() == pytest.approx([1] * 3, abs=1e-6)
    assert figures["subspace_distance"].tolist() == pytest.approx([0] * 3, abs=1e-5)


def test_some_images_alone() -> None:
    X, Y = tokens(4, 12, 30), tokens(4, 5, 30, seed=1)
    whole, part = SiteReference(X).figures(Y), SiteReference(X)[[3, 1]].figures(Y[[3, 1]])
    for name in whole:
        assert part[name].tolist() == whole[name][[3, 1]].tolist()


def test_equal_tokens_lose_nothing() -> None:
    figures = SiteReference(torch.ones(1, 5, 4)).figures(torch.ones(1, 2, 4))
    assert figures["retained_energy"] == 1 and figures["subspace_distance"] == 0
    assert figures["ipr"] == 1 and figures["ipr_centered"] == 0


def test_text_of_any_length() -> None:
    words = [tokens(n, 9, seed=n) for n in (1, 4, 12)]
    found = text_iprs(words)
    for row, X in zip(found, words, strict=True):
        x = X.numpy()
        assert row[0].item() == pytest.approx(brute_ipr(x, 2), rel=1e-5)
        if len(x) > 1:
            assert row[1].item() == pytest.approx(brute_ipr(x - x.mean(0), 2), rel=1e-5)
    assert found[0, 1] == 0


def test_shapes_that_do_not_fit() -> None:
    with pytest.raises(LofiError, match="expected \\(B, N, D\\)"):
        SiteReference(torch.ones(3, 4))
    with pytest.raises(LofiError, match="B and D"):
        SiteReference(tokens(2, 5, 4)).figures(tokens(2, 5, 3))
    with pytest.raises(LofiError, match="finite"):
        SiteReference(torch.full((1, 2, 2), torch.nan))


# Through a model


@pytest.fixture(scope="module")
def packed() -> Packed:
    """Two images, the first with two questions, the second with one."""
    model, processor = load()
    scenes = [SceneVQA("validation")[i] for i in range(2)]
    chats = [(i, scenes[i].questions[n].text) for i, n in ((0, 0), (0, 1), (1, 1))]
    inputs = chat_inputs(processor, [(scenes[i].image, text) for i, text in chats])
    alone = chat_inputs(processor, [(s.image, s.questions[0].text) for s in scenes])
    return pack(encode_inputs(model, alone, ["encoded"]), inputs, [0, 0, 1])


def test_sites_of_the_unpruned_model(packed: Packed) -> None:
    model, processor = load()
    sites = read_sites(packed, Random(keep=1.0))
    scene = SceneVQA("validation")[1]
    inputs = chat_inputs(processor, [(scene.image, scene.questions[1].text)])
    with torch.no_grad():
        hidden = model(**inputs, output_hidden_states=True).hidden_states
    visual = inputs["input_ids"][0] == model.config.image_token_id
    names = ["encoder", "projector", *(f"layer {i}" for i in range(1, len(hidden)))]
    assert list(sites.visual) == names and list(sites.text) == names[2:]
    assert sites.images == [0, 0, 1]
    close = {"atol": 1e-4, "rtol": 1e-4}
    known = packed.encoded.pictures[1].known["encoded"]
    torch.testing.assert_close(sites.visual["encoder"][1], known)
    after = int(visual.nonzero()[-1]) + 1
    for name, states in zip(names[1:], hidden, strict=True):
        torch.testing.assert_close(sites.visual[name][1], states[0, visual], **close)
        if name in sites.text:
            torch.testing.assert_close(sites.text[name][2], states[0, after:], **close)
    torch.testing.assert_close(sites.last[2], hidden[-1][0, -1], **close)


def test_comparison_of_sites(packed: Packed) -> None:
    before = read_sites(packed, Random(keep=1.0))
    after = read_sites(packed, LoFi(keep=0.2))
    found = Reference(before).compare(after, images=2)
    rows = {(row["site"], row["tokens"]): row for row in found.sites[1]}
    expected = SiteReference(before.visual["layer 2"][1][None]).figures(
        after.visual["layer 2"][1][None]
    )
    for name, value in expected.items():
        assert rows["layer 2", "visual"][name] == pytest.approx(value.item(), rel=1e-5)
    cosine = torch.cosine_similarity(before.last[2], after.last[2], dim=0).item()
    assert found.hidden_distance[2] == pytest.approx(1 - cosine, abs=1e-6)
    two = text_iprs(after.text["layer 1"][:2]).mean(0)
    (first,) = (
        row for row in found.sites[0] if (row["site"], row["tokens"]) == ("layer 1", "text")
    )
    assert [first[name] for name in IPRS[:2]] == pytest.approx(two.tolist())
    last = [*before.text][-1]
    change = text_iprs([after.text[last][2]])[0, 1] / text_iprs([before.text[last][2]])[0, 1] - 1
    assert found.text_ipr_change[2] == pytest.approx(change.item(), rel=1e-4)
    same = Reference(before).compare(before, images=1)
    assert len(same.sites) == 1 and len(same.hidden_distance) == 2
    assert max(same.hidden_distance) < 1e-6


def test_merged_tokens_have_no_place_in_the_encoder(packed: Packed) -> None:
    assert "encoder" not in read_sites(packed, AveragePool(keep=0.2)).visual


def test_nothing_recorded_at_the_encoder(packed: Packed) -> None:
    bare = [replace(picture, known={}) for picture in packed.encoded.pictures]
    with pytest.raises(LofiError, match="nothing recorded"):
        read_sites(Packed(replace(packed.encoded, pictures=bare)), LoFi())
