"""Ask the questions of a block of images under several pruners, encoding each image once.

An *arm* is a pruner with all its parameters. All arms start from the same encoded images, and a
pruner that acts before the language model chooses once per image, not once per question.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from lofi_core.evaluation.answers import chat_inputs
from lofi_core.evaluation.replies import judge, spellings
from lofi_core.pruners import InsidePruner, Pruner, Random, Selection, VisualTokens, get_pruner
from lofi_core.scenes.questions import Question
from lofi_core.scenes.vqa import Scene
from lofi_core.vlm.encoding import EncodedInputs, encode_inputs
from lofi_core.vlm.inside import pruning_inside
from lofi_core.vlm.masks import with_facts
from lofi_core.vlm.report import ImageReport
from lofi_core.vlm.sharing import share

__all__ = ["UNPRUNED", "arms", "ask_arms"]

UNPRUNED = Random(keep=1.0)
LONGEST_REPLY = 16  # tokens of an answer in free text


def arms(
    names: Sequence[str], budgets: Sequence[float], seeds: Sequence[int] = (0,), **parameters: Any
) -> list[Pruner]:
    """Every named pruner at every budget, and with every seed if it has one.

    Parameters
    ----------
    names : sequence of str
        Registered pruners.
    budgets : sequence of float in (0, 1]
        Their ``keep``.
    seeds : sequence of int
        For the pruners that have a seed.
    parameters
        What else all of them are given.

    Raises
    ------
    LofiError
        As `lofi_core.pruners.get_pruner`.

    Examples
    --------
    >>> arms(["random", "norm"], [0.5], seeds=[0, 1])
    [Random(keep=0.5, seed=0), Random(keep=0.5, seed=1), Norm(keep=0.5)]
    """
    made = []
    for name in names:
        for keep in budgets:
            pruner = get_pruner(name, keep=keep, **parameters)
            if hasattr(pruner, "seed") and "seed" not in parameters:
                made += [get_pruner(name, keep=keep, seed=s, **parameters) for s in seeds]
            else:
                made.append(pruner)
    return made


@torch.inference_mode()
def ask_arms(
    model: Any, processor: Any, scenes: Sequence[Scene], pruners: Sequence[Pruner]
) -> list[dict[str, Any]]:
    """Ask every question of every scene under every pruner, in one batch a pruner.

    Parameters
    ----------
    model, processor
        As `lofi_core.evaluation.answers.ask` takes them.
    scenes : sequence of Scene
        Images with at least one question each.
    pruners : sequence of Pruner
        The arms, of either kind: acting before or inside the language model.

    Returns
    -------
    list of dict
        One for each arm and question: the columns of `lofi_core.evaluation.records.SCHEMA` that a
        single answer has, with ``image`` counted from the first of ``scenes``.

    Raises
    ------
    LofiError
        If a pruner cannot act on the model, or admissible answers cannot be told by their first
        token.
    """
    asked = [(i, n, q) for i, scene in enumerate(scenes) for n, q in enumerate(scene.questions)]
    shown = [(scene.image, scene.questions[0].text) for scene in scenes]
    chats = [(scenes[i].image, q.text) for i, _, q in asked]
    alone, inputs = chat_inputs(processor, shown), chat_inputs(processor, chats)
    needs = sorted({name for pruner in pruners for name in pruner.needs})
    encoded = encode_inputs(model, alone.to(model.device, model.dtype), needs)
    encoded = share(encoded, inputs.to(model.device, model.dtype), [i for i, _, _ in asked])
    before = _visual(model, encoded.inputs["input_ids"])
    tokenizer = processor.tokenizer
    first = [spellings(tokenizer, q) for _, _, q in asked]
    longest = 1 if all(first) else LONGEST_REPLY
    rows = []
    for arm, pruner in enumerate(pruners):
        logits, said, tokens, reports = _run(model, encoded, pruner, longest)
        texts = tokenizer.batch_decode(said, skip_special_tokens=True)
        measured = _per_row(reports, [i for i, _, _ in asked])
        for b, (i, n, q) in enumerate(asked):
            rows.append(
                {
                    "arm": arm,
                    "image": i,
                    "number": n,
                    "scene": scenes[i].id,
                    **_asked(q),
                    **judge(tokenizer, q, first[b], logits[b], texts[b]),
                    "tokens_before": before[b],
                    "tokens": tokens[b],
                    "budget_measured": tokens[b] / before[b],
                    **measured[b],
                }
            )
    return rows


def _asked(q: Question) -> dict[str, Any]:
    return {
        "family": q.family,
        "question": q.text,
        "answer": q.answer,
        "choices": list(q.choices),
        "chance": 1 / len(q.choices) if q.choices else None,
    }


def _run(
    model: Any, encoded: EncodedInputs, pruner: Pruner, longest: int
) -> tuple[Tensor, Tensor, list[float], list[ImageReport]]:
    """Return the first token's logits (B, V) on the CPU, the tokens said, and what was pruned.

    That is the visual tokens of a layer (B,), and the pruner's reports.
    """
    if isinstance(pruner, InsidePruner):
        with pruning_inside(model, pruner) as inside:
            logits, said = _reply(model, encoded.prune(UNPRUNED), longest)
        return logits, said, inside.entered[-1].double().mean(-1).tolist(), []
    inputs = encoded.prune(_OncePerImage(inner=pruner))
    logits, said = _reply(model, inputs, longest)
    return logits, said, _visual(model, inputs["input_ids"]), inputs.report.images


def _reply(model: Any, inputs: Mapping[str, Any], longest: int) -> tuple[Tensor, Tensor]:
    """Answer with one token, or greedily with up to ``longest``."""
    if longest == 1:
        logits = model(**inputs, logits_to_keep=1).logits[:, -1].float().cpu()
        return logits, logits.argmax(-1, keepdim=True)
    options = {"max_new_tokens": longest, "do_sample": False, "num_beams": 1}
    output = model.generate(**inputs, **options, return_dict_in_generate=True, output_logits=True)
    said = output.sequences[:, inputs["input_ids"].shape[1] :]
    return output.logits[0].float().cpu(), said


def _visual(model: Any, ids: Tensor) -> list[float]:
    """Count each row's visual tokens in the language model's input."""
    return (ids == model.config.image_token_id).sum(-1).tolist()


def _per_row(reports: Sequence[ImageReport], images: Sequence[int]) -> list[dict[str, Any]]:
    """Sum up the reports on each row's pictures; the time is that of all rows of an image."""
    if not reports:  # inside the language model there is no choice of tokens to report
        return [dict.fromkeys(("ipr_before", "ipr_after", "kept", "seconds"))] * len(images)
    seconds: dict[int, float] = dict.fromkeys(images, 0.0)
    for report in reports:
        seconds[images[report.row]] += report.seconds
    rows = []
    for row, image in enumerate(images):
        mine = [report for report in reports if report.row == row]
        rows.append(
            {
                "ipr_before": sum(report.ipr_before for report in mine) / len(mine),
                "ipr_after": sum(report.ipr_after for report in mine) / len(mine),
                "kept": [report.kept.tolist() for report in mine],
                "seconds": seconds[image],
            }
        )
    return rows


@dataclass(frozen=True, kw_only=True)
class _OncePerImage(Pruner):
    """Choose once for neighbouring rows that hold the same image."""

    inner: Pruner

    @property
    def needs(self) -> tuple[str, ...]:
        return self.inner.needs

    def select(self, tokens: VisualTokens) -> Selection:
        X = tokens.projected
        fresh = torch.ones(len(X), dtype=torch.bool, device=X.device)
        fresh[1:] = (X[1:] != X[:-1]).flatten(1).any(1)
        chosen = self.inner(with_facts(tokens, lambda x: x[fresh]))
        which = (fresh.cumsum(0) - 1).tolist()
        merged = None if chosen.tokens is None else tuple(chosen.tokens[i] for i in which)
        return Selection(tuple(chosen.kept[i] for i in which), merged)
