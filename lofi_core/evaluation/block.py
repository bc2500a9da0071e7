"""Scenes whose images are encoded once, asked under any number of arms.

An *arm* is a way of asking: a pruner with all its parameters, and the numerical condition under
which the model runs. All arms of a block of scenes start from the same encoded images. Where the
decoder allows it, the questions about an image are packed behind one copy of it
(`lofi_core.vlm.packing`); otherwise each question is one row that shares the encoded image. A
pruner that acts before the language model chooses once per image, unless it depends on the
question.
"""

from collections.abc import Sequence
from copy import deepcopy
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor
from torch.nn.functional import pad

from lofi_core.errors import LofiError
from lofi_core.evaluation.arms import UNPRUNED, Arm, Condition
from lofi_core.evaluation.questions import Scene, spellings
from lofi_core.evaluation.replies import least_margin
from lofi_core.pruners import ClipPruner, ClipText, InsidePruner, Pruner, Selection
from lofi_core.pruners.tokens import VisualTokens
from lofi_core.vlm.encoding import encode_inputs
from lofi_core.vlm.inside import pruning_inside
from lofi_core.vlm.masks import with_facts
from lofi_core.vlm.packing import Packed, PackedOutput, pack
from lofi_core.vlm.prompts import chat_inputs, share
from lofi_core.vlm.report import ImageReport

__all__ = ["Block", "Reply", "visual_tokens"]

LONGEST_REPLY = 16  # tokens of an answer in free text


@dataclass(frozen=True, eq=False)
class Reply:
    """What came back from Q questions, in their order.

    Parameters
    ----------
    logits : Tensor, shape (Q, V)
        Of the first token, on the CPU.
    tokens : list of Q float
        Visual tokens that a layer of the language model received, on average.
    reports : list of (int, ImageReport)
        The pruner's reports, each with the question it is about, or with the first question about
        its image where it was chosen once per image; empty for pruners inside the model.
    texts, margins : list of Q str, list of Q float
        Greedy replies and their least margins; empty if all questions have choices.
    packed : PackedOutput, optional
        With hidden states, if they were asked for.
    """

    logits: Tensor
    tokens: list[float]
    reports: list[tuple[int, ImageReport]]
    texts: list[str]
    margins: list[float]
    packed: PackedOutput | None = None


class Block:
    """Scenes whose images are encoded once, and can then be asked about under any arm.

    Parameters
    ----------
    model, processor
        From ``AutoModelForImageTextToText`` and ``AutoProcessor``.
    scenes : sequence of Scene
        With at least one question each.
    needs : sequence of str
        Union of what the pruners need, see `lofi_core.vlm.encoding.encode_inputs`.
    clip : ClipText, optional
        The CLIP that completes pruners which compare patches with the question.
    """

    def __init__(
        self,
        model: Any,
        processor: Any,
        scenes: Sequence[Scene],
        needs: Sequence[str] = (),
        clip: ClipText | None = None,
    ) -> None:
        if not scenes or any(not scene.questions for scene in scenes):
            raise LofiError(
                f"ask: {len(scenes)} scenes, {sum(not s.questions for s in scenes)} of them "
                "without a question; expected at least one scene, with a question each"
            )
        self.model, self.processor, self.scenes = model, processor, scenes
        self.needs, self.clip = needs, clip
        self.asked = [(i, n, q) for i, s in enumerate(scenes) for n, q in enumerate(s.questions)]
        self.rows = [i for i, _, _ in self.asked]  # the scene of each question
        self.first = [spellings(processor.tokenizer, q) for _, _, q in self.asked]
        self.open = not all(q.choices for _, _, q in self.asked)
        shown = [(scene.image, scene.questions[0].text) for scene in scenes]
        alone = chat_inputs(processor, shown).to(model.device, model.dtype)
        self.inputs = self._inputs(range(len(self.asked)))
        self.encoded = encode_inputs(model, alone, needs)
        self._packed = None if self.open else self._pack()

    def _inputs(self, which: Sequence[int]) -> Any:
        """Prompts of some questions, one per row."""
        chats = [(self.scenes[self.rows[b]].image, self.asked[b][2].text) for b in which]
        return chat_inputs(self.processor, chats).to(self.model.device, self.model.dtype)

    def _pack(self) -> Packed | None:
        """Pack all questions; None where the model or its prompts do not allow it."""
        try:
            return pack(self.encoded, self.inputs, self.rows)
        except LofiError:
            return None

    @torch.inference_mode()
    def ask(self, arm: Arm, hidden: bool = False) -> Reply:
        """Ask every question under an arm; with ``hidden``, keep hidden states of packed rows."""
        pruner, condition = arm.pruner, arm.condition
        if condition.dtype or condition.attention or condition.images_per_batch:
            return self._elsewhere(arm)
        by_row = isinstance(pruner, InsidePruner | ClipPruner)
        if self._packed is None or by_row or condition != Condition():
            return self._in_rows(pruner, condition)
        output = self._packed.run(pruner, hidden)
        tokens = [0.0] * len(self.scenes)
        for report in output.report.images:
            tokens[report.row] += report.tokens_after
        reports = [(self.rows.index(report.row), report) for report in output.report.images]
        return Reply(output.logits, [tokens[i] for i in self.rows], reports, [], [], output)

    def _elsewhere(self, arm: Arm) -> Reply:
        """Ask another copy of the model, or in batches of fewer images, each encoded anew."""
        condition = arm.condition
        model = _variant(self.model, condition.dtype, condition.attention)
        rest = replace(condition, dtype=None, attention=None, images_per_batch=None)
        size = condition.images_per_batch or len(self.scenes)
        parts, first = [], 0
        for start in range(0, len(self.scenes), size):
            some = self.scenes[start : start + size]
            block = Block(model, self.processor, some, self.needs, self.clip)
            parts.append((first, block.ask(replace(arm, condition=rest))))
            first += len(block.asked)
        return _joined(parts)

    def _in_rows(self, pruner: Pruner, condition: Condition) -> Reply:
        """Ask one question per row, all rows sharing the encoded images."""
        every = range(len(self.asked))
        size = condition.questions_per_batch or len(every)
        batches = [every[start : start + size] for start in range(0, len(every), size)]
        return _joined([(b.start, self._batch(pruner, condition.padding, b)) for b in batches])

    def _batch(self, pruner: Pruner, padding: int, which: range) -> Reply:
        inputs = self.inputs if len(which) == len(self.asked) else self._inputs(which)
        if padding:
            inputs = _padded(inputs, padding, self.processor.tokenizer.pad_token_id or 0)
        encoded = share(self.encoded, inputs, [self.rows[b] for b in which])
        longest = LONGEST_REPLY if self.open else 1
        reports: list[tuple[int, ImageReport]] = []
        if isinstance(pruner, InsidePruner):
            with pruning_inside(self.model, pruner) as inside:
                logits, ids = _reply(self.model, encoded.prune(UNPRUNED), longest)
            tokens = inside.entered[-1].double().mean(-1).tolist()
        else:
            pruned = encoded.prune(self._chooser(pruner, which))
            logits, ids = _reply(self.model, pruned, longest)
            tokens = visual_tokens(self.model, pruned["input_ids"])
            reports = [(report.row, report) for report in pruned.report.images]
        tokenizer = self.processor.tokenizer
        texts, margins = _texts(tokenizer, ids, logits) if self.open else ([], [])
        return Reply(logits[:, 0], tokens, reports, texts, margins)

    def _chooser(self, pruner: Pruner, which: range) -> Pruner:
        """Choose once per image, or once per question where the pruner reads the question."""
        if not isinstance(pruner, ClipPruner):
            return _OncePerImage(inner=pruner)
        if pruner.text_embeds is not None or self.clip is None:
            return pruner
        return self.clip.ask(pruner, [self.asked[b][2].text for b in which])


def _variant(model: Any, dtype: str | None, attention: str | None) -> Any:
    """Copy a model into another dtype or attention back-end."""
    if dtype is None and attention is None:
        return model
    copy = deepcopy(model)
    if attention is not None:
        copy.set_attn_implementation(attention)
    return copy if dtype is None else copy.to(getattr(torch, dtype))


def _reply(model: Any, inputs: Any, longest: int) -> tuple[Tensor, Tensor]:
    """Answer with one token, or greedily with up to ``longest``: logits (B, T, V), ids (B, T)."""
    if longest == 1:
        logits = model(**inputs, logits_to_keep=1, use_cache=False).logits[:, -1:].float().cpu()
        return logits, logits.argmax(-1)
    options = {"max_new_tokens": longest, "do_sample": False, "num_beams": 1}
    output = model.generate(**inputs, **options, return_dict_in_generate=True, output_logits=True)
    ids = output.sequences[:, inputs["input_ids"].shape[1] :]
    return torch.stack(output.logits, 1).float().cpu(), ids.cpu()


def _texts(tokenizer: Any, ids: Tensor, logits: Tensor) -> tuple[list[str], list[float]]:
    """Decode greedy replies, and find the least margin of each up to its end token."""
    texts = tokenizer.batch_decode(ids, skip_special_tokens=True)
    margins = []
    for row, z in zip(ids, logits, strict=True):
        ended = (row == tokenizer.eos_token_id).nonzero()
        length = int(ended[0]) + 1 if len(ended) else len(row)
        margins.append(least_margin(z, length))
    return texts, margins


def visual_tokens(model: Any, ids: Tensor) -> list[float]:
    """Count each row's visual tokens in the language model's input."""
    return (ids == model.config.image_token_id).sum(-1).tolist()


def _joined(parts: Sequence[tuple[int, Reply]]) -> Reply:
    """Put replies together, each with the number of its first question."""
    replies = [reply for _, reply in parts]
    return Reply(
        torch.cat([reply.logits for reply in replies]),
        [n for reply in replies for n in reply.tokens],
        [(first + b, report) for first, reply in parts for b, report in reply.reports],
        [text for reply in replies for text in reply.texts],
        [margin for reply in replies for margin in reply.margins],
    )


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


def _padded(inputs: Any, columns: int, pad_id: int) -> dict[str, Any]:
    """Prepend columns of padding to everything that has one entry per token."""
    ids = inputs["input_ids"]
    return {
        name: pad(x, (columns, 0), value=pad_id if name == "input_ids" else 0)
        if isinstance(x, Tensor) and x.shape == ids.shape
        else x
        for name, x in inputs.items()
    }
