"""Stage 1: a CLIP whose patches know what they show.

Three losses, all from exact ground truth: contrast of images with their captions (CLS token),
grounding of short texts in the patches they describe, and linear read-outs of every patch's
object.  Patches are taken from the layer that the language model will read.
"""

from collections.abc import Sequence

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn
from transformers import CLIPModel

from book.training.scene.build import PATCH_SIZE, tokenizer
from lofi_core.evaluation.questions import Question
from lofi_core.scenes.drawing import COLORS, IMAGE_SIZE, SHAPES, SIZES, SceneObject
from lofi_core.scenes.questions import DIGITS
from lofi_core.scenes.vqa import SceneVQA

GRID = IMAGE_SIZE // PATCH_SIZE
FEATURE_LAYER = -2
KINDS = (*SHAPES, "digit")
READOUTS = {"shape": len(KINDS), "color": len(COLORS), "size": len(SIZES), "digit": len(DIGITS)}
HARD = {"shape": 2, "digit": 2}  # weights: these take several patches to see
TEXT_LENGTH, CAPTION_LENGTH, TEXTS = 16, 32, 4


def covered_patches(o: SceneObject) -> np.ndarray:
    """Boolean (GRID, GRID): patches of which the object's box covers at least a quarter."""
    start = np.arange(GRID) * PATCH_SIZE

    def overlap(centre: int) -> np.ndarray:
        low, high = (
            np.maximum(start, centre - o.radius),
            np.minimum(start + PATCH_SIZE, centre + o.radius),
        )
        return np.clip(high - low, 0, None)

    return np.outer(overlap(o.y), overlap(o.x)) >= PATCH_SIZE**2 / 4


def patch_labels(objects: Sequence[SceneObject]) -> np.ndarray:
    """Integers (GRID^2, 7): shape, color, size, digit, centre?, x and y of the patch's object.

    -100 means "not asked"; where a patch shows no object only ``centre?`` is, and the answer is 0.
    """
    out = np.full((GRID, GRID, 7), -100)
    out[..., 4] = 0
    for o in objects:
        where = covered_patches(o)
        digit = -100 if o.digit is None else o.digit
        kind, color, size = (
            KINDS.index(o.shape),
            list(COLORS).index(o.color),
            list(SIZES).index(o.size),
        )
        out[where] = (kind, color, size, digit, 0, o.x, o.y)
        out[o.y // PATCH_SIZE, o.x // PATCH_SIZE, 4] = 1
    return out.reshape(GRID**2, 7)


def grounded_texts(
    objects: Sequence[SceneObject], questions: Sequence[Question], rng: np.random.Generator
) -> list[tuple[str, np.ndarray]]:
    """``TEXTS`` texts with the patches they speak of: half partial descriptions, half questions."""
    asked = [q for q in questions if q.about and q.family != "choice"]
    texts = []
    for i in range(TEXTS):
        if i % 2:
            q = asked[int(rng.integers(len(asked)))]
            text, named = q.text, [objects[j] for j in q.about]
        else:
            o = objects[int(rng.integers(len(objects)))]
            keys = [k for k in ("size", "color", "shape") if rng.random() < 0.6] or ["shape"]
            text = " ".join(getattr(o, k) for k in keys)
            named = [p for p in objects if all(getattr(p, k) == getattr(o, k) for k in keys)]
        texts.append((text, np.any([covered_patches(o) for o in named], axis=0).reshape(-1)))
    return texts


def supervision(data: SceneVQA, n: int) -> dict[str, Tensor]:
    """Targets of the first ``n`` scenes: patch labels, caption ids, text ids and their patches."""
    tok, rng = tokenizer(end=True), np.random.default_rng(data.seed)
    labels, captions, texts, where = [], [], [], []
    for i in range(n):
        objects, questions = data.describe(i)
        labels.append(patch_labels(objects))
        captions.append(" , ".join(o.phrase for o in sorted(objects, key=lambda o: (o.x, o.y))))
        for text, patches in grounded_texts(objects, questions, rng):
            texts.append(text)
            where.append(patches)

    def ids(strings: list[str], length: int) -> Tensor:
        batch = tok(strings, padding="max_length", max_length=length, padding_side="right")
        return torch.tensor(batch["input_ids"], dtype=torch.int16)

    return {
        "labels": torch.from_numpy(np.stack(labels)).to(torch.int16),
        "captions": ids(captions, CAPTION_LENGTH),
        "texts": ids(texts, TEXT_LENGTH).view(n, TEXTS, TEXT_LENGTH),
        "where": torch.from_numpy(np.stack(where)).view(n, TEXTS, GRID**2),
    }


class PatchReadouts(nn.Module):
    """Linear heads on normalised patch features; discarded after training."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.norm = nn.LayerNorm(width)
        self.heads = nn.ModuleDict({name: nn.Linear(width, n) for name, n in READOUTS.items()})
        self.object, self.position = nn.Linear(width, 2), nn.Linear(width, 2)

    def forward(self, patches: Tensor, labels: Tensor) -> tuple[Tensor, dict[str, float]]:
        """Sum of the read-out losses, and the accuracy of each read-out."""
        h, labels = self.norm(patches).flatten(0, 1), labels.long().flatten(0, 1)
        loss, accuracy = h.new_zeros(()), {}
        for i, (name, head) in enumerate(self.heads.items()):
            ask = labels[:, i] >= 0
            logits = head(h[ask]).float()
            loss = loss + HARD.get(name, 1) * F.cross_entropy(logits, labels[ask, i])
            accuracy[name] = (logits.argmax(-1) == labels[ask, i]).float().mean().item()
        seen = labels[:, 5] >= 0
        target = labels[seen, 5:].float() / IMAGE_SIZE
        loss = loss + 5 * F.smooth_l1_loss(self.position(h[seen]).float(), target, beta=0.05)
        covered = torch.stack([seen, labels[:, 4] == 1], dim=-1).float()
        return loss + F.binary_cross_entropy_with_logits(self.object(h).float(), covered), accuracy


def vision_loss(
    clip: CLIPModel, readouts: PatchReadouts, pixels: Tensor, batch: dict[str, Tensor]
) -> tuple[Tensor, dict[str, float]]:
    """Contrast + grounding + read-outs for pixels (B, 3, S, S) in [-1, 1]."""
    out = clip.vision_model(pixels, output_hidden_states=True)
    patches = out.hidden_states[FEATURE_LAYER][:, 1:]  # (B, N, C)
    read, metrics = readouts(patches, batch["labels"])

    image = F.normalize(clip.visual_projection(out.pooler_output), dim=-1)
    caption = F.normalize(text_embeds(clip, batch["captions"]), dim=-1)
    scale = clip.logit_scale.exp().clamp(max=100)
    logits = (scale * image @ caption.T).float()  # (B, B)
    target = torch.arange(len(logits), device=logits.device)
    contrast = (F.cross_entropy(logits, target) + F.cross_entropy(logits.T, target)) / 2

    local = F.normalize(clip.visual_projection(clip.vision_model.post_layernorm(patches)), dim=-1)
    texts = F.normalize(text_embeds(clip, batch["texts"].flatten(0, 1)), dim=-1)
    texts = texts.view(*batch["texts"].shape[:2], -1)  # (B, T, P)
    attention = (scale * texts @ local.transpose(1, 2)).float().log_softmax(-1)  # (B, T, N)
    where = batch["where"].float()
    grounding = -((attention * where).sum(-1) / where.sum(-1).clamp(min=1)).mean()
    metrics |= {
        "retrieval": (logits.argmax(-1) == target).float().mean().item(),
        "grounding": (attention.exp() * where).sum(-1).mean().item(),
    }
    return read + contrast + grounding, metrics


def text_embeds(clip: CLIPModel, ids: Tensor) -> Tensor:
    """Projected text embeddings (n, P) of padded token ids (n, length)."""
    ids = ids.long()
    mask = (ids != clip.config.text_config.pad_token_id).long()
    return clip.text_projection(clip.text_model(ids, attention_mask=mask).pooler_output)
