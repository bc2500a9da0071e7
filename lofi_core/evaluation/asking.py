"""Ask a model questions about images: the one way in which this library does it."""

from collections.abc import Sequence
from typing import Any

from lofi_core.errors import LofiError, extra
from lofi_core.evaluation.arms import UNPRUNED, Arm, as_arm
from lofi_core.evaluation.block import Block, Reply, visual_tokens
from lofi_core.evaluation.questions import Scene
from lofi_core.evaluation.replies import judge
from lofi_core.pruners import ClipText, Pruner
from lofi_core.vlm.report import ImageReport

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
        If a pruner cannot act on the model, if two admissible answers begin alike, or if logits
        are not finite.
    """
    every = [as_arm(pruner) for pruner in pruners]
    needs = sorted({name for arm in every for name in arm.pruner.needs})
    block = Block(model, processor, scenes, needs, clip)
    return [row for number, arm in enumerate(every) for row in rows_of(block, number, arm)]


def rows_of(block: Block, number: int, arm: Arm) -> list[dict[str, Any]]:
    """One row per question of a block, under the arm of this number."""
    reply = block.ask(arm)
    before = visual_tokens(block.model, block.inputs["input_ids"])
    texts = reply.texts or [""] * len(block.asked)
    margins: Sequence[float | None] = reply.margins or [None] * len(block.asked)
    chosen = _chosen(block, reply)
    return [
        {
            "arm": number,
            "image": i,
            "number": n,
            "scene": block.scenes[i].id,
            "family": q.family,
            "question": q.text,
            "answer": q.answer,
            "choices": list(q.choices),
            "chance": 1 / len(q.choices) if q.choices else None,
            **judge(
                block.processor.tokenizer, q, block.first[b], reply.logits[b], texts[b], margins[b]
            ),
            "tokens_before": before[b],
            "tokens": reply.tokens[b],
            "budget_measured": reply.tokens[b] / before[b],
            **chosen[b],
        }
        for b, (i, n, q) in enumerate(block.asked)
    ]


def ask(
    model: Any,
    processor: Any,
    scenes: Sequence[Scene],
    pruner: Pruner | Arm | None = None,
    images_per_batch: int = 8,
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
        found = ask_arms(model, processor, scenes[start : start + images_per_batch], [arm])
        rows += [row | {"image": row["image"] + start} for row in found]
    return pd.DataFrame(rows)


def _chosen(block: Block, reply: Reply) -> list[dict[str, Any]]:
    """Summarise the reports on each question's image; ``seconds`` is the time for all its rows."""
    nothing = dict.fromkeys(("ipr_before", "ipr_after", "kept", "seconds"))
    if not reply.reports:  # inside the language model there is no choice of tokens to report
        return [dict(nothing) for _ in block.asked]
    by_row: dict[int, list[ImageReport]] = {}
    seconds: dict[int, float] = dict.fromkeys(block.rows, 0.0)
    for b, report in reply.reports:
        by_row.setdefault(b, []).append(report)
        seconds[block.rows[b]] += report.seconds
    rows = []
    for b, image in enumerate(block.rows):
        found = by_row.get(b) or by_row[block.rows.index(image)]
        rows.append(
            {
                "ipr_before": sum(report.ipr_before for report in found) / len(found),
                "ipr_after": sum(report.ipr_after for report in found) / len(found),
                "kept": [report.kept.tolist() for report in found],
                "seconds": seconds[image],
            }
        )
    return rows
