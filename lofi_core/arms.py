"""Ask the questions of a block of images under several pruners, encoding each image once.

An *arm* is a pruner with all its parameters. All arms start from the same encoded images, and a
pruner that acts before the language model chooses once per image, not once per question.
"""

from collections.abc import Mapping, Sequence
from copy import copy
from dataclasses import dataclass, fields, replace
from typing import Any

import torch
from torch import Tensor

from lofi_core.answers import chat_inputs, first_tokens
from lofi_core.encoding import EncodedInputs, encode_inputs
from lofi_core.inside import pruning_inside
from lofi_core.pruners import InsidePruner, Pruner, Random, Selection, VisualTokens, get_pruner
from lofi_core.report import ImageReport
from lofi_core.scenes import Question, Scene

__all__ = ["UNPRUNED", "arms", "ask_arms", "share"]

UNPRUNED = Random(keep=1.0)


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
        As `lofi_core.answers.ask` takes them.
    scenes : sequence of Scene
        Images with at least one question each.
    pruners : sequence of Pruner
        The arms, of either kind: acting before or inside the language model.

    Returns
    -------
    list of dict
        One for each arm and question: the columns of `lofi_core.records.SCHEMA` that a single
        answer has, with ``image`` counted from the first of ``scenes``.

    Raises
    ------
    LofiError
        If a pruner cannot act on the model, or answers cannot be told by their first token.
    """
    asked = [(i, n, q) for i, scene in enumerate(scenes) for n, q in enumerate(scene.questions)]
    shown = [(scene.image, scene.questions[0].text) for scene in scenes]
    texts = [(scenes[i].image, q.text) for i, _, q in asked]
    alone, inputs = (chat_inputs(processor, chats) for chats in (shown, texts))
    needs = sorted({name for pruner in pruners for name in pruner.needs})
    encoded = encode_inputs(model, alone.to(model.device, model.dtype), needs)
    encoded = share(encoded, inputs.to(model.device, model.dtype), [i for i, _, _ in asked])
    before = _visual(model, encoded.inputs["input_ids"])
    first = [first_tokens(processor.tokenizer, q) for _, _, q in asked]
    rows = []
    for arm, pruner in enumerate(pruners):
        logits, tokens, reports = _run(model, encoded, pruner)
        measured = _per_row(reports, [i for i, _, _ in asked])
        for b, (i, n, q) in enumerate(asked):
            predicted = processor.tokenizer.decode([int(logits[b].argmax())]).strip()
            probabilities = logits[b, first[b]].softmax(-1)
            largest = probabilities.topk(min(2, len(probabilities))).values.tolist()
            rows.append(
                {
                    "arm": arm,
                    "image": i,
                    "number": n,
                    "scene": scenes[i].id,
                    **_asked(q),
                    "predicted": predicted,
                    "right": predicted == q.answer,
                    "probabilities": probabilities.tolist(),
                    "margin": largest[0] - sum(largest[1:]),
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
        "chance": 1 / len(q.choices),
    }


def _run(
    model: Any, encoded: EncodedInputs, pruner: Pruner
) -> tuple[Tensor, list[float], list[ImageReport]]:
    """Return logits (B, V) on the CPU, visual tokens a layer (B,), and what the pruner chose."""
    if isinstance(pruner, InsidePruner):
        with pruning_inside(model, pruner) as inside:
            output = model(**encoded.prune(UNPRUNED), logits_to_keep=1)
        tokens, reports = inside.entered[-1].double().mean(-1).tolist(), []
    else:
        inputs = encoded.prune(_OncePerImage(inner=pruner))
        output = model(**inputs, logits_to_keep=1)
        tokens, reports = _visual(model, inputs["input_ids"]), inputs.report.images
    return output.logits[:, -1].float().cpu(), tokens, reports


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


def share(
    encoded: EncodedInputs, inputs: Mapping[str, Any], images: Sequence[int]
) -> EncodedInputs:
    """Use encoded images in other prompts, without running the encoder again.

    Parameters
    ----------
    encoded : EncodedInputs
        Prompts with images.
    inputs : mapping
        Other prompts, as the processor returns them.
    images : sequence of int
        For each of these, the row of ``encoded`` that shows the same images in the same order.

    Returns
    -------
    EncodedInputs
        What `lofi_core.encoding.encode_inputs` would return for ``inputs``.
    """
    outputs, pictures = {}, []
    for modality, output in encoded.outputs.items():
        token = getattr(encoded.model.config, f"{modality}_token_id")
        old, new = encoded.inputs["input_ids"] == token, inputs["input_ids"] == token
        known = [picture for picture in encoded.pictures if picture.modality == modality]
        order = []
        for row, image in enumerate(images):
            for i, picture in enumerate(known):
                if picture.row == image:
                    places = torch.searchsorted(old[image].nonzero()[:, 0], picture.columns)
                    columns = new[row].nonzero()[places, 0]
                    pictures.append(replace(picture, row=row, columns=columns))
                    order.append(i)
        outputs[modality] = copy(output)
        if getattr(output, "deepstack_features", None) is not None:
            outputs[modality].deepstack_features = [
                [level[i] for i in order] for level in output.deepstack_features
            ]
    return replace(encoded, inputs=dict(inputs), outputs=outputs, pictures=pictures)


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
        given = {f.name: getattr(tokens, f.name) for f in fields(tokens)}
        unique: dict[str, Any] = {
            name: value[fresh] if isinstance(value, Tensor) else value
            for name, value in given.items()
        }
        chosen = self.inner(VisualTokens(**unique))
        which = (fresh.cumsum(0) - 1).tolist()
        merged = None if chosen.tokens is None else tuple(chosen.tokens[i] for i in which)
        return Selection(tuple(chosen.kept[i] for i in which), merged)
