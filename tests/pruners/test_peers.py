"""What all methods that act before the language model have in common."""

from typing import Any

import pytest
import torch
from clip_tokens import TEXT, image, make
from hypothesis import given, settings
from hypothesis import strategies as st
from tiny import FAMILIES
from torch import Tensor

from lofi_core.errors import LofiError
from lofi_core.pruners import (
    Downsample,
    InsidePruner,
    IPRBudget,
    OutlierBudget,
    VisionZip,
    VisualTokens,
    get_pruner,
    registered,
    token_count,
)
from lofi_core.pruning import prune_inputs

# Downsampling needs an image, and m that is a grid's: its tests are below.
OUTSIDE = [
    kind.name
    for kind in registered()
    if not issubclass(kind, InsidePruner) and kind is not Downsample
]


@pytest.mark.parametrize("name", OUTSIDE)
@settings(max_examples=25, deadline=None)
@given(keep=st.floats(0.001, 1), N=st.sampled_from([1, 2, 5, 36]))
def test_budget_is_met_exactly(name: str, keep: float, N: int) -> None:
    tokens = make(2, N)
    rank = {"rank": 0} if name == "lrcp" else {}
    selection = get_pruner(name, keep=keep, **TEXT.get(name, {}), **rank)(tokens)
    m = token_count(keep, N)
    assert [len(kept) for kept in selection.kept] == [m, m]
    if selection.tokens is not None:
        assert all(x.isfinite().all() for x in selection.tokens)


@pytest.mark.parametrize("keep", [0.3, None])
@pytest.mark.parametrize("name", OUTSIDE)
def test_batches_equal_single_images(name: str, keep: float | None) -> None:
    tokens = make()
    pruner = get_pruner(name, **TEXT.get(name, {}), **({"keep": keep} if keep else {}))
    batch = pruner(tokens)
    for b in range(3):
        alone = pruner(image(tokens, b))
        assert torch.equal(batch.kept[b], alone.kept[0])
        if batch.tokens is not None and alone.tokens is not None:
            torch.testing.assert_close(batch.tokens[b], alone.tokens[0], rtol=0, atol=1e-5)


@pytest.mark.parametrize("name", OUTSIDE)
def test_keeping_all_changes_nothing(name: str) -> None:
    tokens = make(2, 9)
    selection = get_pruner(name, keep=1.0, **TEXT.get(name, {}))(tokens)
    for b, kept in enumerate(selection.kept):
        assert torch.equal(kept, torch.arange(9))
        if selection.tokens is not None:
            assert torch.equal(selection.tokens[b], tokens.projected[b])


@pytest.mark.parametrize("name", OUTSIDE)
def test_missing_facts_are_refused(name: str) -> None:
    pruner = get_pruner(name, **TEXT.get(name, {}))
    if pruner.needs:
        with pytest.raises(LofiError, match=pruner.needs[0]):
            pruner(VisualTokens(torch.ones(1, 9, 4)))


@pytest.mark.parametrize("name", ["trim", "cdpruner"])
def test_text_side_is_refused_not_faked(name: str) -> None:
    with pytest.raises(LofiError, match="text side"):
        get_pruner(name, keep=0.5)(make())
    with pytest.raises(LofiError, match="text_embeds of shape"):
        get_pruner(name, keep=0.5, **TEXT[name] | {"text_embeds": torch.ones(1, 5)})(make())


@pytest.mark.parametrize("name", ["divprune", "cdpruner", "deflated-lofi", "fastervlm", "lrcp"])
def test_ipr_budgets(name: str) -> None:
    rule = IPRBudget(mean=0.5, floor=0.1)
    selection = get_pruner(name, keep=rule, **TEXT.get(name, {}))(make())
    assert sum(map(len, selection.kept)) == 54


@pytest.mark.parametrize("name", ["visionzip", "vispruner", "tome", "hired", "pool"])
def test_rules_are_refused_where_m_comes_first(name: str) -> None:
    with pytest.raises(LofiError, match="keep="):
        get_pruner(name, keep=IPRBudget())


def test_outlier_budget_is_the_textbook_fence() -> None:
    scores = torch.tensor([[0.0, 1, 2, 3, 4, 5, 6, 7, 8, 100, 90], [1.0] * 11])
    assert OutlierBudget().counts(scores).tolist() == [2, 1]
    assert len(get_pruner("norm", keep=OutlierBudget())(make()).kept) == 3


@pytest.mark.parametrize("family", ["llava", "llava_next"])
@pytest.mark.parametrize("name", OUTSIDE)
def test_through_a_model(name: str, family: str) -> None:
    model = FAMILIES[family].model()
    with torch.no_grad():
        inputs = FAMILIES[family].inputs([[3, "a", 4], [2, "a", 1, "a", 2]])
        pruned = prune_inputs(model, inputs, get_pruner(name, keep=0.5, **TEXT.get(name, {})))
        for picture in pruned.report.images:
            N = sum(mask.numel() for mask in picture.masks)
            assert len(picture.kept) == token_count(0.5, N)
        assert model(**pruned).logits.isfinite().all()
        every = prune_inputs(model, inputs, get_pruner(name, keep=1.0, **TEXT.get(name, {})))
        assert torch.equal(model(**every).logits, model(**inputs).logits)


def test_merged_tokens_are_projected() -> None:
    """What the language model gets is the projector's image of what was merged before it."""
    model = FAMILIES["llava"].model()
    inputs = FAMILIES["llava"].inputs([[3, "a", 4]])
    seen: list[Tensor] = []

    class Spy(VisionZip):
        def merge(self, tokens: VisualTokens) -> list[Any]:
            merged = super().merge(tokens)
            seen.append(merged[0].tokens)
            return merged

    with torch.no_grad():
        pruned = prune_inputs(model, inputs, Spy(keep=0.5, order="authors"))
        expected = model.base_model.multi_modal_projector(seen[0])
    got = torch.cat(list(pruned["mm_encoder_outputs"]["image"].pooler_output))
    torch.testing.assert_close(got.flatten(), expected.flatten())
