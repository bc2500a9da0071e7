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
from lofi_core.vlm.report import Report

__all__ = ["Packed", "PackedOutput", "pack"]


@dataclass(frozen=True, eq=False)
class PackedOutput:
    """What the model says to packed questions.

    Parameters
    ----------
    logits : Tensor, shape (Q, V)
        After the last token of each question, in the order they were given.
    report : Report
        Visual tokens before and after, one entry an image.
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
    """Encoded images, one a row, with all questions about them; made by `pack`."""

    encoded: EncodedInputs

    @torch.inference_mode()
    def run(self, pruner: Pruner, hidden: bool = False) -> PackedOutput:
        """Answer all questions under a pruner that acts before the language model.

        Parameters
        ----------
        pruner : Pruner
            Chooses once an image, as it cannot depend on the question.
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
        logits = output.logits[ends[:, columns]].float().cpu()
        return PackedOutput(logits, pruned.report, output.hidden_states or (), visual, question)


def pack(encoded: EncodedInputs, inputs: Mapping[str, Any], images: Sequence[int]) -> Packed:
    """Pack questions, given as one prompt each, behind their images.

    Parameters
    ----------
    encoded : EncodedInputs
        Prompts with one image each, a row an image.
    inputs : mapping
        Prompts that differ after the image only, as the processor returns them.
    images : sequence of int, ascending
        For each of these, the row of ``encoded`` that shows the same image.

    Raises
    ------
    LofiError
        If prompts about one image differ before its end; if the language model is not known to be
        causal with plain positions, or its attention back-end takes no mask of this kind.
    """
    model = encoded.model
    text = model.config.get_text_config()
    if text.model_type not in LIKE_LLAMA or text._attn_implementation not in ("sdpa", "eager"):
        raise LofiError(
            f"pack: a language model of type {text.model_type!r} with attention "
            f"{text._attn_implementation!r}; expected one of {LIKE_LLAMA} with 'sdpa' or 'eager': "
            "ask one question per row"
        )
    held = [picture.row for picture in encoded.pictures]
    if held != list(range(len(encoded.inputs["input_ids"]))):
        raise LofiError(
            f"pack: pictures in rows {held}; expected one picture per prompt: ask one question per "
            "row"
        )
    if getattr(text, "rope_parameters", None) and "mrope_section" in text.rope_parameters:
        raise LofiError(
            "pack: positions along several axes; expected one: ask one question per row"
        )
    prompts = [
        ids[mask.bool()]
        for ids, mask in zip(inputs["input_ids"], inputs["attention_mask"], strict=True)
    ]
    rows: dict[str, list[Tensor]] = {name: [] for name in ("ids", "positions", "question", "end")}
    for image in range(len(encoded.inputs["input_ids"])):
        mine = [prompts[i] for i, which in enumerate(images) if which == image]
        starts = [int((ids == model.config.image_token_id).nonzero()[-1]) + 1 for ids in mine]
        prefix = mine[0][: starts[0]]
        if any(not torch.equal(ids[:s], prefix) for ids, s in zip(mine, starts, strict=True)):
            raise LofiError(
                f"pack: the prompts about image {image} differ before its end; expected the "
                "question after the image: ask one question per row"
            )
        parts = [prefix, *(ids[len(prefix) :] for ids in mine)]
        lengths = torch.tensor([len(part) for part in parts], device=prefix.device)
        question = torch.arange(len(parts), device=prefix.device).repeat_interleave(lengths)
        place = torch.cat([torch.arange(len(part), device=prefix.device) for part in parts])
        rows["ids"].append(torch.cat(parts))
        rows["positions"].append(place + len(prefix) * (question > 0))
        rows["question"].append(question)
        rows["end"].append((place == lengths[question] - 1) & (question > 0))
    packed = {name: pad_sequence(row, batch_first=True) for name, row in rows.items()}
    real = pad_sequence([torch.ones_like(ids) for ids in rows["ids"]], batch_first=True)
    new = {
        "input_ids": torch.where(real.bool(), packed["ids"], text.pad_token_id or 0),
        "attention_mask": real,
        "position_ids": packed["positions"],
        "question": packed["question"],
        "end": packed["end"].long(),
    }
    pictures = []
    for picture in encoded.pictures:
        ids = new["input_ids"][picture.row]
        columns = (ids == model.config.image_token_id).nonzero()[:, 0]
        pictures.append(replace(picture, columns=columns))
    return Packed(replace(encoded, inputs=new, pictures=pictures))


def _mask(inputs: PrunedInputs, dtype: torch.dtype) -> Tensor:
    """What to add to attention scores, (B, 1, L, L): explicit attention takes no booleans."""
    question, real = inputs["question"], inputs["attention_mask"].bool()
    same = (question[:, None, :] == 0) | (question[:, None, :] == question[:, :, None])
    L = question.shape[1]
    seen = same & torch.ones(L, L, dtype=torch.bool, device=question.device).tril()
    seen &= real[:, None, :] | ~real[:, :, None]  # padding sees something, or its rows are NaN
    low = torch.finfo(dtype).min
    return torch.zeros(seen.shape, dtype=dtype, device=seen.device).masked_fill(~seen, low)[:, None]
