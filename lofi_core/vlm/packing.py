r"""All questions about an image behind one copy of it: the image is paid for once.

The row of an image with questions q_1, ..., q_n is

    prefix . question 1 . question 2 ...         (the prefix ends with the last visual token)

where a token of question j sees the prefix and what precedes it in question j, and the positions of
every question start where the prefix ends. Each answer is then what the question alone would get:
in a causal decoder nothing in the prefix depends on what comes after it.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor
from torch.nn.utils.rnn import pad_sequence

from lofi_core.errors import LofiError
from lofi_core.pruners import Pruner
from lofi_core.vlm.encoding import EncodedInputs, PrunedInputs
from lofi_core.vlm.inside import LIKE_LLAMA
from lofi_core.vlm.masks import additive
from lofi_core.vlm.report import Report

__all__ = ["NotPackable", "Packed", "PackedOutput", "pack"]


class NotPackable(LofiError):
    """Prompts that have to be asked one per row, see `lofi_core.vlm.prompts.share`."""


@dataclass(frozen=True, eq=False)
class PackedOutput:
    """What the model says to packed questions.

    Parameters
    ----------
    logits : Tensor, shape (Q, V)
        After the last token of each question, in the order they were given.
    report : Report
        Visual tokens before and after, one entry per image.
    hidden : tuple of Tensors, shape (B, L, D)
        If asked for: what enters the first layer, and what each layer gives, the last one after
        the final norm.
    visual : Tensor, shape (B, L), bool
        Where visual tokens stand in these.
    question : Tensor, shape (B, L), int64
        Which of its row's questions a token belongs to, counted from 1; 0 in the prefix and the
        padding.
    """

    logits: Tensor
    report: Report
    hidden: tuple[Tensor, ...]
    visual: Tensor
    question: Tensor


@dataclass(frozen=True, eq=False)
class Packed:
    """Encoded images, one per row, with all questions about them; made by `pack`."""

    encoded: EncodedInputs

    @torch.inference_mode()
    def run(self, pruner: Pruner, hidden: bool = False) -> PackedOutput:
        """Answer all questions under a pruner that acts before the language model.

        Parameters
        ----------
        pruner : Pruner
            Chooses once per image, as it cannot depend on the question.
        hidden : bool
            Return hidden states too.
        """
        pruned = self.encoded.prune(pruner)
        question = pruned["question"]
        ends = pruned["end"].bool()
        columns = ends.any(0).nonzero()[:, 0]
        model = self.encoded.model
        output = model(
            input_ids=pruned["input_ids"],
            attention_mask=_mask(pruned, model.dtype),
            position_ids=pruned["position_ids"],
            mm_encoder_outputs=pruned["mm_encoder_outputs"],
            logits_to_keep=columns,
            output_hidden_states=hidden,
            use_cache=False,
        )
        visual = pruned["input_ids"] == model.config.image_token_id
        logits = output.logits[ends[:, columns]].cpu()
        return PackedOutput(logits, pruned.report, output.hidden_states or (), visual, question)


def pack(encoded: EncodedInputs, inputs: Mapping[str, Any], rows: Sequence[int]) -> Packed:
    """Pack questions, given as one prompt each, behind their images.

    Parameters
    ----------
    encoded : EncodedInputs
        Prompts with one image each.
    inputs : mapping
        Prompts that differ only after the image, as the processor returns them.
    rows : sequence of int, ascending
        For each of these, the row of ``encoded`` that shows the same image.

    Raises
    ------
    NotPackable
        If the language model is not known to be causal, with attention to all earlier tokens and
        plain positions; if its attention back-end does not take every mask; if there is not one
        image, in one piece, in each row; or if prompts about one image differ before its end.
    """
    model = encoded.model
    if reason := _obstacle(model) or _pieces(encoded):
        raise NotPackable(f"pack: {reason}: ask one question per row")
    token, pad = model.config.image_token_id, model.config.get_text_config().pad_token_id
    prompts = [
        ids[mask.bool()]
        for ids, mask in zip(inputs["input_ids"], inputs["attention_mask"], strict=True)
    ]
    packed = [
        _row([ids for ids, row in zip(prompts, rows, strict=True) if row == image], token, image)
        for image in range(len(encoded.pictures))
    ]
    names = packed[0].keys()
    new = {name: pad_sequence([row[name] for row in packed], batch_first=True) for name in names}
    new["input_ids"] = torch.where(new["attention_mask"].bool(), new["input_ids"], max(0, pad or 0))
    pictures = [
        replace(picture, columns=(new["input_ids"][picture.row] == token).nonzero()[:, 0])
        for picture in encoded.pictures
    ]
    return Packed(replace(encoded, inputs=new, pictures=pictures))


def _obstacle(model: Any) -> str:
    """Say what keeps a model's prompts from being packed, if anything does."""
    text = model.config.get_text_config()
    if text.model_type not in LIKE_LLAMA:
        return f"a language model of type {text.model_type!r}; expected one of {LIKE_LLAMA}"
    if text._attn_implementation not in ("sdpa", "eager"):
        return f"attention {text._attn_implementation!r}; expected 'sdpa' or 'eager'"
    if "mrope_section" in (getattr(text, "rope_parameters", None) or {}):
        return "positions along several axes; expected one"
    if set(getattr(text, "layer_types", None) or ()) - {"full_attention"}:
        return f"layers of types {sorted(set(text.layer_types))}; expected full attention"
    if getattr(text, "sliding_window", None) and getattr(text, "use_sliding_window", True):
        return f"attention in a window of {text.sliding_window}; expected full attention"
    return ""


def _pieces(encoded: EncodedInputs) -> str:
    rows = [picture.row for picture in encoded.pictures]
    one_each = rows == [*range(len(encoded.inputs["input_ids"]))]
    return "" if one_each else f"images or pieces of images in rows {rows}; expected one in each"


def _row(prompts: Sequence[Tensor], token: int, image: int) -> dict[str, Tensor]:
    """Put prompts without padding behind the prefix that they share, with all (L,) facts."""
    starts = [int((ids == token).nonzero()[-1]) + 1 for ids in prompts]
    prefix = prompts[0][: starts[0]]
    if any(not torch.equal(ids[:s], prefix) for ids, s in zip(prompts, starts, strict=True)):
        raise NotPackable(
            f"pack: the prompts about image {image} differ before its end; expected the question "
            "after the image: ask one question per row"
        )
    parts = [prefix, *(ids[len(prefix) :] for ids in prompts)]
    lengths = torch.tensor([len(part) for part in parts], device=prefix.device)
    question = torch.arange(len(parts), device=prefix.device).repeat_interleave(lengths)
    place = torch.cat([torch.arange(len(part), device=prefix.device) for part in parts])
    return {
        "input_ids": torch.cat(parts),
        "attention_mask": torch.ones_like(question),
        "position_ids": place + len(prefix) * (question > 0),
        "question": question,
        # An integer, because pruning shortens integers only.
        "end": ((place == lengths[question] - 1) & (question > 0)).long(),
    }


def _mask(inputs: PrunedInputs, dtype: torch.dtype) -> Tensor:
    """What to add to attention scores, (B, 1, L, L): explicit attention takes no booleans."""
    question, real = inputs["question"], inputs["attention_mask"].bool()
    same = (question[:, None, :] == 0) | (question[:, None, :] == question[:, :, None])
    L = question.shape[1]
    seen = same & torch.ones(L, L, dtype=torch.bool, device=question.device).tril()
    seen &= real[:, None, :] | ~real[:, :, None]  # padding sees something, or its rows are NaN
    return additive(seen[:, None], dtype)
