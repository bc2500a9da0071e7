"""A pruner attached to a model that several threads and tasks use, and what cannot have one."""

import asyncio
import copy
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import pytest
import torch
from tiny import FAMILIES, Llava, Row
from torch import nn

from lofi_core.errors import LofiError
from lofi_core.pruners import FastV, LoFi, Pruner, Random, get_pruner
from lofi_core.pruning import attach, detach, prune_inputs, pruning

ROWS: list[list[Row]] = [[[3, "a", 4]], [[9, "a", 2]], [[2, "a", 5, "a", 3]]]
OPTIONS: dict[str, Any] = dict(max_new_tokens=6, do_sample=False)
PRUNERS: dict[str, Any] = {
    "lofi": LoFi(keep=0.3),
    "vispruner": get_pruner("vispruner", keep=0.3),  # has the encoder watched
    "fastv": FastV(layer=1, ratio=0.6),
}


def requests() -> list[dict[str, Any]]:
    """Prompts with images, and one of text alone."""
    text = Llava().inputs([[6]])
    return [Llava().inputs(rows, seeds=[i]) for i, rows in enumerate(ROWS)] + [text]


@torch.no_grad()
def work(model: Any, number: int) -> torch.Tensor:
    """Generate, or run forward, on a request that depends on the number."""
    inputs = requests()[number % 4]
    if number % 3 == 0:
        return model(**inputs).logits[:, -1]
    return model.generate(**inputs, **OPTIONS)


@pytest.mark.parametrize("name", PRUNERS)
def test_threads_at_the_same_time(name: str) -> None:
    """Forward beside generate, generate beside generate, prompts of other lengths."""
    model = copy.deepcopy(Llava().model())
    traffic = attach(model, PRUNERS[name])
    expected = [work(model, i) for i in range(12)]
    with ThreadPoolExecutor(6) as pool:
        got = list(pool.map(lambda i: work(model, i % 12), range(48)))
    for i, result in enumerate(got):
        torch.testing.assert_close(result, expected[i % 12], rtol=0, atol=1e-5)
    assert traffic.pruned == 60 * 3 // 4 and traffic.passed == 60 // 4
    assert traffic.tokens_after < traffic.tokens_before == 5 * 36 * 12
    detach(model)
    plain = Llava().model()
    assert not torch.equal(plain(**requests()[0]).logits[:, -1], expected[0])
    assert torch.equal(model(**requests()[0]).logits, plain(**requests()[0]).logits)


def test_tasks_at_the_same_time() -> None:
    model = copy.deepcopy(Llava().model())
    with pruning(model, LoFi(keep=0.3)):
        expected = [work(model, i) for i in (1, 2)]

        async def both() -> list[torch.Tensor]:
            return await asyncio.gather(*(asyncio.to_thread(work, model, i) for i in (1, 2)))

        for _ in range(4):
            got = asyncio.run(both())
            assert all(torch.equal(a, b) for a, b in zip(got, expected, strict=True))


@torch.no_grad()
def test_calls_without_images() -> None:
    model, (image, *_, text) = copy.deepcopy(Llava().model()), requests()
    plain = model.generate(**text, **OPTIONS)
    before = set(vars(model))
    traffic = attach(model, LoFi(keep=0.5))
    assert torch.equal(model.generate(**text, **OPTIONS), plain)
    pruned = prune_inputs(model, image, LoFi(keep=0.5))
    answer = model.generate(**image, **OPTIONS)[:, -6:]
    # Decoding by hand: what follows the prompt brings no image, and passes.
    out = model(**image, use_cache=True)
    step = model(input_ids=answer[:, :1], past_key_values=out.past_key_values)
    assert out.past_key_values.get_seq_length() == pruned["input_ids"].shape[1] + 1
    assert step.logits.shape[1] == 1
    with pytest.raises(LofiError, match="no pixels"):
        model(input_ids=image["input_ids"])
    assert (traffic.pruned, traffic.passed) == (2, 2)
    detach(model)
    assert set(vars(model)) == before
    attach(model, LoFi(keep=0.5), on_no_image="raise")
    with pytest.raises(LofiError, match="no image"):
        model.generate(**text, **OPTIONS)
    with pytest.raises(LofiError, match="already pruned"):
        attach(model, Random())
    detach(model)
    with pytest.raises(LofiError, match="no pruner is attached"):
        detach(model)
    with pytest.raises(LofiError, match="on_no_image"):
        attach(model, LoFi(), on_no_image="ignore")  # type: ignore[arg-type]


class Peft(nn.Module):
    """What a PEFT model looks like from outside."""

    def __init__(self, model: Any) -> None:
        super().__init__()
        self.inner = model

    def get_base_model(self) -> Any:
        return self.inner


def test_classes_and_wrappers_are_refused() -> None:
    model, inputs = Llava().model(), requests()[0]
    kind = type(model)
    forward, generate = kind.forward, kind.generate
    for bad, match in (
        (kind, "the class LlavaForConditionalGeneration"),
        (Peft(model), r"get_base_model\(\)"),
        (nn.DataParallel(model), r"pass model\.module"),
        (nn.Linear(2, 2), "a Linear"),
    ):
        for pruner in (LoFi(), FastV(layer=1)):
            with pytest.raises(LofiError, match=match), pruning(bad, pruner):
                pass
        with pytest.raises(LofiError, match=match):
            prune_inputs(bad, inputs, LoFi())
    assert kind.forward is forward and kind.generate is generate
    strangers: list[Any] = [None, "lofi", LoFi, 0.5]
    for bad in strangers:
        with pytest.raises(LofiError, match="is no pruner"):
            prune_inputs(model, inputs, bad)


@pytest.mark.parametrize("family", ["llava", "qwen3_vl", "idefics3", "llava_next"])
def test_training_reaches_the_encoder(family: str) -> None:
    """In training, gradients flow to encoder and projector through the tokens that are kept."""
    model = copy.deepcopy(FAMILIES[family].model()).train()
    inputs = FAMILIES[family].inputs([[3, "a", 4]])
    labels = inputs["input_ids"].where(inputs["input_ids"] < 100, -100)
    with pruning(model, LoFi(keep=0.5)):
        model(**inputs, labels=labels).loss.backward()
    tower = model.base_model.get_submodule(
        {"qwen3_vl": "visual", "idefics3": "vision_model"}.get(family, "vision_tower")
    )
    reached = [p.grad is not None and bool(p.grad.abs().sum() > 0) for p in tower.parameters()]
    assert sum(reached) > len(reached) / 2
    with torch.no_grad():
        assert not prune_inputs(model, inputs, LoFi())["mm_encoder_outputs"]["image"][
            "pooler_output"
        ][0].requires_grad
    model.eval()
    with pruning(model, LoFi(keep=0.5)):
        model(**inputs, labels=labels)


def test_merging_in_training_is_refused() -> None:
    model = copy.deepcopy(Llava().model()).train()
    merging: Pruner = get_pruner("tome", keep=0.5)
    with pytest.raises(LofiError, match="merges tokens, which lets no gradient"):
        prune_inputs(model, requests()[0], merging)
    with torch.no_grad():
        prune_inputs(model, requests()[0], merging)
