r"""What a prompt costs: floating-point operations of a decoder's prefill.

For L tokens, width D, keys and values of width K, MLP width F and n layers, a multiply-add counted
as two operations:

    projections  2 L (2 D^2 + 2 D K)      attention  4 L^2 D      gated MLP  6 L D F

each a layer, and 2 D V once, for the logits of the last token over V words.  Norms, rotations and
softmax, all linear in L, are left out, and attention is counted in full: the usual kernels skip at
most half of it.
"""

from typing import Any

__all__ = ["prefill_flops"]


def prefill_flops(config: Any, length: int) -> int:
    """Count the operations of a Llama-like language model's prefill.

    Parameters
    ----------
    config : transformers text configuration
        Of a decoder with gated MLPs, such as ``model.config.text_config``.
    length : int
        Tokens in the prompt, text and visual.

    Returns
    -------
    int
        Floating-point operations for one sequence.

    Examples
    --------
    >>> from transformers import LlamaConfig
    >>> llama_7b = LlamaConfig()
    >>> round(prefill_flops(llama_7b, 640) / prefill_flops(llama_7b, 64), 1)
    10.2
    """
    D, F = config.hidden_size, config.intermediate_size
    heads = config.num_attention_heads
    K = D // heads * (getattr(config, "num_key_value_heads", None) or heads)
    layer = 2 * length * (2 * D * D + 2 * D * K) + 4 * length**2 * D + 6 * length * D * F
    return config.num_hidden_layers * layer + 2 * D * config.vocab_size
