"""Models spread over devices: no part of the path assumes that there is one."""

import copy
from collections.abc import Callable

import pytest
import torch
from places import Places, move, place, spread
from tiny import FAMILIES

from lofi_core.errors import LofiError
from lofi_core.pruners import FastV, LoFi, get_pruner
from lofi_core.pruning import prune_inputs, pruning

ROWS = [[3, "a", 4], [5, "a", 2, "a", 6], [4]]
# The decomposition that a GPU would be given; on the CPU, the default leaves PyTorch.
LOFI = LoFi(keep=0.5, method="svd")


def by_part(name: str) -> int:
    """The encoder here, projector and language model there."""
    parts = ("language_model", "text_model", "lm_head", "projector", "connector")
    return 2 if any(part in name for part in parts) else 1


def by_turns(name: str) -> int:
    """Every other layer of encoder and language model there."""
    numbers = [int(part) for part in name.split(".") if part.isdecimal()]
    return 1 + (numbers[0] % 2 if numbers else 0)


# Unpruned, these two fail in transformers itself: vipllava joins features of several layers, and
# paligemma's mask knows one device.
CASES = [
    (family, where)
    for family in FAMILIES
    for where in (by_part, by_turns)
    if (family, where) not in (("vipllava", by_turns), ("paligemma", by_part))
]


@pytest.mark.parametrize(("family", "where"), CASES)
@torch.no_grad()
def test_spread_models_say_the_same(family: str, where: Callable[[str], int]) -> None:
    tiny = FAMILIES[family]
    plain, inputs = tiny.model(), tiny.inputs(ROWS)
    expected = plain(**prune_inputs(plain, inputs, LOFI)).logits
    model = copy.deepcopy(plain)
    spread(model, where)
    with Places():
        pruned = prune_inputs(model, move(inputs, 1), LOFI)
        logits = model(**pruned).logits
    torch.testing.assert_close(logits, expected, rtol=0, atol=1e-5)
    assert {place(pruned[name]) for name in ("input_ids", "attention_mask", "position_ids")} == {1}


@pytest.mark.parametrize("where", [by_part, by_turns])
@pytest.mark.parametrize("name", ["visionzip", "vispruner", "hired", "fastervlm", "prumerge"])
@torch.no_grad()
def test_what_the_encoder_knows_comes_along(name: str, where: Callable[[str], int]) -> None:
    pruner = get_pruner(name, keep=0.5)
    plain, inputs = FAMILIES["llava"].model(), FAMILIES["llava"].inputs(ROWS)
    expected = prune_inputs(plain, inputs, pruner).report.images
    model = copy.deepcopy(plain)
    spread(model, where)
    with Places():
        got = prune_inputs(model, move(inputs, 1), pruner).report.images
    assert all(torch.equal(a.kept, b.kept) for a, b in zip(got, expected, strict=True))


@torch.no_grad()
def test_generation() -> None:
    tiny = FAMILIES["qwen3_vl"]
    plain, inputs = tiny.model(), tiny.inputs(ROWS)
    options = dict(max_new_tokens=3, do_sample=False)
    expected = plain.generate(**prune_inputs(plain, inputs, LOFI), **options)
    model = copy.deepcopy(plain)
    spread(model, by_part)
    with Places(), pruning(model, LOFI):
        answers = model.generate(**move(inputs, 1), **options)
    assert torch.equal(answers[:, -3:], expected[:, -3:])


@torch.no_grad()
def test_pruning_inside_needs_a_language_model_in_one_place() -> None:
    tiny, pruner = FAMILIES["llava"], FastV(keep=0.7, layer=1)
    plain, inputs = tiny.model(), tiny.inputs(ROWS)
    with pruning(plain, pruner):
        expected = plain(**inputs).logits
    apart, torn = copy.deepcopy(plain), copy.deepcopy(plain)
    spread(apart, by_part)
    spread(torn, by_turns)
    with Places():
        with pruning(apart, pruner):
            logits = apart(**move(inputs, 1)).logits
        with pytest.raises(LofiError, match="on 2 devices"), pruning(torn, pruner):
            pass
    torch.testing.assert_close(logits, expected, rtol=0, atol=1e-5)


def test_places_do_not_mix() -> None:
    with Places():
        a, b = (torch.ones(3, device=torch.device("cpu", i)) for i in (1, 2))
        with pytest.raises(RuntimeError, match="expected one place"):
            a + b
        assert place(a + b.to(a.device)) == place(a[torch.tensor([0])]) == 1
        assert place(b) == 2
        with pytest.raises(RuntimeError, match="expected one place"):
            a[b.long()]
