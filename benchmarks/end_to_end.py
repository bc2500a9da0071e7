"""What a user waits for: the first token and those after it, unpruned and pruned.

The baseline is the same model with the same attention back-end and stock ``generate``; selection is
part of every pruned time. Beside the times stand what they are made of (vision, selection, prefill)
and the operations that PyTorch counts: their ratio is the best that pruning could do.
"""

from collections.abc import Iterable
from typing import Any

import torch
from torch.utils.flop_counter import FlopCounterMode

from benchmarks.measure import Row, measure
from benchmarks.models import Batch, Maker
from lofi_core import LoFi, prune_inputs
from lofi_core.pruners import VisualTokens
from lofi_core.vlm.encoding import encode_inputs

KEEPS = (1.0, 0.75, 0.5, 0.25, 0.11)


@torch.inference_mode()
def end_to_end(
    name: str,
    model: Any,
    maker: Maker,
    device: torch.device,
    repeats: int,
    batches: Iterable[int],
    visual: Iterable[int],
    new_tokens: int = 16,
) -> list[Row]:
    """Rows by batch, visual tokens and share kept; keep = 1 is the model as it is."""
    rows: list[Row] = []
    for tokens in visual:
        for batch in batches:
            try:
                rows += _case(name, model, maker(batch, tokens), device, repeats, new_tokens)
            except torch.OutOfMemoryError:
                rows.append({"model": name, "batch": batch, "visual": tokens, "failed": "memory"})
            if device.type == "cuda":
                torch.cuda.empty_cache()
    return rows


def _case(
    name: str, model: Any, inputs: Batch, device: torch.device, repeats: int, new_tokens: int
) -> list[Row]:
    more = {"max_new_tokens": new_tokens, "min_new_tokens": new_tokens, "do_sample": False}
    once = more | {"max_new_tokens": 1, "min_new_tokens": 1}
    encoded = encode_inputs(model, inputs)
    ready = {keep: prune_inputs(model, inputs, LoFi(keep=keep)) for keep in KEEPS}

    def prompt(keep: float) -> Any:
        return inputs if keep == 1 else prune_inputs(model, inputs, LoFi(keep=keep))

    tokens = VisualTokens(torch.stack([picture.features for picture in encoded.pictures]))
    timed: dict[str, Any] = {
        "vision": lambda: encode_inputs(model, inputs),
        "scoring": lambda: LoFi(keep=0.25)(tokens),  # selection without what is built from it
    }
    for keep in KEEPS:
        timed |= {
            f"first {keep}": lambda k=keep: model.generate(**prompt(k), **once),
            f"answer {keep}": lambda k=keep: model.generate(**prompt(k), **more),
            f"prefill {keep}": lambda k=keep: model(**ready[k], use_cache=True, logits_to_keep=1),
            f"selection {keep}": lambda k=keep: encoded.prune(LoFi(keep=k)),
        }
    found = measure(timed, device, repeats)
    vision_flops = _flops(lambda: encode_inputs(model, inputs))
    count = int((inputs["input_ids"] == model.config.image_token_id).sum(-1)[0])
    rows = []
    for keep in KEEPS:
        x = ready[keep]
        length = x["input_ids"].shape[1]
        first, answer = found[f"first {keep}"], found[f"answer {keep}"]
        rows.append(
            {
                "model": name,
                "batch": len(inputs["input_ids"]),
                "visual": count,
                "keep": keep,
                "kept": x.report.tokens_after // len(inputs["input_ids"]),
                "length": length,
                "attention": model.config.get_text_config()._attn_implementation,
                "ttft": first,
                "answer": answer,
                "tokens_per_second": _rate(first, answer, new_tokens, len(inputs["input_ids"])),
                "vision": found["vision"],
                "selection": found[f"selection {keep}"] if keep < 1 else None,
                "scoring": found["scoring"] if keep < 1 else None,
                "prefill": found[f"prefill {keep}"],
                "flops": vision_flops + _flops(timed[f"prefill {keep}"]),
                "cache_bytes": _cache_bytes(timed[f"prefill {keep}"]()),
            }
        )
    return rows


def _rate(first: Row, answer: Row, new_tokens: int, rows: int) -> float | None:
    """Tokens a second after the first one, over the batch; None where noise hides it."""
    seconds = answer["median"] - first["median"]
    return round(rows * (new_tokens - 1) / seconds, 1) if seconds > 0 else None


def _flops(call: Any) -> int:
    with FlopCounterMode(display=False) as counter:
        call()
    return counter.get_total_flops()


def _cache_bytes(output: Any) -> int:
    layers = output.past_key_values.layers
    return sum(x.numel() * x.element_size() for layer in layers for x in (layer.keys, layer.values))
