"""Pruning inside the language model, against a plain loop over its layers with eager attention."""

from typing import Any

import pytest
import torch
import transformers as hf
from tiny import IMAGE, TEXT, VISION, Llava, Row
from torch import Tensor

from lofi_core.errors import LofiError
from lofi_core.leverage import leverage_scores
from lofi_core.pruners import (
    DART,
    FastV,
    InsidePruner,
    LoFi,
    LoFiInside,
    PyramidDrop,
    SparseVLM,
    SparseVLMPlus,
)
from lofi_core.pruners.inside import mean_tokens
from lofi_core.pruning import prune_inputs, pruning
from lofi_core.vlm.inside import InsideReport, pruning_inside

LAYERS = 6
PRUNERS: dict[str, InsidePruner] = {
    "fastv": FastV(layer=2, ratio=0.5),
    "fastv-keep": FastV(layer=1, keep=0.4),
    "pyramiddrop": PyramidDrop(layers=(2, 3, 5)),
    "sparsevlm": SparseVLM(after=(1, 2, 4), keep=0.5),
    "sparsevlm+": SparseVLMPlus(after=(1, 2, 4), keep=0.5, head_dim=16),
    "dart": DART(max_tokens=16),
    "lofi": LoFiInside(layer=3, ratio=0.75),
}
pruners = pytest.mark.parametrize("name", PRUNERS)


class Deep(Llava):
    def config(self) -> Any:
        return hf.LlavaConfig(
            vision_config=hf.CLIPVisionConfig(**VISION, projection_dim=16),
            text_config=hf.LlamaConfig(**TEXT | {"num_hidden_layers": LAYERS}),
            image_token_id=IMAGE,
        )


@pytest.fixture(autouse=True)
def no_grad() -> Any:
    with torch.no_grad():
        yield


def reference(
    model: Any, embeds: Tensor, ids: Tensor, prompt: int, pruner: InsidePruner
) -> tuple[Tensor, Tensor, list[int]]:
    """Run one sequence, (L, D), layer by layer; the first ``prompt`` tokens are the prompt.

    Returns logits, which original tokens they belong to (-1 for merged ones), and how many visual
    tokens entered each layer.
    """
    decoder = model.base_model.language_model
    x, L = embeds, len(embeds)
    visual = ids == IMAGE
    last = int(visual.nonzero()[-1, 0])
    origin, positions = torch.arange(L), torch.arange(L)
    raters_of = (embeds[visual], embeds[last + 1 : prompt])
    stages = {s.layer: s for s in pruner.schedule(int(visual.sum()), LAYERS)}
    entered, attention, keys = [], torch.empty(0), torch.empty(0)

    def attend(layer: Any, x: Tensor, positions: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        rope = decoder.rotary_emb(x[None], position_ids=positions[None])
        causal = torch.full((len(x), len(x)), torch.finfo(x.dtype).min).triu(1)[None, None]
        cache = hf.DynamicCache()
        normed = layer.input_layernorm(x)[None]
        y, weights = layer.self_attn(normed, rope, causal, past_key_values=cache)
        return y[0], weights[0], cache.layers[layer.self_attn.layer_idx].keys[0]

    for index, layer in enumerate(decoder.layers):
        places = visual.nonzero()[:, 0]
        if index in stages and stages[index].count - stages[index].merged < len(places):
            stage, last_row = stages[index], int((origin == prompt - 1).nonzero())
            after = ((origin > last) & (origin < prompt)).nonzero()[:, 0]
            merged = None
            if isinstance(pruner, FastV):
                kept = pruner.choose(attention[:, last_row], places, stage.count)
            elif isinstance(pruner, PyramidDrop):
                following = attend(layer, x, positions)[1]
                kept = pruner.choose(following[:, last_row], places, stage.count)
            elif isinstance(pruner, SparseVLM):
                raters = after[pruner.raters(*raters_of)]
                scores = pruner.scores(attention[:, raters], places, raters, positions)
                kept = pruner.choose(scores, stage.count - stage.merged)
                if pruner.recycles:
                    lost = torch.ones(len(places), dtype=torch.bool)
                    lost[kept] = False
                    merged = pruner.recycle(x[places[lost]], scores[lost])
            elif isinstance(pruner, LoFiInside):
                scores = leverage_scores(x[places], pruner.rank, "svd", pruner.center)
                kept = scores.argsort(descending=True)[: stage.count].sort().values
            else:
                assert isinstance(pruner, DART)
                image, text = pruner.pivots(keys, places, after)
                turns, t = pruner.turns(image, text), pruner.share(36)
                kept = pruner.choose(decoder.norm(x), places, image, turns, t)
            stays = ~visual
            stays[places[kept]] = True
            old = positions
            x, origin, visual, positions = x[stays], origin[stays], visual[stays], old[stays]
            if merged is not None:
                at = int((origin <= last).sum())
                x = torch.cat((x[:at], merged, x[at:]))
                blank = torch.full((len(merged),), -1)
                origin = torch.cat((origin[:at], blank, origin[at:]))
                visual = torch.cat((visual[:at], blank < 0, visual[at:]))
            if pruner.renumbers:
                positions = old[: len(x)]
        entered.append(int(visual.sum()))
        y, attention, keys = attend(layer, x, positions)
        x = x + y
        x = x + layer.mlp(layer.post_attention_layernorm(x))
    return model.lm_head(decoder.norm(x)), origin, entered


def embedded(model: Any, inputs: dict[str, Tensor]) -> Tensor:
    """What enters the language model."""
    seen: list[Tensor] = []
    hook = model.base_model.language_model.register_forward_pre_hook(
        lambda module, args, kwargs: seen.append(kwargs["inputs_embeds"]), with_kwargs=True
    )
    model(**inputs)
    hook.remove()
    return seen[0]


@pytest.mark.parametrize("attention", ["sdpa", "eager"])
@pruners
def test_prompt_and_answer_equal_a_plain_loop(name: str, attention: str) -> None:
    pruner, model = PRUNERS[name], Deep().model(attention=attention)
    plain = Deep().model(attention="eager")
    inputs = Deep().inputs([[5, "a", 7]])
    L = inputs["input_ids"].shape[1]
    with pruning_inside(model, pruner) as report:
        logits = model(**inputs).logits[0]
        out = model.generate(**inputs, max_new_tokens=5, do_sample=False)[0]
    answer = out[L:]
    embeds = embedded(plain, inputs)[0]
    words = plain.get_input_embeddings()(answer[:-1])
    expected, origin, entered = reference(plain, torch.cat((embeds, words)), out[:-1], L, pruner)
    assert entered[-1] < entered[0] == 36
    assert report.entered[0].tolist() == report.entered[1].tolist() == [entered]
    prompt = origin < L
    first = int((inputs["input_ids"][0] == IMAGE).nonzero()[0, 0])
    left = origin[(origin >= first) & (origin < first + 36)] - first
    assert torch.equal(report.kept[0][0], left) and torch.equal(report.kept[1][0], left)
    torch.testing.assert_close(logits, expected[prompt], rtol=0, atol=1e-4)
    assert torch.equal(expected[-5:].argmax(-1), answer)


ROWS: list[Row] = [[5, "a", 7], [2, "a", 3, "a", 4], [6]]


@pytest.mark.parametrize("side", ["left", "right"])
@pruners
def test_rows_of_a_batch_equal_rows_alone(name: str, side: str) -> None:
    """One image, two images with text between, none; padded on either side."""
    model = Deep().model()
    batch = Deep().inputs(ROWS, side)
    with pruning_inside(model, PRUNERS[name]):
        # Positions as generate counts them: DART's key norms depend on them, not only on distances.
        positions = (batch["attention_mask"].cumsum(-1) - 1).clamp(min=0)
        together = model(**batch, position_ids=positions).logits
        for b, row in enumerate(ROWS):
            alone = model(**Deep().inputs([row], seeds=[b])).logits[0]
            got = together[b, -len(alone) :] if side == "left" else together[b, : len(alone)]
            torch.testing.assert_close(got, alone, rtol=0, atol=1e-4)


@pruners
def test_batched_greedy_answers_equal_single_ones(name: str) -> None:
    model = Deep().model()
    with pruning_inside(model, PRUNERS[name]):
        options: Any = {"max_new_tokens": 5, "do_sample": False}
        batch = Deep().inputs(ROWS)
        together = model.generate(**batch, **options)[:, batch["input_ids"].shape[1] :]
        for b, row in enumerate(ROWS):
            x = Deep().inputs([row], seeds=[b])
            alone = model.generate(**x, **options)[0, x["input_ids"].shape[1] :]
            assert torch.equal(together[b], alone)


@pruners
def test_caches_hold_what_was_kept(name: str) -> None:
    """Each layer's cache is as long as what entered it, and grows by one a token."""
    model, inputs = Deep().model(), Deep().inputs([[5, "a", 7]])
    with pruning_inside(model, PRUNERS[name]) as report:
        cache = model(**inputs, use_cache=True).past_key_values
        expected = [12 + n for n in report.entered[0][0].tolist()]
        assert [cache.get_seq_length(i) for i in range(LAYERS)] == expected
        step = {"input_ids": torch.tensor([[7]]), "past_key_values": cache}
        model(**step, attention_mask=torch.ones(1, 49))
        assert [cache.get_seq_length(i) for i in range(LAYERS)] == [n + 1 for n in expected]


@pruners
def test_measured_share_is_the_schedules(name: str) -> None:
    model, inputs = Deep().model(), Deep().inputs([[5, "a", 7]])
    with pruning_inside(model, PRUNERS[name]) as report:
        model(**inputs)
    assert isinstance(report, InsideReport)
    planned = mean_tokens(36, PRUNERS[name].schedule(36, LAYERS), LAYERS) / 36
    assert report.keep == pytest.approx(planned)


@pruners
def test_a_second_question_goes_on(name: str) -> None:
    """Several new tokens after a cached prompt see what single ones see."""
    model, inputs = Deep().model(), Deep().inputs([[5, "a", 7]])
    more = torch.tensor([[8, 9, 10]])
    with pruning_inside(model, PRUNERS[name]):
        cache = model(**inputs, use_cache=True).past_key_values
        at_once = model(input_ids=more, past_key_values=cache).logits[0]
        cache = model(**inputs, use_cache=True).past_key_values
        singly = [model(input_ids=more[:, i : i + 1], past_key_values=cache) for i in range(3)]
    one_by_one = torch.cat([out.logits[0] for out in singly])
    torch.testing.assert_close(at_once, one_by_one, rtol=0, atol=1e-4)


def count_hooks(model: Any) -> int:
    return sum(len(m._forward_pre_hooks) + len(m._forward_hooks) for m in model.modules())


@pruners
def test_the_model_is_restored(name: str) -> None:
    model, inputs = Deep().model(), Deep().inputs([[5, "a", 7]])
    before, hooks = model(**inputs).logits, count_hooks(model)
    with pytest.raises(ZeroDivisionError), pruning_inside(model, PRUNERS[name]):
        assert model(**inputs).logits.shape != before.shape
        raise ZeroDivisionError
    assert torch.equal(model(**inputs).logits, before)
    assert count_hooks(model) == hooks


def test_dropping_nothing_changes_nothing() -> None:
    model, inputs = Deep().model(), Deep().inputs(ROWS)
    before = model(**inputs).logits
    with pruning_inside(model, FastV(keep=1.0)) as report:
        assert torch.equal(model(**inputs).logits, before)
    assert report.keep == 1


def test_pruning_runs_it() -> None:
    """The context manager for all pruners runs these inside the model, too."""
    model, inputs = Deep().model(), Deep().inputs(ROWS)
    with pruning_inside(model, PRUNERS["fastv"]):
        expected = model(**inputs).logits
    with pruning(model, PRUNERS["fastv"]) as report:
        assert torch.equal(model(**inputs).logits, expected)
    assert report.tokens_before == 108
    assert report.tokens_after == pytest.approx(108 * (2 + 4 * 0.5) / 6)
    assert report.seconds > 0
    with pytest.raises(LofiError, match="settles them"):
        pruning(model, PRUNERS["fastv"], "compact").__enter__()
    with pytest.raises(LofiError, match=r"with pruning\(model, pruner\)"):
        prune_inputs(model, inputs, PRUNERS["fastv"])


def test_bad_input() -> None:
    model, inputs = Deep().model(), Deep().inputs([[5, "a", 7]])
    with pytest.raises(LofiError, match="before the language model"):
        pruning_inside(model, LoFi()).__enter__()  # type: ignore[arg-type]
    with pytest.raises(LofiError, match="layers"):
        pruning_inside(model, FastV(layer=6)).__enter__()
    with pytest.raises(LofiError, match="type"):
        pruning_inside(hf.LlamaForCausalLM(hf.LlamaConfig(**TEXT)), FastV()).__enter__()
    cache = model(**inputs, use_cache=True).past_key_values
    with pruning_inside(model, FastV()):
        with pytest.raises(LofiError, match="inside this block"):
            model(input_ids=torch.tensor([[7]]), past_key_values=cache)
        with pytest.raises(LofiError, match="DynamicCache"):
            model.generate(**inputs, max_new_tokens=2, cache_implementation="static")
        with pytest.raises(LofiError, match="no input_ids"):
            model(inputs_embeds=torch.randn(1, 4, 32))
    with (
        pruning_inside(model, SparseVLM(after=(1, 2, 4))),
        pytest.raises(LofiError, match="no text after"),
    ):
        model(**Deep().inputs([[5, "a"]]))
