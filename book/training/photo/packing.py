r"""All lessons about a photo behind one copy of it, as one row.

    prefix (196 visual tokens) . prompt 1 . answer 1 . prompt 2 . answer 2 ...

A block mask hides the lessons from each other, and the positions of each start where the prefix
ends, so that every lesson sees what it would see alone, and the photo is paid for once.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from book.training.photo.lessons import Lesson

__all__ = ["Rows", "loss_of", "pack_lessons"]

IGNORE = -100
OPENING = "<|im_start|>user\n"
TURN = "<|im_end|>\n<|im_start|>assistant\n"
END = "<|im_end|>"


@dataclass(frozen=True)
class Rows:
    """Token ids, positions, labels (B, L), and an additive mask (B, 1, L, L).

    A label stands where the token *before* the labelled one is, so that no shift follows.
    """

    ids: Tensor
    positions: Tensor
    labels: Tensor
    mask: Tensor


def pack_lessons(
    photos: Sequence[Sequence[Lesson]], tokenizer: Any, image_token: int, N: int
) -> Rows:
    """Pack each photo's lessons behind its N visual tokens."""

    def ids_of(text: str) -> list[int]:
        return tokenizer(text, add_special_tokens=False)["input_ids"]

    opening = [*ids_of(OPENING), *[image_token] * N]
    rows = []
    for lessons in photos:
        ids, positions, block = [*opening], [*range(len(opening))], [0] * len(opening)
        labels = [IGNORE] * len(opening)
        for number, lesson in enumerate(lessons, start=1):
            prompt, answer = ids_of(lesson.prompt + TURN), ids_of(lesson.answer + END)
            ids += prompt + answer
            labels += [IGNORE] * (len(prompt) - 1) + answer + [IGNORE]
            block += [number] * (len(prompt) + len(answer))
            positions += range(len(opening), len(opening) + len(prompt) + len(answer))
        rows.append((ids, positions, labels, block))
    length = max(len(row[0]) for row in rows)

    def padded(column: int, fill: int) -> Tensor:
        return torch.tensor([row[column] + [fill] * (length - len(row[column])) for row in rows])

    block_of = padded(3, -1)
    same = (block_of[:, None, :] == 0) | (block_of[:, None, :] == block_of[:, :, None])
    seen = same & torch.ones(length, length, dtype=torch.bool).tril()
    mask = torch.zeros(seen.shape).masked_fill(~seen, torch.finfo(torch.float32).min)
    return Rows(padded(0, 0), padded(1, 0), padded(2, IGNORE), mask[:, None])


def loss_of(model: Any, rows: Rows, features: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Cross entropy of the labelled tokens (A,), their labels (A,) and their logits (A, V).

    Parameters
    ----------
    model : LlavaForConditionalGeneration
        With eager attention, which adds the mask to the scores.
    rows : Rows
    features : Tensor, shape (B, N, C)
        What the vision tower gives, before the connector.
    """
    embeds = model.get_input_embeddings()(rows.ids)
    images = model.model.multi_modal_projector(features).to(embeds.dtype)
    embeds = embeds.masked_scatter((rows.ids == model.config.image_token_id)[..., None], images)
    out = model.model.language_model(
        inputs_embeds=embeds,
        attention_mask=rows.mask.to(embeds.dtype),
        position_ids=rows.positions,
        use_cache=False,
    )
    told = rows.labels != IGNORE
    logits, labels = model.lm_head(out.last_hidden_state[told]).float(), rows.labels[told]
    return torch.nn.functional.cross_entropy(logits, labels, reduction="none"), labels, logits
