"""A block of scenes: encoded once, asked in every way of the plan."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, cast

import torch
from torch import Tensor
from torch.nn.functional import pad
from transformers import AutoModelForImageTextToText, AutoProcessor, AutoTokenizer, CLIPModel

from book.experiments.plan import Arm
from lofi_core.evaluation.answers import chat_inputs, first_tokens
from lofi_core.evaluation.asking import UNPRUNED, share
from lofi_core.pruners.clip import ClipPruner, ClipText
from lofi_core.pruners.inside import InsidePruner
from lofi_core.scene_vlm import PATH
from lofi_core.scenes.vqa import Scene
from lofi_core.vlm.encoding import EncodedInputs, encode_inputs
from lofi_core.vlm.inside import pruning_inside
from lofi_core.vlm.packed import PackedOutput, pack
from lofi_core.vlm.report import ImageReport

__all__ = ["Block", "Models", "Reply"]

SMALL = 3  # images a batch, of the noise arm with other batches
PADDING = 32  # columns, of the noise arm with padding


@dataclass(frozen=True, eq=False)
class Models:
    """A SceneVLM, its numerical variants by name of the noise arm, and its CLIP."""

    model: Any
    processor: Any
    variants: Mapping[str, Any]
    clip: Any
    words: Any

    @classmethod
    def load(cls, folder: Path = PATH, variants: bool = True) -> "Models":
        """Load everything in float32, on the CPU; by default the shipped model."""

        def vlm(dtype: torch.dtype = torch.float32, attention: str = "sdpa") -> Any:
            load = AutoModelForImageTextToText.from_pretrained
            return load(folder, dtype=dtype, attn_implementation=attention).eval()

        others = {
            "eager attention": lambda: vlm(attention="eager"),
            "bfloat16": lambda: vlm(torch.bfloat16),
            "float64": lambda: vlm(torch.float64),
        }
        return cls(
            vlm(),
            AutoProcessor.from_pretrained(folder),
            {name: make() for name, make in others.items()} if variants else {},
            CLIPModel.from_pretrained(folder / "clip").eval(),
            AutoTokenizer.from_pretrained(folder / "clip"),
        )


@dataclass(frozen=True, eq=False)
class Reply:
    """What came back: Q questions in order, and what the pruner did.

    Parameters
    ----------
    logits : Tensor, shape (Q, V)
    tokens : list of Q float
        Visual tokens a layer of the language model received, on average.
    reports : list of ImageReport
        One an image, or one a question; none for pruning inside the language model.
    packed : PackedOutput, optional
        With hidden states, where representations are measured.
    """

    logits: Tensor
    tokens: list[float]
    reports: list[ImageReport]
    packed: PackedOutput | None = None


class Block:
    """Scenes whose images are encoded once.

    Parameters
    ----------
    models : Models
    scenes : sequence of Scene
        With as many questions each.
    needs : sequence of str
        Union of what the pruners need, see `lofi_core.vlm.encoding.encode_inputs`.
    """

    def __init__(self, models: Models, scenes: Sequence[Scene], needs: Sequence[str]) -> None:
        self.models, self.scenes = models, scenes
        self.asked = [(i, q) for i, scene in enumerate(scenes) for q in scene.questions]
        self.rows = [i for i, _ in self.asked]
        shown = [(scene.image, scene.questions[0].text) for scene in scenes]
        self.alone = chat_inputs(models.processor, shown)
        self.inputs = chat_inputs(
            models.processor, [(scenes[i].image, q.text) for i, q in self.asked]
        )
        self.encoded = encode_inputs(models.model, self.alone, needs)
        self.packed = pack(self.encoded, self.inputs, self.rows)
        tokenizer = models.processor.tokenizer
        self.first = [first_tokens(tokenizer, q) for _, q in self.asked]

    @torch.inference_mode()
    def ask(self, arm: Arm) -> Reply:
        """Ask every question under an arm."""
        if arm.how == "packed":
            return self._packed(self.packed.run(arm.pruner, hidden=arm.measured))
        if arm.how == "model":
            return self._other(self.models.variants[arm.label], range(len(self.scenes)))
        if arm.how == "small":
            parts = torch.arange(len(self.scenes)).split(SMALL)
            replies = [self._other(self.models.model, part.tolist()) for part in parts]
            return _joined(replies)
        if arm.how == "single":
            return _joined([self._one(b) for b in range(len(self.rows))])
        if arm.how == "conditioned":
            return self._rows(self.inputs, self._conditioned(cast(ClipPruner, arm.pruner)))
        if arm.how == "padded":
            inputs = {
                "input_ids": pad(self.inputs["input_ids"], (PADDING, 0), value=0),
                "attention_mask": pad(self.inputs["attention_mask"], (PADDING, 0), value=0),
            }
            return self._rows(inputs, arm.pruner)
        return self._rows(self.inputs, arm.pruner)

    def _packed(self, output: PackedOutput) -> Reply:
        counts = [image.tokens_after for image in output.report.images]
        tokens = [float(counts[i]) for i in self.rows][: len(output.logits)]
        return Reply(output.logits, tokens, list(output.report.images), output)

    def _other(self, model: Any, images: Sequence[int]) -> Reply:
        """Ask about some of the images with a model of its own encoding."""
        index = list(images)
        alone = {k: v[index] for k, v in self.alone.items()}
        alone["pixel_values"] = alone["pixel_values"].to(model.dtype)
        mine = [b for b, i in enumerate(self.rows) if i in set(index)]
        inputs = {k: self.inputs[k][mine] for k in ("input_ids", "attention_mask")}
        encoded = encode_inputs(model, alone)
        output = pack(encoded, inputs, [index.index(self.rows[b]) for b in mine]).run(UNPRUNED)
        counts = [image.tokens_after for image in output.report.images]
        tokens = [float(counts[index.index(self.rows[b])]) for b in mine]
        return Reply(output.logits, tokens, list(output.report.images))

    def _one(self, b: int) -> Reply:
        real = self.inputs["attention_mask"][b].bool()
        inputs = {k: self.inputs[k][b : b + 1, real] for k in ("input_ids", "attention_mask")}
        return self._rows(inputs, UNPRUNED, [self.rows[b]])

    def _rows(self, inputs: Any, pruner: Any, rows: Sequence[int] | None = None) -> Reply:
        """Ask one question a row."""
        model = self.models.model
        given = {k: inputs[k] for k in ("input_ids", "attention_mask")}
        encoded: EncodedInputs = share(self.encoded, given, self.rows if rows is None else rows)
        if isinstance(pruner, InsidePruner):
            with pruning_inside(model, pruner) as inside:
                logits = model(**encoded.prune(UNPRUNED), logits_to_keep=1).logits[:, -1]
            return Reply(logits, inside.entered[-1].double().mean(-1).tolist(), [])
        pruned = encoded.prune(pruner)
        logits = model(**pruned, logits_to_keep=1, use_cache=False).logits[:, -1]
        reports = list(pruned.report.images)
        return Reply(logits, [float(r.tokens_after) for r in reports], reports)

    def _conditioned(self, pruner: ClipPruner) -> ClipPruner:
        """Give a pruner the questions, in CLIP's joint space."""
        return ClipText(self.models.clip, self.models.words).ask(
            pruner, [q.text for _, q in self.asked]
        )


def _joined(replies: Sequence[Reply]) -> Reply:
    return Reply(
        torch.cat([reply.logits for reply in replies]),
        [n for reply in replies for n in reply.tokens],
        [],
    )
