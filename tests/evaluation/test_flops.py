"""The cost formulas against what PyTorch counts and holds when a model runs."""

import pytest
import torch
from torch.utils.flop_counter import FlopCounterMode
from transformers import LlamaConfig, LlamaForCausalLM

from lofi_core.evaluation.cost import cache_bytes, prefill_flops


@pytest.mark.parametrize("kv_heads", [4, 1])
@pytest.mark.parametrize("length", [1, 37])
def test_equals_what_pytorch_counts(kv_heads: int, length: int) -> None:
    config = LlamaConfig(
        vocab_size=50,
        hidden_size=32,
        intermediate_size=48,
        num_hidden_layers=3,
        num_attention_heads=4,
        num_key_value_heads=kv_heads,
        attn_implementation="eager",
    )
    model = LlamaForCausalLM(config).eval()
    ids = torch.zeros(1, length, dtype=torch.long)
    with FlopCounterMode(display=False) as counter, torch.no_grad():
        cache = model(ids, logits_to_keep=1, use_cache=True).past_key_values
    held = sum(x.nbytes for layer in cache.layers for x in (layer.keys, layer.values))
    assert cache_bytes(config, length, itemsize=4) == held
    rotary = 2 * length * (config.head_dim // 2)  # positions times frequencies, counted as a matmul
    assert counter.get_total_flops() - prefill_flops(config, length) in (0, rotary)
