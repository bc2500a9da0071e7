"""Ask a model questions about images: the one way in which this library does it."""

from collections.abc import Sequence
from statistics import fmean
from typing import Any

from lofi_core.errors import LofiError, extra
from lofi_core.evaluation.arms import UNPRUNED, Arm, as_arm
from lofi_core.evaluation.block import Block, Reply
from lofi_core.evaluation.questions import Scene
from lofi_core.evaluation.replies import judge
from lofi_core.pruners import ClipText, Pruner

with extra("eval"):
    import pandas as pd

__all__ = ["ask", "ask_arms", "rows_of"]


def ask_arms(
    model: Any,
    processor: Any,
    scenes: Sequence[Scene],
    pruners: Sequence[Pruner | Arm],
    clip: ClipText | None = None,
) -> list[dict[str, Any]]:
    """Ask every question of a block of scenes under every arm.

    Parameters
    ----------
    model, processor
        From ``AutoModelForImageTextToText`` and ``AutoProcessor``.
    scenes : sequence of Scene
        Images with at least one question each; all are encoded together.
    pruners : sequence of Pruner or Arm
        The arms; a pruner stands for itself under the model's own conditions.
    clip : ClipText, optional
        The CLIP that completes pruners which compare patches with the question.

    Returns
    -------
    list of dict
        One for each arm and question: the columns of `lofi_core.evaluation.records.SCHEMA` that a
        single answer has, with ``image`` counted from the first of ``scenes``.

    Raises
    ------
    LofiError
        If a pruner cannot act on the model, or if logits are not finite.
    """
    every = [as_arm(pruner) for pruner in pruners]
    block = Block(model, processor, scenes, every, clip)
    return [row for number, arm in enumerate(every) for row in rows_of(block, number, arm)]


def rows_of(block: Block, number: int, arm: Arm) -> list[dict[str, Any]]:
    """One row per question of a block, under the arm of this number."""
    replies, figures = block.ask(arm)
    before = (block.encoded.inputs["input_ids"] == block.model.config.image_token_id).sum(-1)
    rows = [
        {
            "arm": number,
            "image": block.start + i,
            "number": n,
            "scene": block.scenes[i].id,
            "family": q.family,
            "question": q.text,
            "answer": q.answer,
            "choices": list(q.choices),
            "chance": 1 / len(q.choices) if q.choices else None,
            **judge(block.processor.tokenizer, q, first, z.logits, z.text, z.margin),
            **_pruned(z, int(before[i])),
        }
        for (i, n, q), first, z in zip(block.asked, block.first, replies, strict=True)
    ]
    if figures is not None:
        measured = zip(rows, figures.hidden_distance, figures.text_ipr_change, strict=False)
        for row, distance, change in measured:
            row |= {"hidden_distance": distance, "text_ipr_change": change}
        for i, sites in enumerate(figures.sites):
            rows[block.rows.index(i)]["sites"] = sites
    return rows


def _pruned(reply: Reply, before: int) -> dict[str, Any]:
    """What became of a question's image; inside the language model there is no one choice."""
    pieces = reply.reports
    return {
        "tokens_before": before,
        "tokens": reply.tokens,
        "budget_measured": reply.tokens / before,
        "ipr_before": fmean(piece.ipr_before for piece in pieces) if pieces else None,
        "ipr_after": fmean(piece.ipr_after for piece in pieces) if pieces else None,
        "kept": [piece.kept.tolist() for piece in pieces] if pieces else None,
        "seconds": reply.seconds,
    }


def ask(
    model: Any,
    processor: Any,
    scenes: Sequence[Scene],
    pruner: Pruner | Arm | None = None,
    images_per_batch: int = 8,
    clip: ClipText | None = None,
) -> pd.DataFrame:
    """Ask every question of every scene: `ask_arms` with one arm, a block of images at a time.

    Parameters
    ----------
    model, processor
        From ``AutoModelForImageTextToText`` and ``AutoProcessor``.
    scenes : sequence of Scene
        At least one, with questions of any kind.
    pruner : Pruner or Arm, optional
        What prunes the visual tokens; by default nothing does.
    images_per_batch : int >= 1
        Images whose questions are asked together.
    clip : ClipText, optional
        As `ask_arms` takes it.

    Returns
    -------
    DataFrame
        One row per question, in order, with the columns that `ask_arms` gives: ``scene``,
        ``family``, ``question``, ``answer`` (the true one), ``predicted``, ``right``,
        ``probabilities`` (of the admissible answers, in the order of ``Question.choices``),
        ``margin``, ``chance`` (of a blind guess), ``tokens`` (visual tokens that reached the
        language model), ...

    Raises
    ------
    LofiError
        As `ask_arms`, and for a batch of no images.
    """
    if not isinstance(images_per_batch, int) or images_per_batch < 1:
        raise LofiError(f"ask: images_per_batch={images_per_batch}; expected at least 1")
    scenes, rows = list(scenes), []
    arm = as_arm(UNPRUNED if pruner is None else pruner)
    for start in range(0, max(1, len(scenes)), images_per_batch):
        some = scenes[start : start + images_per_batch]
        rows += rows_of(Block(model, processor, some, [arm], clip, start), 0, arm)
    return pd.DataFrame(rows)
