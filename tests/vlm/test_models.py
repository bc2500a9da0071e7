"""The contract of pruned inputs, for every model family, on tiny models with random weights."""

import copy
import re
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from oracle import kept_columns, language_model, masked_logits
from test_contract import BEFORE, PARAMETERS
from tiny import FAMILIES, IMAGE, PAD, Row
from torch import Tensor

from lofi_core.contract import PROMISES_INSIDE
from lofi_core.errors import LofiError
from lofi_core.pruners import (
    IPRBudget,
    LoFi,
    LoFiInside,
    Pruner,
    Random,
    Selection,
    VisualTokens,
    get_pruner,
)
from lofi_core.pruning import encode_inputs, prune_inputs, pruning
from lofi_core.vlm.families import FAMILIES as LIBRARY
from lofi_core.vlm.families import UNFIT
from lofi_core.vlm.reference import InPlace
from lofi_core.vlm.taps import as_batch

CUDA = pytest.param("cuda", marks=pytest.mark.cuda)
PRUNERS: dict[str, Pruner] = {
    "lofi-50": LoFi(keep=0.5),
    "random-20": Random(keep=0.2),
    "lofi-ipr": LoFi(keep=IPRBudget(eps=0.3, floor=0.1)),
}
# Batches hold rows with one picture, with two and text between them, and with none.
LAYOUTS: dict[str, tuple[list[Row], str]] = {
    "one": ([[3, "a", 4]], "left"),
    "two": ([[5, "a", 2, "a", 6]], "left"),
    "left": ([[3, "a", 4], [5, "a", 2, "a", 6], [4]], "left"),
    "right": ([[3, "a", 4], [5, "a", 2, "a", 6], [4]], "right"),
    "unequal": ([[3, "a", 4], [2, "b", 3, "a", 4]], "left"),
    "video": ([[3, "v", 4], [4]], "left"),
    "mixed": ([[3, "v", 2, "a", 4], [3, "a", 5]], "left"),
}
CASES = [
    pytest.param(family, layout, id=f"{family}-{layout}")
    for family in FAMILIES
    for layout, (rows, _) in LAYOUTS.items()
    if {s for row in rows for s in row if isinstance(s, str)} <= set(FAMILIES[family].kinds)
]
cases = pytest.mark.parametrize(("family", "layout"), CASES)
families = pytest.mark.parametrize("family", FAMILIES)


@pytest.fixture(params=["cpu", CUDA])
def device(request: pytest.FixtureRequest) -> str:
    if request.param == "cuda" and not torch.cuda.is_available():
        pytest.skip("no CUDA device")
    return request.param


@pytest.fixture(autouse=True)
def no_grad() -> Any:
    with torch.no_grad():
        yield


def setup(
    family: str, layout: str = "one", device: str = "cpu", dtype: torch.dtype = torch.float32
) -> tuple[Any, dict[str, Tensor]]:
    inputs = FAMILIES[family].inputs(*LAYOUTS[layout])
    return FAMILIES[family].model(dtype).to(device), to(inputs, device, dtype)


def to(inputs: dict[str, Tensor], device: str, dtype: torch.dtype) -> dict[str, Tensor]:
    return {k: v.to(device, dtype if v.is_floating_point() else None) for k, v in inputs.items()}


def columns(family: str, model: Any, inputs: dict[str, Any], report: Any) -> Tensor:
    return kept_columns(model, inputs, report, FAMILIES[family].patches)


# 1. keep = 1 changes nothing


@cases
def test_keeping_all_is_bit_identical(family: str, layout: str, device: str) -> None:
    model, inputs = setup(family, layout, device)
    plain = model(**inputs).logits
    pruned = prune_inputs(model, inputs, LoFi(keep=1.0))
    assert torch.equal(model(**pruned).logits, plain)
    assert torch.equal(pruned["input_ids"], inputs["input_ids"])


# 2. dropping equals masking


@pytest.mark.parametrize("pruner", PRUNERS)
@cases
def test_dropping_equals_masking(family: str, layout: str, pruner: str, device: str) -> None:
    model, inputs = setup(family, layout, device)
    pruned = prune_inputs(model, inputs, PRUNERS[pruner])
    kept = columns(family, model, inputs, pruned.report)
    assert not kept.all()
    got = model(**pruned).logits[pruned["attention_mask"].bool()]
    expected = masked_logits(model, inputs, kept)[kept & inputs["attention_mask"].bool()]
    torch.testing.assert_close(got, expected, rtol=0, atol=1e-5)


@families
def test_the_oracle_can_fail(family: str) -> None:
    """Hiding one token more or less, or moving it, shows far above the tolerance."""
    model, inputs = setup(family)
    pruned = prune_inputs(model, inputs, PRUNERS["lofi-50"])
    got = model(**pruned).logits[0, -1]
    kept = columns(family, model, inputs, pruned.report)
    everything = masked_logits(model, inputs, torch.ones_like(kept))[0, -1]
    assert (got - everything).abs().max() > 1e-2
    first = kept.clone()
    first[0, (inputs["input_ids"][0] >= IMAGE).nonzero()[0]] ^= True
    assert (got - masked_logits(model, inputs, first)[0, -1]).abs().max() > 1e-4
    moved = pruned | {"position_ids": pruned["position_ids"] * 2}
    assert (got - model(**moved).logits[0, -1]).abs().max() > 1e-3


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16], ids=["bf16", "fp16"])
@families
def test_half_precision(family: str, dtype: torch.dtype, device: str) -> None:
    """Dropping equals masking up to rounding: no worse than the dtype moves the masked logits."""
    model, inputs = setup(family, "two", device, dtype)
    everything = prune_inputs(model, inputs, LoFi(keep=1.0))
    assert torch.equal(model(**everything).logits, model(**inputs).logits)
    pruned = prune_inputs(model, inputs, PRUNERS["random-20"])
    kept = columns(family, model, inputs, pruned.report)
    got = model(**pruned).logits[0].float()
    expected = masked_logits(model, inputs, kept)[kept].float()
    scale = expected.abs().max()
    assert got.isfinite().all()
    assert (got - expected).abs().max() <= 16 * torch.finfo(dtype).eps * scale


# What the encoder of a family cannot give, in the words of the refusal.
REFUSED = "CLS token|merges|several layers|takes one size"


@pytest.mark.parametrize("name", BEFORE)
@families
def test_every_pruner_runs_or_is_refused(family: str, name: str) -> None:
    model, inputs = setup(family, "two")
    pruner = get_pruner(name, keep=0.3, **PARAMETERS.get(name, {}))
    try:
        pruned = prune_inputs(model, inputs, pruner)
    except LofiError as error:
        assert pruner.needs and re.search(REFUSED, str(error))
        return
    assert pruned.report.tokens_after < pruned.report.tokens_before
    # The reference sees all tokens; in the places of those kept, what the pruner made of them.
    full = encode_inputs(model, inputs, pruner.needs).prune(InPlace(inner=pruner))
    kept = columns(family, model, inputs, pruned.report)
    expected = masked_logits(model, full, kept)[kept]
    torch.testing.assert_close(model(**pruned).logits[0], expected, rtol=0, atol=1e-5)


LIKE_LLAMA = ("llava", "vipllava", "llava_next", "llava_onevision", "internvl", "mistral3")
LIKE_LLAMA += ("idefics3", "smolvlm")


@families
def test_pruning_inside_runs_or_is_refused(family: str) -> None:
    model, inputs = setup(family, "left")
    pruner = LoFiInside(keep=0.7, layer=1)
    if family in LIKE_LLAMA:
        for promise, holds in PROMISES_INSIDE.items():
            assert holds(pruner, model, inputs), promise
    else:
        with pytest.raises(LofiError, match="a language model of type"), pruning(model, pruner):
            pass


# 3. caches and greedy decoding


def decode_without_cache(model: Any, pruned: Any, steps: int, answer_type: int) -> Tensor:
    """Answer greedily by running the whole pruned prompt again for every new token."""
    x = dict(pruned)
    start = x["input_ids"].shape[1]
    for _ in range(steps):
        logits = model(**(x | {"mm_encoder_outputs": pruned["mm_encoder_outputs"]})).logits
        new = logits[:, -1:].argmax(-1)
        grown = {}
        for name, value in x.items():
            if not isinstance(value, Tensor) or value.shape[-2:] != x["input_ids"].shape:
                continue
            last = value[..., -1:]
            grown[name] = {
                "input_ids": new,
                "attention_mask": torch.ones_like(last),
                "position_ids": last + 1,
                "token_type_ids": torch.full_like(last, answer_type),
            }.get(name, torch.zeros_like(last))
        x |= {name: torch.cat((x[name], value), -1) for name, value in grown.items()}
    return x["input_ids"][:, start:]


@pytest.mark.parametrize("positions", ["original", "compact"])
@families
def test_greedy_equals_recomputation(family: str, positions: Any, device: str) -> None:
    model, inputs = setup(family, "left", device)
    pruned = prune_inputs(model, inputs, PRUNERS["lofi-50"], positions)
    out = model.generate(**pruned, max_new_tokens=6, do_sample=False)
    answers = out[:, pruned["input_ids"].shape[1] :]
    again = decode_without_cache(model, pruned, 6, FAMILIES[family].answer_type)
    assert torch.equal(answers, again)


@families
def test_caches_hold_what_was_kept(family: str) -> None:
    model, inputs = setup(family, "two")
    pruned = prune_inputs(model, inputs, PRUNERS["random-20"])
    cache = model(**pruned, use_cache=True).past_key_values
    before, after = pruned.report.tokens_before, pruned.report.tokens_after
    length = inputs["input_ids"].shape[1] - before + after
    assert pruned["input_ids"].shape[1] == length < inputs["input_ids"].shape[1]
    for layer in range(len(language_model(model).layers)):
        assert cache.get_seq_length(layer) == length


@families
def test_decoding_goes_on_after_the_original_length(family: str) -> None:
    model, inputs = setup(family)
    pruned = prune_inputs(model, inputs, PRUNERS["random-20"])
    seen: list[dict[str, Any]] = []
    hook = language_model(model).register_forward_pre_hook(
        lambda module, args, kwargs: seen.append(kwargs), with_kwargs=True
    )
    try:
        model.generate(**inputs, max_new_tokens=2, do_sample=False)
        full = seen[1]["position_ids"][-1]
        seen.clear()
        model.generate(**pruned, max_new_tokens=2, do_sample=False)
        assert torch.equal(seen[1]["position_ids"][-1], full)
    finally:
        hook.remove()


# 4. what stays


@cases
def test_text_is_untouched(family: str, layout: str) -> None:
    model, inputs = setup(family, layout)
    pruned = prune_inputs(model, inputs, PRUNERS["lofi-50"])
    for b in range(len(inputs["input_ids"])):
        before, after = inputs["input_ids"][b], pruned["input_ids"][b]
        before = before[inputs["attention_mask"][b].bool()]
        after = after[pruned["attention_mask"][b].bool()]
        assert torch.equal(after[after < IMAGE], before[before < IMAGE])
        assert after[-1] == before[-1]
    for image in pruned.report.images:
        assert (image.kept.diff() > 0).all()


@families
def test_positions(family: str) -> None:
    model, inputs = setup(family, "two")
    pruned = prune_inputs(model, inputs, PRUNERS["lofi-50"])
    compact = prune_inputs(model, inputs, PRUNERS["lofi-50"], "compact")
    assert torch.equal(compact["input_ids"], pruned["input_ids"])
    ranks = np.unique(pruned["position_ids"].numpy(), return_inverse=True)[1]
    assert (compact["position_ids"].flatten().numpy() == ranks.flatten()).all()
    given = {"position_ids": 3 + torch.arange(inputs["input_ids"].shape[1])[None]}
    if compact["position_ids"].ndim == 2:
        own = prune_inputs(model, inputs | given, PRUNERS["lofi-50"])
        kept = columns(family, model, inputs, own.report)
        assert torch.equal(own["position_ids"], given["position_ids"][kept][None])


# 5. rows do not feel each other


@pytest.mark.parametrize("pruner", PRUNERS)
@pytest.mark.parametrize("side", ["left", "right"])
@families
def test_each_row_equals_the_row_alone(family: str, side: str, pruner: str, device: str) -> None:
    model, inputs = setup(family, side, device)
    rows, _ = LAYOUTS[side]
    pruned = prune_inputs(model, inputs, PRUNERS[pruner])
    logits = model(**pruned).logits
    for b, row in enumerate(rows):
        alone = to(FAMILIES[family].inputs([row], seeds=[b]), device, torch.float32)
        one = prune_inputs(model, alone, PRUNERS[pruner]) if "a" in row else alone
        got = logits[b][pruned["attention_mask"][b].bool()]
        torch.testing.assert_close(got, model(**one).logits[0], rtol=0, atol=1e-5)


def test_rows_may_become_unequal() -> None:
    """The row that lost most is padded anew, on the side of the batch's padding."""
    model, inputs = setup("llava", "right")
    inputs["input_ids"] = torch.cat((inputs["input_ids"], torch.full((3, 2), PAD)), 1)
    inputs["attention_mask"] = (inputs["input_ids"] != PAD).long()
    pruned = prune_inputs(model, inputs, Random(keep=0.5))
    lengths = pruned["attention_mask"].sum(1).tolist()
    assert lengths == [7 + 18, 13 + 36, 4]
    assert pruned["attention_mask"].shape[1] == 49 + 2  # what padded all rows stays
    assert (pruned["attention_mask"].diff() <= 0).all()
    assert torch.equal(pruned["input_ids"] != PAD, pruned["attention_mask"].bool())


# 6. the context manager


@families
def test_context_prunes_and_restores(family: str) -> None:
    model, inputs = setup(family, "left")
    before, plain = set(vars(model)), model(**inputs).logits
    pruned = prune_inputs(model, inputs, PRUNERS["random-20"])
    with pruning(model, PRUNERS["random-20"]) as report:
        logits = model(**inputs).logits
        out = model.generate(**inputs, max_new_tokens=4, do_sample=False)
    assert torch.equal(logits, model(**pruned).logits)
    assert len(report.images) == 2 * len(pruned.report.images)
    prompt = inputs["input_ids"].shape[1]
    assert torch.equal(out[:, :prompt], inputs["input_ids"])
    plain_out = model.generate(**pruned, max_new_tokens=4, do_sample=False)
    assert torch.equal(out[:, prompt:], plain_out[:, pruned["input_ids"].shape[1] :])
    assert set(vars(model)) == before
    assert "forward" not in vars(model) and "generate" not in vars(model)
    assert torch.equal(model(**inputs).logits, plain)


def test_context_restores_after_an_exception() -> None:
    model, inputs = setup("llava")
    model.forward = original = model.forward  # as accelerate's hooks leave it
    try:
        with pytest.raises(ZeroDivisionError), pruning(model, LoFi()):
            raise ZeroDivisionError
        assert vars(model)["forward"] is original
    finally:
        del model.forward
    assert model(**inputs).logits.isfinite().all()


def test_context_details() -> None:
    model, inputs = setup("llava", "left")
    prompt = inputs["input_ids"].shape[1]
    with pruning(model, LoFi(keep=0.5)):
        with pytest.raises(LofiError, match="already pruned"), pruning(model, LoFi()):
            pass
        beams = model.generate(
            inputs["input_ids"],
            **{k: v for k, v in inputs.items() if k != "input_ids"},
            max_length=prompt + 3,
            num_beams=2,
            num_return_sequences=2,
            return_dict_in_generate=True,
            do_sample=False,
        )
        assert beams.sequences.shape == (6, prompt + 3)
        assert torch.equal(beams.sequences[:, :prompt], inputs["input_ids"].repeat_interleave(2, 0))
        with pytest.raises(LofiError, match="continuing"):
            model(input_ids=inputs["input_ids"])
        with pytest.raises(LofiError, match="no image"):
            model(input_ids=torch.tensor([[5, 6]]))
        with pytest.raises(LofiError, match="padding_side='left'"):
            model.generate(**setup("llava", "right")[1], max_new_tokens=2)


def test_a_new_image_is_in_no_cache() -> None:
    model, inputs = setup("llava")
    first = prune_inputs(model, inputs, LoFi(keep=0.5))
    cache = model(**first).past_key_values
    second = prune_inputs(model, setup("llava", "two")[1], LoFi(keep=0.5))
    with pytest.raises(LofiError, match="up to token 43"):
        second.continuing(cache)


def test_flash_attention_sees_one_sequence() -> None:
    """FlashAttention takes positions for packed sequences where they return to the smallest one."""
    utils = pytest.importorskip("transformers.modeling_flash_attention_utils")
    _, inputs = setup("llava")
    positions = prune_inputs(setup("llava")[0], inputs, LoFi(keep=0.5))["position_ids"]
    (starts, _), _ = utils.prepare_fa_kwargs_from_position_ids(positions)
    assert starts.tolist() == [0, positions.shape[1]]


@pytest.mark.parametrize("layout", ["one", "left"])
@families
def test_generation_without_cache(family: str, layout: str) -> None:
    """Gaps in the positions are no borders of packed sequences, though nothing is padding."""
    model, inputs = setup(family, layout)
    options = dict(max_new_tokens=4, do_sample=False)
    for positions in ("original", "compact"):
        pruned = prune_inputs(model, inputs, Random(keep=0.5), positions)
        out = model.generate(**pruned, **options, use_cache=False)
        assert torch.equal(out, model.generate(**pruned, **options))


def test_transformers_splits_prompts_at_gaps() -> None:
    """Why the mask is kept from being left out: if this fails, it needs no care any more."""
    model, inputs = setup("llava")
    pruned = prune_inputs(model, inputs, Random(keep=0.5))
    ones = pruned | {"attention_mask": torch.ones_like(pruned["attention_mask"])}
    options = dict(max_new_tokens=1, do_sample=False, return_dict_in_generate=True)
    options |= dict(output_logits=True)
    cached, bare = (model.generate(**ones, **options, use_cache=use) for use in (True, False))
    assert not torch.allclose(cached.logits[0], bare.logits[0])


# 7. the report


@cases
def test_report_counts_what_reached_the_language_model(family: str, layout: str) -> None:
    model, inputs = setup(family, layout)
    lengths = []
    hook = language_model(model).register_forward_pre_hook(
        lambda module, args, kwargs: lengths.append(kwargs["inputs_embeds"].shape[1]),
        with_kwargs=True,
    )
    try:
        model(**inputs)
        pruned = prune_inputs(model, inputs, Random(keep=0.25))
        model(**pruned)
    finally:
        hook.remove()
    report, rows = pruned.report, range(len(inputs["input_ids"]))
    text = [
        int(((inputs["input_ids"][b] < IMAGE) & (inputs["attention_mask"][b] > 0)).sum())
        for b in rows
    ]
    for length, tokens in zip(lengths, ("tokens_before", "tokens_after"), strict=True):
        visual = [sum(getattr(i, tokens) for i in report.images if i.row == b) for b in rows]
        assert length == max(t + v for t, v in zip(text, visual, strict=True))
    for image in report.images:
        patches = len(FAMILIES[family].patches(image.tokens_before))
        assert len(image.kept) == max(1, round(0.25 * patches))
        assert image.tokens_before - image.tokens_after == patches - len(image.kept)
        assert sum(int(mask.sum()) for mask in image.masks) == len(image.kept)
        assert sum(mask.numel() for mask in image.masks) == patches
        assert all(len(grid) >= 2 for grid in image.grids)
        assert 0 < image.ipr_before <= 1 and 0 < image.ipr_after <= 1 and image.seconds > 0
    assert str(report.tokens_after) in str(report).splitlines()[-1]


# 8. generation, attention back-ends, compilation


@families
def test_left_padded_batches_generate_as_alone(family: str) -> None:
    model, inputs = setup(family, "left")
    rows, _ = LAYOUTS["left"]
    with pruning(model, LoFi(keep=0.5)):
        batch = model.generate(**inputs, max_new_tokens=5, do_sample=False)[:, -5:]
        for b, row in enumerate(rows):
            if "a" in row:
                alone = FAMILIES[family].inputs([row], seeds=[b])
                answer = model.generate(**alone, max_new_tokens=5, do_sample=False)[0, -5:]
                assert torch.equal(batch[b], answer)


@families
def test_beams(family: str) -> None:
    """Beam search over a batch with unequal numbers of images gives each row its own beams."""
    model, inputs = setup(family, "left")
    rows, _ = LAYOUTS["left"]
    options = dict(max_new_tokens=4, num_beams=3, do_sample=False)
    pruner = LoFi(keep=IPRBudget(eps=0.3, floor=0.2))
    pruned = prune_inputs(model, inputs, pruner)
    batch = model.generate(**pruned, **options)[:, -4:]
    assert torch.equal(model.generate(**pruned, **options)[:, -4:], batch)  # inputs are reusable
    for b, row in enumerate(rows):
        if "a" in row:
            alone = prune_inputs(model, FAMILIES[family].inputs([row], seeds=[b]), pruner)
            assert torch.equal(model.generate(**alone, **options)[0, -4:], batch[b])


@families
def test_sampling(family: str) -> None:
    model, inputs = setup(family, "two")
    options = dict(max_new_tokens=4, do_sample=True, num_return_sequences=3)
    pruned = prune_inputs(model, inputs, LoFi(keep=0.5))
    torch.manual_seed(0)
    out = model.generate(**pruned, **options)
    torch.manual_seed(0)
    with pruning(model, LoFi(keep=0.5)):
        same = model.generate(**inputs, **options)
    assert out.shape[0] == same.shape[0] == 3
    assert torch.equal(out[:, -4:], same[:, -4:])


@families
def test_static_cache(family: str) -> None:
    model, inputs = setup(family, "left")
    pruned = prune_inputs(model, inputs, LoFi(keep=0.5))
    options = dict(max_new_tokens=4, do_sample=False)
    static = model.generate(
        **pruned, **options, cache_implementation="static", disable_compile=True
    )
    assert torch.equal(static, model.generate(**pruned, **options))


@pytest.mark.parametrize("family", [f for f in FAMILIES if f != "paligemma"])
def test_several_turns(family: str) -> None:
    """Further questions over the cached, pruned history equal running it all again.

    Not for PaliGemma, pruned or not: all of its prompt attends to all of it, which a cached
    beginning cannot.
    """
    tiny = FAMILIES[family]
    model, chat = setup(family)
    options = dict(max_new_tokens=4, do_sample=False)
    pruned = prune_inputs(model, chat, LoFi(keep=0.5))
    out = model.generate(**pruned, **options, return_dict_in_generate=True)
    for question in ([7, 8, 9], [10, 11]):
        new = torch.cat((out.sequences[:, -4:], torch.tensor([question])), 1)
        ids = torch.cat((chat["input_ids"], new), 1)
        chat |= {"input_ids": ids, "attention_mask": torch.ones_like(ids)} | tiny.extras(ids)
        pruned = prune_inputs(model, chat, LoFi(keep=0.5))
        again = model.generate(**pruned, **options)
        going_on = pruned.continuing(out.past_key_values)
        out = model.generate(**going_on, **options, return_dict_in_generate=True)
        assert torch.equal(out.sequences, again)


@families
def test_eager_and_sdpa_agree(family: str) -> None:
    sdpa, inputs = setup(family, "left")
    eager = FAMILIES[family].model(attention="eager")
    a = prune_inputs(sdpa, inputs, Random(keep=0.5))
    b = prune_inputs(eager, inputs, Random(keep=0.5))
    mask = a["attention_mask"].bool()
    torch.testing.assert_close(sdpa(**a).logits[mask], eager(**b).logits[mask], rtol=0, atol=1e-4)


@pytest.mark.slow
@pytest.mark.parametrize("family", ["llava", "qwen3_vl", "gemma3"])
def test_compiled_language_model(family: str) -> None:
    model, inputs = setup(family)
    pruned = prune_inputs(model, inputs, LoFi(keep=0.5))
    expected = model(**pruned).logits
    compiled = copy.deepcopy(model)
    language_model(compiled).forward = torch.compile(
        language_model(compiled).forward, backend="aot_eager"
    )
    torch.testing.assert_close(compiled(**pruned).logits, expected, rtol=0, atol=1e-5)


@pytest.mark.parametrize("family", [f for f in FAMILIES if f not in ("gemma3", "paligemma")])
def test_chunked_prefill(family: str) -> None:
    """Not where patches attend to later ones: there, chunks change what the unpruned model says."""
    model, inputs = setup(family, "two")
    pruned = prune_inputs(model, inputs, LoFi(keep=0.5))
    options = dict(max_new_tokens=4, do_sample=False)
    chunked = model.generate(**pruned, **options, prefill_chunk_size=16)
    assert torch.equal(chunked, model.generate(**pruned, **options))


# accelerate cannot offload the others, pruned or not: their forward computes on parameters that
# stay on the meta device.
@pytest.mark.parametrize(
    "family",
    [f for f in FAMILIES if f not in ("llava_onevision", "idefics3", "gemma3", "aya_vision")],
)
def test_offloaded_model(family: str, tmp_path: Path) -> None:
    """Weights on disk, hooks in every module: the path assumes no device of the model."""
    accelerate = pytest.importorskip("accelerate")
    plain, inputs = setup(family, "left")
    model = copy.deepcopy(plain)
    expected = plain(**prune_inputs(plain, inputs, LoFi(keep=0.5))).logits
    accelerate.disk_offload(model, tmp_path, execution_device=torch.device("cpu"))
    assert next(model.parameters()).device.type == "meta"
    pruned = prune_inputs(model, inputs, LoFi(keep=0.5))
    torch.testing.assert_close(model(**pruned).logits, expected, rtol=0, atol=1e-6)
    hooked = model.forward
    with pruning(model, LoFi(keep=0.5)):
        torch.testing.assert_close(model(**inputs).logits, expected, rtol=0, atol=1e-6)
    assert model.forward is hooked


# What pruners see


class Needy(Random):
    wants: tuple[str, ...] = ("cls_attention",)

    @property
    def needs(self) -> tuple[str, ...]:
        return self.wants


@families
def test_pruners_see_what_the_language_model_gets(family: str) -> None:
    model, inputs = setup(family, "two")
    seen = []

    class Spy(Random):
        def select(self, tokens: VisualTokens) -> Selection:
            seen.append(tokens)
            return super().select(tokens)

    embeds: list[Tensor] = []
    hook = language_model(model).register_forward_pre_hook(
        lambda module, args, kwargs: embeds.append(kwargs["inputs_embeds"]), with_kwargs=True
    )
    try:
        model(**inputs)
    finally:
        hook.remove()
    prune_inputs(model, inputs, Spy())
    visual = embeds[0][0][inputs["input_ids"][0] >= IMAGE]
    got = torch.cat([tokens.projected for tokens in seen])
    parts = visual.chunk(len(got))
    places = FAMILIES[family].patches(len(parts[0]))
    want = torch.stack([part[places] for part in parts])
    torch.testing.assert_close(got.flatten(), want.flatten(), rtol=0, atol=0)


def test_encoder_facts() -> None:
    """What is recorded, with SDPA on, is what an eager encoder says of itself."""
    model, inputs = setup("llava", "two")
    facts = ("cls_attention", "first_cls_attention", "last_cls_attention")
    facts += ("encoded", "cls_encoded", "keys", "last_keys", "crops", "project")
    seen: list[VisualTokens] = []

    class Curious(Needy):
        wants = facts

        def select(self, tokens: VisualTokens) -> Selection:
            seen.append(tokens)
            return super().select(tokens)

    prune_inputs(model, inputs, Curious())
    (tokens,) = seen
    tower = FAMILIES["llava"].model(attention="eager").base_model.vision_tower
    out = tower(inputs["pixel_values"], output_attentions=True, output_hidden_states=True)
    feature, last = tower.encoder.layers[-2], tower.encoder.layers[-1]
    K = feature.self_attn.k_proj(feature.layer_norm1(out.hidden_states[-3]))
    states = last.layer_norm1(out.hidden_states[-2])
    last_q, last_K = last.self_attn.q_proj(states), last.self_attn.k_proj(states)
    wide = (last_q[:, :1] @ last_K.mT / 16**0.5).softmax(-1)
    expected = {
        "cls_attention": out.attentions[-2][:, :, 0, 1:],
        "first_cls_attention": out.attentions[0][:, :, 0, 1:],
        "last_cls_attention": wide[:, 0, 1:],
        "encoded": out.hidden_states[-2][:, 1:],
        "cls_encoded": out.hidden_states[-2][:, :1].expand(-1, 36, -1),
        "keys": K.unflatten(-1, (2, 8)).mean(2)[:, 1:],
        "last_keys": last_K[:, 1:],
        "crops": torch.zeros(2, 36, dtype=torch.int64),
        "projected": tokens.project(tokens.encoded),
    }
    for name, want in expected.items():
        torch.testing.assert_close(getattr(tokens, name), want, rtol=0, atol=1e-5, msg=name)
    attention = model.base_model.vision_tower.encoder.layers[-2].self_attn
    assert not attention.q_proj._forward_hooks and not attention.k_proj._forward_hooks


def test_site_of_lofi() -> None:
    model, inputs = setup("llava")
    encoder = prune_inputs(model, inputs, LoFi(keep=0.5, rank=4, site="encoder")).report.images[0]
    encoded = model.base_model.vision_tower(inputs["pixel_values"], output_hidden_states=True)
    X = encoded.hidden_states[-2][:, 1:]
    assert torch.equal(encoder.kept, LoFi(keep=0.5, rank=4)(VisualTokens(X)).kept[0])


ONE_TO_ONE = ["llava", "vipllava", "llava_next", "internvl", "idefics3", "smolvlm", "paligemma"]


@pytest.mark.parametrize("family", ONE_TO_ONE)
def test_encoder_features_are_the_tokens_before_projection(family: str) -> None:
    """Also where crops are put together: what was recorded, projected, is what arrives."""
    layout = "unequal" if "b" in FAMILIES[family].kinds else "two"
    model, inputs = setup(family, layout)
    projector = model.base_model.get_submodule(LIBRARY[family].projector)
    for picture in encode_inputs(model, inputs, ("encoded",)).pictures:
        projected = projector(picture.known["encoded"])
        want = picture.features[picture.layout.patches]
        torch.testing.assert_close(projected, want, rtol=0, atol=1e-5)


def test_cls_attention_follows_the_crops() -> None:
    """LLaVA-NeXT: the overview's attention comes first, and every crop patch has its own."""
    model, inputs = setup("llava_next", "two")
    eager = FAMILIES["llava_next"].model(attention="eager").base_model.vision_tower
    crops = inputs["pixel_values"][:, :3].flatten(0, 1)
    attention = eager(crops, output_attentions=True).attentions[-2][:, :, 0, 1:]  # (6, H, 36)
    pictures = encode_inputs(model, inputs, ("cls_attention", "crops")).pictures
    for i, picture in enumerate(pictures):
        got = picture.known["cls_attention"].mT
        right_half = torch.arange(72) % 12 >= 6
        crops = torch.cat((torch.zeros(36), 1 + right_half)).long()
        assert torch.equal(as_batch("crops", [picture.known["crops"]])[0], crops)
        overview, left, right = attention[3 * i : 3 * i + 3].unflatten(-1, (6, 6))
        joined = torch.cat((left, right), -1).flatten(1)
        want = torch.cat((overview.flatten(1), joined), -1)
        torch.testing.assert_close(got, want, rtol=0, atol=1e-6)


def test_encode_once_prune_often() -> None:
    model, inputs = setup("llava", "left")
    encoded = encode_inputs(model, inputs, ("encoded",))
    for pruner in (LoFi(keep=0.5), LoFi(keep=0.2, site="encoder"), Random(keep=1.0)):
        a, b = encoded.prune(pruner), prune_inputs(model, inputs, pruner)
        assert torch.equal(model(**a).logits, model(**b).logits)
    with pytest.raises(LofiError, match="needs="):
        encode_inputs(model, inputs).prune(LoFi(site="encoder"))


def test_merged_tokens_reach_the_language_model() -> None:
    model, inputs = setup("llava")

    class Twice(Random):
        def select(self, tokens: VisualTokens) -> Selection:
            kept = super().select(tokens).kept
            new = tuple(2 * X[k] for X, k in zip(tokens.projected, kept, strict=True))
            return Selection(kept, new)

    once, twice = (prune_inputs(model, inputs, p) for p in (Random(), Twice()))
    a, b = (x["mm_encoder_outputs"]["image"].pooler_output[0] for x in (once, twice))
    assert torch.equal(2 * a, b)


# Bad input


def test_bad_input() -> None:
    model, inputs = setup("llava")

    def refused(match: str, pruner: Pruner = LoFi(), model: Any = model, **changes: Any) -> None:  # noqa: B008
        x = {k: v for k, v in (inputs | changes).items() if v is not None}
        with pytest.raises(LofiError, match=match):
            prune_inputs(model, x, pruner)

    ids, pixels = inputs["input_ids"], inputs["pixel_values"]
    refused("no image", input_ids=torch.tensor([[3, 4]]), pixel_values=None, attention_mask=None)
    refused("no pixels", pixel_values=None)
    refused("35 image tokens", input_ids=ids[:, 4:], attention_mask=None)
    refused("belong together", pixel_values=pixels.repeat(2, 1, 1, 1))
    refused("input_ids", input_ids=None)
    refused("2-D", attention_mask=torch.ones(1, 1, 43, 43))
    refused("NaN", pixel_values=pixels * torch.nan)
    with pytest.raises(LofiError, match="positions="):
        prune_inputs(model, inputs, LoFi(), positions="none")  # type: ignore[arg-type]
    split = torch.cat((ids[:, :20], ids[:, 20:40]))
    refused("begin in row 0 and end in row 1", input_ids=split, attention_mask=None)
    both = torch.ones(2, 43)
    both[0, 0] = both[1, -1] = 0
    refused(
        "on the left and some on the right",
        input_ids=ids.repeat(2, 1),
        pixel_values=pixels.repeat(2, 1, 1, 1),
        attention_mask=both,
    )
    stranger = copy.copy(model)
    stranger.config = copy.copy(model.config)
    stranger.config.model_type = "stranger"
    refused("no adapter for the model family 'stranger'", model=stranger)


NO_CLS = ["llava_onevision", "qwen2_5_vl", "qwen3_vl", "internvl", "smolvlm", "gemma3", "mistral3"]
MERGED = [
    "llava_onevision",
    "qwen2_vl",
    "qwen2_5_vl",
    "qwen3_vl",
    "gemma3",
    "mistral3",
    "aya_vision",
]


@pytest.mark.parametrize("family", NO_CLS)
def test_encoders_without_cls_token(family: str) -> None:
    model, inputs = setup(family)
    with pytest.raises(LofiError, match="CLIP encoder's CLS token"):
        prune_inputs(model, inputs, Needy())
    assert prune_inputs(model, inputs, LoFi()).report.images  # no hook is left behind


@pytest.mark.parametrize("family", MERGED)
def test_encoders_whose_patches_are_no_tokens(family: str) -> None:
    model, inputs = setup(family)
    with pytest.raises(LofiError, match="merges"):
        prune_inputs(model, inputs, LoFi(site="encoder"))


def test_families_that_cannot_be_pruned() -> None:
    model, inputs = setup("llava")
    for kind, reason in UNFIT.items():
        unfit = copy.copy(model)
        unfit.config = copy.copy(model.config)
        unfit.config.model_type = kind
        with pytest.raises(LofiError, match=re.escape(reason)):
            prune_inputs(unfit, inputs, LoFi())

    class Old(type(model.base_model)):  # type: ignore[misc]
        def forward(self, input_ids: Any = None, pixel_values: Any = None) -> None: ...

    old = copy.copy(model)
    old._modules = dict(model._modules) | {"model": copy.copy(model.base_model)}
    old.base_model.__class__ = Old
    with pytest.raises(LofiError, match=r"transformers >= 5\.20"):
        prune_inputs(old, inputs, LoFi())


def test_missing_fields_of_a_family() -> None:
    model, inputs = setup("qwen2_5_vl")
    with pytest.raises(LofiError, match="mm_token_type_ids"):
        prune_inputs(model, {k: v for k, v in inputs.items() if k != "mm_token_type_ids"}, LoFi())
    other, pixels = setup("llava_next", "one")
    assert other is not model
    with pytest.raises(LofiError, match="belong together"):  # LLaVA's prompt, LLaVA-NeXT's pixels
        prune_inputs(
            other,
            pixels | {"input_ids": setup("llava")[1]["input_ids"], "attention_mask": None},
            LoFi(),
        )


def test_needs_that_cannot_be_met() -> None:
    model, inputs = setup("llava")
    several = copy.copy(model)
    several.config = copy.copy(model.config)
    several.config.vision_feature_layer = [-2, -1]
    with pytest.raises(LofiError, match="several layers"):
        prune_inputs(several, inputs, Needy())

    class Unknown(Needy):
        wants = ("horoscope",)

    with pytest.raises(LofiError, match="horoscope"):
        prune_inputs(model, inputs, Unknown())
