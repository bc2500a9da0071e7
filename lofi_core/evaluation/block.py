"""Scenes whose images are encoded once, asked under any number of arms.

An *arm* is a way of asking: a pruner with all its parameters, and the numerical condition under
which the model runs. All arms of a block of scenes start from the same encoded images. Where the
decoder allows it, the questions about an image are packed behind one copy of it
(`lofi_core.vlm.packing`); otherwise each question is one row that shares the encoded image. A
pruner that acts before the language model chooses once per image, unless it depends on the
question.
"""

from collections import defaultdict
from collections.abc import Iterable, Iterator, Sequence
from copy import deepcopy
from dataclasses import dataclass, replace
from functools import cached_property
from typing import Any

import torch
from torch import Tensor
from torch.nn.functional import pad

from lofi_core.errors import LofiError
from lofi_core.evaluation.arms import AS_IS, UNPRUNED, Arm
from lofi_core.evaluation.questions import Scene, spellings
from lofi_core.evaluation.replies import least_margin
from lofi_core.evaluation.states import Figures, Reference, read_sites, sites_of
from lofi_core.pruners import ClipPruner, ClipText, InsidePruner, Pruner, Selection
from lofi_core.pruners.tokens import VisualTokens
from lofi_core.vlm.encoding import encode_inputs
from lofi_core.vlm.inside import pruning_inside
from lofi_core.vlm.packing import NotPackable, Packed, PackedOutput, pack
from lofi_core.vlm.prompts import chat_inputs, share
from lofi_core.vlm.reference import with_facts
from lofi_core.vlm.report import ImageReport

__all__ = ["Block", "Reply"]

LONGEST_REPLY = 16  # tokens of an answer that is read in full


@dataclass(frozen=True, eq=False)
class Reply:
    """What came back to one question.

    Parameters
    ----------
    logits : Tensor, shape (V,)
        Of the first token, on the CPU.
    tokens : float
        Visual tokens that a layer of the language model received, on average.
    text, margin : str, float, optional
        The greedy reply and its least margin, where it is read in full.
    reports : sequence of ImageReport
        What became of the question's image, piece by piece; none for pruners inside the model.
    seconds : float, optional
        Time of choosing, for the image; likewise.
    """

    logits: Tensor
    tokens: float
    text: str = ""
    margin: float | None = None
    reports: Sequence[ImageReport] = ()
    seconds: float | None = None


class Block:
    """Scenes whose images are encoded once, and can then be asked about under any arm.

    Parameters
    ----------
    model, processor
        From ``AutoModelForImageTextToText`` and ``AutoProcessor``.
    scenes : sequence of Scene
        With at least one question each.
    arms : sequence of Arm
        What they will be asked under: says what to record while encoding.
    clip : ClipText, optional
        The CLIP that completes pruners which compare patches with the question.
    start : int
        Position of the first scene in the data.
    """

    def __init__(
        self,
        model: Any,
        processor: Any,
        scenes: Sequence[Scene],
        arms: Sequence[Arm],
        clip: ClipText | None = None,
        start: int = 0,
    ) -> None:
        if not scenes or any(not scene.questions for scene in scenes):
            raise LofiError(
                f"ask: {len(scenes)} scenes, {sum(not s.questions for s in scenes)} of them "
                "without a question; expected at least one scene, with a question each"
            )
        self.model, self.processor, self.scenes = model, processor, scenes
        self.clip, self.start = clip, start
        self.asked = [(i, n, q) for i, s in enumerate(scenes) for n, q in enumerate(s.questions)]
        self.rows = [i for i, _, _ in self.asked]  # the scene of each question
        self.first = [spellings(processor.tokenizer, q) for _, _, q in self.asked]
        needs = {name for arm in arms for name in arm.pruner.needs}
        needs |= {"encoded" for arm in arms if arm.measured > start}
        alone = self._prompts([self.rows.index(i) for i in range(len(scenes))])
        self.encoded = encode_inputs(model, alone, sorted(needs))

    def _prompts(self, which: Sequence[int]) -> dict[str, Any]:
        """Write the prompts of some questions, one per row."""
        chats = [(self.scenes[self.rows[b]].image, self.asked[b][2].text) for b in which]
        inputs = chat_inputs(self.processor, chats)
        return dict(inputs.to(self.model.device, self.model.dtype))

    @cached_property
    def _packed(self) -> Packed | None:
        """All questions behind their images; None where the model or its prompts forbid it."""
        try:
            return pack(self.encoded, self._prompts(range(len(self.rows))), self.rows)
        except NotPackable:
            return None

    @cached_property
    def _reference(self) -> Reference:
        """Representations in the unpruned model."""
        assert self._packed is not None
        return Reference(read_sites(self._packed, UNPRUNED))

    @torch.inference_mode()
    def ask(self, arm: Arm) -> tuple[list[Reply], Figures | None]:
        """Ask every question under an arm.

        Returns
        -------
        list of Reply
            In the order of ``asked``.
        Figures or None
            How representations compare with the unpruned model's, where the arm measures them.

        Raises
        ------
        LofiError
            If a pruner cannot act on the model, if representations cannot be measured because the
            prompts cannot be packed, or if logits are not finite.
        """
        condition = arm.condition
        if condition.dtype or condition.attention or condition.images_per_batch:
            return self._elsewhere(arm), None
        measured = min(max(0, arm.measured - self.start), len(self.scenes))
        short = [b for b, ids in enumerate(self.first) if ids]
        replies, figures = dict[int, Reply](), None
        if packed := self._together(arm):
            output = packed.run(arm.pruner, hidden=measured > 0)
            replies |= self._of_packed(output)
            if measured:
                figures = self._reference.compare(sites_of(packed, output), measured)
        elif measured:
            raise LofiError(
                f"ask: measured={arm.measured} under {arm}; expected 0 where each question is "
                "asked in a row of its own"
            )
        else:
            replies |= self._in_rows(arm, short, longest=1)
        if whole := [b for b, ids in enumerate(self.first) if not ids]:
            replies |= self._in_rows(arm, whole, LONGEST_REPLY)
        self._check(replies.values())
        return [replies[b] for b in range(len(self.rows))], figures

    def _together(self, arm: Arm) -> Packed | None:
        """Return the packed prompts, if no choice depends on the question and any is short."""
        by_row = isinstance(arm.pruner, InsidePruner | ClipPruner) or arm.condition != AS_IS
        useful = any(self.first) or arm.measured > self.start
        return None if by_row or not useful else self._packed

    def _of_packed(self, output: PackedOutput) -> dict[int, Reply]:
        reports = output.report.images
        return {
            b: Reply(z, reports[i].tokens_after, reports=[reports[i]], seconds=reports[i].seconds)
            for b, (i, z) in enumerate(zip(self.rows, output.logits, strict=True))
        }

    def _elsewhere(self, arm: Arm) -> list[Reply]:
        """Ask another copy of the model, or in batches of fewer images, each encoded anew."""
        condition = arm.condition
        model = _variant(self.model, condition.dtype, condition.attention)
        rest = replace(condition, dtype=None, attention=None, images_per_batch=None)
        arm = replace(arm, condition=rest, measured=0)
        size = condition.images_per_batch or len(self.scenes)
        replies = []
        for start in range(0, len(self.scenes), size):
            some = self.scenes[start : start + size]
            replies += Block(model, self.processor, some, [arm], self.clip).ask(arm)[0]
        return replies

    def _in_rows(self, arm: Arm, which: Sequence[int], longest: int) -> dict[int, Reply]:
        """Ask some questions, one per row; all rows share the encoded images."""
        size = arm.condition.questions_per_batch or max(1, len(which))
        replies: dict[int, Reply] = {}
        for start in range(0, len(which), size):
            some = which[start : start + size]
            replies |= zip(some, self._batch(arm, some, longest), strict=True)
        return replies

    def _batch(self, arm: Arm, which: Sequence[int], longest: int) -> Iterator[Reply]:
        inputs = _padded(self._prompts(which), arm.condition.padding, self.processor.tokenizer)
        encoded = share(self.encoded, inputs, [self.rows[b] for b in which])
        pruner = arm.pruner
        if isinstance(pruner, InsidePruner):
            with pruning_inside(self.model, pruner) as inside:
                spoken = self._speak(encoded.prune(UNPRUNED), longest)
            tokens = inside.entered[-1].double().mean(-1).tolist()
            for (logits, text, margin), count in zip(spoken, tokens, strict=True):
                yield Reply(logits, count, text, margin)
            return
        by_question = isinstance(pruner, ClipPruner)
        if isinstance(pruner, ClipPruner) and pruner.text_embeds is None and self.clip:
            pruner = self.clip.ask(pruner, [self.asked[b][2].text for b in which])
        pruned = encoded.prune(pruner if by_question else _OncePerImage(inner=pruner))
        reports = defaultdict(list)
        for report in pruned.report.images:
            reports[report.row].append(report)
        alike = [*range(len(which))] if by_question else [self.rows[b] for b in which]
        for row, (logits, text, margin) in enumerate(self._speak(pruned, longest)):
            same = [r for r in range(len(which)) if alike[r] == alike[row]]
            seconds = sum(report.seconds for r in same for report in reports[r])
            count = sum(report.tokens_after for report in reports[row])
            # Rows with the same choice share one report, so that its IPR is worked out once.
            yield Reply(logits, count, text, margin, reports[same[0]], seconds)

    def _speak(self, inputs: Any, longest: int) -> list[tuple[Tensor, str, float | None]]:
        """Reply with one token, or greedily with up to ``longest``, which are decoded."""
        if longest == 1:
            logits = self.model(**inputs, logits_to_keep=1, use_cache=False).logits[:, -1]
            return [(row, "", None) for row in logits.cpu()]
        options = {"max_new_tokens": longest, "do_sample": False, "num_beams": 1}
        options |= {"return_dict_in_generate": True, "output_logits": True}
        output = self.model.generate(**inputs, **options)
        ids = output.sequences[:, inputs["input_ids"].shape[1] :].cpu()
        logits = torch.stack(output.logits, 1).cpu()
        tokenizer = self.processor.tokenizer
        texts = tokenizer.batch_decode(ids, skip_special_tokens=True)
        spoken: list[tuple[Tensor, str, float | None]] = []
        for row, z, text in zip(ids, logits, texts, strict=True):
            ended = (row == tokenizer.eos_token_id).nonzero()
            length = int(ended[0]) + 1 if len(ended) else len(row)
            spoken.append((z[0], text, least_margin(z, length)))
        return spoken

    def _check(self, replies: Iterable[Reply]) -> None:
        """Refuse NaN and overflow; minus infinity may stand for a token that is never said."""
        bad = [not bool(reply.logits.amax().isfinite()) for reply in replies]
        if any(bad):
            name, dtype = self.model.config.name_or_path, str(self.model.dtype)
            raise LofiError(
                f"ask: {sum(bad)} of {len(bad)} replies of {name!r} in "
                f"{dtype.removeprefix('torch.')} have logits that are NaN or infinite; expected "
                "finite ones: are the weights whole, and does the dtype hold the activations "
                "(float16 ends at 65504)?"
            )


def _variant(model: Any, dtype: str | None, attention: str | None) -> Any:
    """Copy a model into another dtype or attention back-end.

    Only parameters are cast, as ``from_pretrained(..., dtype=...)`` does: rotary frequencies stay
    in float32.
    """
    if dtype is None and attention is None:
        return model
    copy = deepcopy(model)
    if attention is not None:
        copy.set_attn_implementation(attention)
    if dtype is not None:
        for parameter in copy.parameters():
            parameter.data = parameter.data.to(getattr(torch, dtype))
    return copy


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


def _padded(inputs: dict[str, Any], columns: int, tokenizer: Any) -> dict[str, Any]:
    """Prepend columns of padding to everything that has one entry per token."""
    ids, pad_id = inputs["input_ids"], tokenizer.pad_token_id or 0
    return {
        name: pad(x, (columns, 0), value=pad_id if name == "input_ids" else 0)
        if isinstance(x, Tensor) and x.shape == ids.shape
        else x
        for name, x in inputs.items()
    }
