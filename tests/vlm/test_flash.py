"""FlashAttention 2, emulated on the CPU behind transformers' own interface to it.

The two kernels are replaced by loops; all that decides what they are called with, which sequences a
row holds above all, is transformers' code.
"""

import copy
from typing import Any

import pytest
import torch
import transformers.modeling_flash_attention_utils as flash
from tiny import FAMILIES, Tiny
from torch import Tensor

from lofi_core.pruners import FastV, Pruner, Random
from lofi_core.pruning import prune_inputs, pruning

OPTIONS: dict[str, Any] = dict(max_new_tokens=5, do_sample=False)
PRUNER: Pruner = Random(keep=0.4)
# One of each kind of decoder whose attention is causal.
KINDS = ["llava", "llava_onevision", "qwen2_5_vl", "idefics3", "mistral3", "aya_vision", "internvl"]


def attend(q: Tensor, k: Tensor, v: Tensor, scale: float, causal: bool) -> Tensor:
    """Attention of one sequence, (L, H, d); queries are the last of the keys' tokens."""
    H, Q, K = q.shape[1], len(q), len(k)
    k, v = (x.repeat_interleave(H // x.shape[1], 1) for x in (k, v))
    scores = torch.einsum("qhd,khd->hqk", q, k) * scale
    if causal:
        later = ~torch.ones(Q, K, dtype=torch.bool).tril(K - Q)
        scores = scores.masked_fill(later, -torch.inf)
    return torch.einsum("hqk,khd->qhd", scores.softmax(-1), v)


def flash_fn(q: Tensor, k: Tensor, v: Tensor, causal: bool, softmax_scale: float) -> Tensor:
    rows = zip(q, k, v, strict=True)
    return torch.stack([attend(*row, softmax_scale, causal) for row in rows])


def varlen_fn(
    q: Tensor,
    k: Tensor,
    v: Tensor,
    cu_seqlens_q: Tensor,
    cu_seqlens_k: Tensor,
    causal: bool,
    softmax_scale: float,
) -> Tensor:
    sequences = zip(cu_seqlens_q.tolist(), cu_seqlens_q.tolist()[1:], strict=False)
    keys = list(zip(cu_seqlens_k.tolist(), cu_seqlens_k.tolist()[1:], strict=False))
    parts = [
        (q[a:b], k[slice(*span)], v[slice(*span)])
        for (a, b), span in zip(sequences, keys, strict=True)
    ]
    return torch.cat([attend(*part, softmax_scale, causal) for part in parts])


def kwargs_fn(query_length: int, is_causal: bool, softmax_scale: float, **rest: Any) -> Any:
    return {"causal": is_causal and query_length > 1, "softmax_scale": softmax_scale}


@pytest.fixture(autouse=True)
def emulated(monkeypatch: pytest.MonkeyPatch) -> Any:
    functions = (flash_fn, varlen_fn, None, flash._pad_input, flash._unpad_input)
    monkeypatch.setattr(
        flash, "lazy_import_flash_attention", lambda *a, **k: (functions, (kwargs_fn, kwargs_fn))
    )
    with torch.no_grad():
        yield


def models(tiny: Tiny) -> tuple[Any, Any]:
    """The same model with SDPA and, in its decoder, with FlashAttention."""
    model = tiny.model()
    flashed = copy.deepcopy(model)
    flashed.config.get_text_config()._attn_implementation = "flash_attention_2"
    return model, flashed


@pytest.mark.parametrize("family", KINDS)
def test_gaps_in_positions_are_no_borders(family: str) -> None:
    """Several tokens behind a cache: a prompt in chunks, and a second turn."""
    tiny = FAMILIES[family]
    model, flashed = models(tiny)
    for rows in ([[3, "a", 4]], [[3, "a", 4], [5, "a", 2]]):
        inputs = tiny.inputs(rows)
        plain, pruned = (prune_inputs(m, inputs, PRUNER) for m in (model, flashed))
        expected = model.generate(**plain, **OPTIONS)[:, -5:]
        assert torch.equal(flashed.generate(**pruned, **OPTIONS)[:, -5:], expected)
        chunked = flashed.generate(**pruned, **OPTIONS, prefill_chunk_size=8)
        assert torch.equal(chunked[:, -5:], expected)
        got, want = flashed(**pruned).logits[:, -1], model(**plain).logits[:, -1]
        torch.testing.assert_close(got, want, rtol=0, atol=1e-4)
    chat = tiny.inputs([[3, "a", 4]])
    first = flashed.generate(
        **prune_inputs(flashed, chat, PRUNER), **OPTIONS, return_dict_in_generate=True
    )
    new = torch.cat((first.sequences[:, -5:], torch.tensor([[7, 8, 9]])), 1)
    ids = torch.cat((chat["input_ids"], new), 1)
    chat |= {"input_ids": ids, "attention_mask": torch.ones_like(ids)} | tiny.extras(ids)
    longer = prune_inputs(flashed, chat, PRUNER)
    going_on = flashed.generate(**longer.continuing(first.past_key_values), **OPTIONS)
    expected = model.generate(**prune_inputs(model, chat, PRUNER), **OPTIONS)
    assert torch.equal(going_on[:, -5:], expected[:, -5:])


def test_the_emulation_splits_at_gaps() -> None:
    """Without care the same call is wrong, so that the test above can fail."""
    model, flashed = models(FAMILIES["llava"])
    inputs = FAMILIES["llava"].inputs([[3, "a", 4]])
    careless = prune_inputs(model, inputs, PRUNER)  # made for SDPA
    logits = [
        flashed.generate(
            **careless,
            max_new_tokens=1,
            do_sample=False,
            return_dict_in_generate=True,
            output_logits=True,
            **chunks,
        ).logits[0]
        for chunks in ({}, {"prefill_chunk_size": 8})
    ]
    assert (logits[0] - logits[1]).abs().max() > 1e-2


def test_inside_the_language_model() -> None:
    """A second turn over a cache whose layers differ in length."""
    tiny, pruner = FAMILIES["llava"], FastV(layer=1, ratio=0.5)
    inputs = tiny.inputs([[3, "a", 4]])
    answers = []
    for model in models(tiny):
        with pruning(model, pruner):
            cache = model(**inputs, use_cache=True).past_key_values
            ids = torch.tensor([[7, 8, 9]])
            answers.append(model(input_ids=ids, past_key_values=cache).logits)
    torch.testing.assert_close(answers[0], answers[1], rtol=0, atol=1e-4)
