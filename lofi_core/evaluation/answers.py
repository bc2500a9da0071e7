"""Ask a vision-language model questions about scenes; one row of a table for each answer.

An answer is the word the model would say first.  Beside it stands the distribution over the
question's admissible answers, renormalised, which is what changes before the word does.
"""

from collections.abc import Iterator, Sequence
from typing import Any

import pandas as pd
import torch
from PIL import Image

from lofi_core.errors import LofiError
from lofi_core.pruners.base import Pruner
from lofi_core.pruning import prune_inputs
from lofi_core.scenes.questions import Question
from lofi_core.scenes.vqa import Scene

__all__ = ["ask", "chat_inputs", "first_tokens"]


def chat_inputs(processor: Any, asked: Sequence[tuple[Image.Image, str]]) -> Any:
    """Put each (image, question) into the chat template; return one left-padded batch.

    Parameters
    ----------
    processor : transformers processor with a chat template
    asked : sequence of (PIL.Image.Image, str)
        At least one.

    Returns
    -------
    BatchFeature
        ``input_ids`` (B, L), ``attention_mask`` (B, L), pixels, on the CPU.
    """
    chats = [
        [{"role": "user", "content": [{"type": "image"}, {"type": "text", "text": text}]}]
        for _, text in asked
    ]
    prompts = processor.apply_chat_template(chats, add_generation_prompt=True)
    images = [[image] for image, _ in asked]
    # Left, so that the last position of every row is where its answer begins.
    return processor(
        images=images, text=prompts, padding=True, padding_side="left", return_tensors="pt"
    )


@torch.inference_mode()
def ask(
    model: Any,
    processor: Any,
    scenes: Sequence[Scene],
    pruner: Pruner | None = None,
    batch_size: int = 28,
) -> pd.DataFrame:
    """Ask every question of every scene.

    Parameters
    ----------
    model, processor
        From ``AutoModelForImageTextToText`` and ``AutoProcessor``.
    scenes : sequence of Scene
        At least one.
    pruner : Pruner, optional
        What prunes the visual tokens; by default nothing does.
    batch_size : int
        Questions at a time.

    Returns
    -------
    DataFrame
        One row a question, in order: ``scene``, ``family``, ``question``, ``answer`` (the true
        one), ``predicted``, ``right``, ``probabilities`` (of the admissible answers, in the order
        of ``Question.choices``), ``chance`` (of a blind guess) and ``tokens`` (visual tokens that
        reached the language model).

    Raises
    ------
    LofiError
        If an admissible answer does not begin with a token of its own.
    """
    tokenizer, rows = processor.tokenizer, []
    for batch in _batches(scenes, batch_size):
        inputs = chat_inputs(processor, [(scene.image, q.text) for scene, q in batch])
        inputs = inputs.to(model.device)
        if pruner is not None:
            inputs = prune_inputs(model, inputs, pruner)
        visual = (inputs["input_ids"] == model.config.image_token_id).sum(-1).tolist()
        logits = model(**inputs, logits_to_keep=1).logits[:, -1].float().cpu()
        for (scene, q), tokens, row in zip(batch, visual, logits, strict=True):
            probabilities = row[first_tokens(tokenizer, q)].softmax(-1).tolist()
            predicted = tokenizer.decode([int(row.argmax())]).strip()
            rows.append(
                {
                    "scene": scene.id,
                    "family": q.family,
                    "question": q.text,
                    "answer": q.answer,
                    "predicted": predicted,
                    "right": predicted == q.answer,
                    "probabilities": probabilities,
                    "chance": 1 / len(q.choices),
                    "tokens": tokens,
                }
            )
    return pd.DataFrame(rows)


def _batches(scenes: Sequence[Scene], size: int) -> Iterator[list[tuple[Scene, Question]]]:
    asked = [(scene, q) for scene in scenes for q in scene.questions]
    for start in range(0, len(asked), size):
        yield asked[start : start + size]


def first_tokens(tokenizer: Any, q: Question) -> list[int]:
    """Return the first token of each admissible answer, in the order of ``q.choices``.

    Raises
    ------
    LofiError
        If two answers begin with the same token.
    """
    ids = [tokenizer(c, add_special_tokens=False)["input_ids"][0] for c in q.choices]
    if len(set(ids)) < len(ids):
        raise LofiError(
            f"ask: the answers {q.choices} share a first token; expected all different: "
            "compare what `generate` returns instead"
        )
    return ids
