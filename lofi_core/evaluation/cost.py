r"""What a prompt costs: operations of a decoder's prefill, and bytes of its cache.

For L tokens, width D, keys and values of width K, MLP width F and n layers, a multiply-add counted
as two operations:

    projections  2 L (2 D^2 + 2 D K)      attention  4 L^2 D      gated MLP  6 L D F

each a layer, and 2 D V once, for the logits of the last token over V words.  Norms, rotations and
softmax, all linear in L, are left out, and attention is counted in full: the usual kernels skip at
most half of it.
"""

from typing import Any

__all__ = ["cache_bytes", "prefill_flops"]


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
    D, F, K = config.hidden_size, config.intermediate_size, _key_width(config)
    layer = 2 * length * (2 * D * D + 2 * D * K) + 4 * length**2 * D + 6 * length * D * F
    return config.num_hidden_layers * layer + 2 * D * config.vocab_size


def cache_bytes(config: Any, length: int, itemsize: int = 2) -> int:
    """Count the bytes that the keys and values of a prompt take.

    Parameters
    ----------
    config : transformers text configuration
        Of a decoder whose layers all cache the whole prompt.
    length : int
        Tokens in the prompt, text and visual.
    itemsize : int
        Bytes a number: 2 in half precision.

    Returns
    -------
    int
        Bytes for one sequence.

    Examples
    --------
    >>> from transformers import LlamaConfig
    >>> cache_bytes(LlamaConfig(), 1)  # half a MiB a token
    524288
    """
    return 2 * config.num_hidden_layers * length * _key_width(config) * itemsize


def _key_width(config: Any) -> int:
    heads = config.num_attention_heads
    own = getattr(config, "head_dim", None) or config.hidden_size // heads
    return own * (getattr(config, "num_key_value_heads", None) or heads)
