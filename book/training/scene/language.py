"""Stage 2: the projector and the language model learn to answer, all questions of an image at once.

The questions of an image are packed behind one copy of it.  A block mask hides them from each
other and every question's positions restart after the image, so that each sees exactly what it
would see alone; the image is paid for once instead of seven times.

Where to look is the slow thing to learn, and here it is known: some attention heads of the middle
layers are taught to look, from where an answer begins, at the patches of the objects asked about.
For a spatial relation seeing both objects is not enough: at last, when the heads look at the right
places, a linear readout, dropped after training, makes what they gather tell where those are.
"""

from collections.abc import Callable, Iterable
from dataclasses import dataclass

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn
from transformers import LlavaForConditionalGeneration

from book.training.scene.build import tokenizer
from book.training.scene.vision import GRID, covered_patches
from lofi_core.evaluation.questions import Question
from lofi_core.scenes.drawing import IMAGE_SIZE, SceneObject
from lofi_core.scenes.vqa import SceneVQA

PREFIX = "USER: <image>\n"
IGNORE = -100
LAYERS, HEADS = (1, 2), 3  # the heads that are taught where to look: the first ones of two layers


@dataclass(frozen=True)
class Packed:
    """Token ids, positions, labels (B, L), additive mask (B, 1, L, L), features (B, N, C).

    ``where`` (A, HEADS, N) marks, for each of the A answers, patches each taught head should find;
    ``centers`` (A, 4) are x and y of two related objects in [0, 1], NaN for other questions.
    """

    ids: Tensor
    positions: Tensor
    labels: Tensor
    mask: Tensor
    features: Tensor
    where: Tensor
    centers: Tensor


def pack(scenes: list[tuple[Question, ...]], image_tokens: int) -> tuple[Tensor, ...]:
    """Pack each scene's questions behind one image.

    Returns ids, positions and labels (B, L), and a mask (B, 1, L, L) to add to attention scores:
    explicit attention would take a boolean one for numbers, and hide nothing.  Only the answer and
    the ``</s>`` after it are labelled.
    """
    tok = tokenizer()
    prefix = tok(PREFIX.replace("<image>", "<image>" * image_tokens))["input_ids"]
    rows = []
    for questions in scenes:
        ids, positions, block, labels = [*prefix], [*range(len(prefix))], [0] * len(prefix), []
        labels += [IGNORE] * len(prefix)
        for number, q in enumerate(questions, start=1):
            asked = tok(f"{q.text} ASSISTANT:", add_special_tokens=False)["input_ids"]
            answer = tok(f"{q.answer}</s>", add_special_tokens=False)["input_ids"]
            ids += asked + answer
            labels += [IGNORE] * (len(asked) - 1) + answer + [IGNORE]  # predicted one step ahead
            block += [number] * (len(asked) + len(answer))
            positions += range(len(prefix), len(prefix) + len(asked) + len(answer))
        rows.append((ids, positions, labels, block))
    length = max(len(row[0]) for row in rows)

    def padded(column: int, fill: int) -> Tensor:
        return torch.tensor([row[column] + [fill] * (length - len(row[column])) for row in rows])

    block_of = padded(3, -1)
    same = (block_of[:, None, :] == 0) | (block_of[:, None, :] == block_of[:, :, None])
    seen = same & torch.ones(length, length, dtype=torch.bool).tril()
    mask = torch.zeros(seen.shape).masked_fill(~seen, torch.finfo(torch.float32).min)
    return padded(0, int(tok.pad_token_id)), padded(1, 0), padded(2, IGNORE), mask[:, None]


def places_to_look(q: Question, objects: tuple[SceneObject, ...]) -> np.ndarray:
    """Patches (HEADS, N) of the objects asked about: of all, or, of two related ones, in turn."""
    patches = [covered_patches(objects[i]).reshape(-1) for i in q.about]
    if q.family == "spatial":
        return np.stack([patches[head % 2] for head in range(HEADS)])
    union = np.any([np.zeros(GRID**2, bool), *patches], axis=0)
    return np.repeat(union[None], HEADS, axis=0)


def centers_of(q: Question, objects: tuple[SceneObject, ...]) -> tuple[float, ...]:
    """Centres (x, y, x, y) of the two objects of a spatial question; NaN for other families."""
    if q.family != "spatial":
        return (float("nan"),) * 4
    return tuple(v / IMAGE_SIZE for i in q.about for v in (objects[i].x, objects[i].y))


class LanguageData:
    """Batches of packed questions over image features that are computed once.

    Parameters
    ----------
    data, n : SceneVQA, int
        The first ``n`` scenes of ``data``; the features of all are kept in half precision.
    model : LlavaForConditionalGeneration
        Its frozen vision tower makes the features.
    pixels : callable
        Indices (b,) -> images (b, 3, S, S) on the model's device.
    """

    def __init__(
        self,
        data: SceneVQA,
        n: int,
        model: LlavaForConditionalGeneration,
        pixels: Callable[[Tensor], Tensor],
    ) -> None:
        self.data, self.device = data, model.device
        layer = model.config.vision_feature_layer
        tower = model.model.vision_tower
        chunks = []
        for index in torch.arange(n).split(128):
            with torch.no_grad():
                hidden = tower(pixels(index), output_hidden_states=True).hidden_states[layer]
            chunks.append(hidden[:, 1:].half().cpu())
        self.features = torch.cat(chunks)  # (n, N, C)

    def batch(self, index: Tensor, draws: Iterable[int]) -> Packed:
        """Pack the scenes of ``index`` with several draws of their questions."""
        sets = [SceneVQA(self.data.split, self.data.seed, draw) for draw in draws]
        objects = [self.data.describe(i)[0] for i in index.tolist()]
        questions = [sum((data.describe(i)[1] for data in sets), ()) for i in index.tolist()]
        asked = [(q, o) for qs, o in zip(questions, objects, strict=True) for q in qs]
        where = np.stack([places_to_look(q, o) for q, o in asked])
        centers = torch.tensor([centers_of(q, o) for q, o in asked])
        parts = pack(questions, self.features.shape[1])
        ids, positions, labels, mask = (p.to(self.device) for p in parts)
        features = self.features[index].to(self.device).float()
        found = torch.from_numpy(where).to(self.device)
        return Packed(ids, positions, labels, mask, features, found, centers.to(self.device))


def language_loss(
    model: LlavaForConditionalGeneration, batch: Packed, centers: nn.Linear | None = None
) -> tuple[Tensor, dict[str, float]]:
    """Cross entropy of the labelled tokens, what the taught heads miss, and the centres' error.

    Needs eager attention. ``centers`` reads the hidden state that the taught layers leave; without
    it there is no third term.
    """
    embeds = model.get_input_embeddings()(batch.ids)
    images = model.model.multi_modal_projector(batch.features).to(embeds.dtype)
    embeds = embeds.masked_scatter((batch.ids == model.config.image_token_id)[..., None], images)
    out = model.model.language_model(
        inputs_embeds=embeds,
        attention_mask=batch.mask,
        position_ids=batch.positions,
        use_cache=False,
        output_attentions=True,
        output_hidden_states=True,
    )
    asked = batch.labels != IGNORE
    logits, labels = model.lm_head(out.last_hidden_state[asked]).float(), batch.labels[asked]
    answers = labels != model.config.eos_token_id
    right = (logits.argmax(-1) == labels)[answers]

    row, place = (asked & (batch.labels != model.config.eos_token_id)).nonzero().unbind(-1)
    start = int((batch.ids[0] == model.config.image_token_id).nonzero()[0])
    patches = slice(start, start + batch.where.shape[-1])
    taught = batch.where.any(-1)
    looking = logits.new_zeros(())
    for layer in LAYERS:
        attention = out.attentions[layer][row, :HEADS, place, patches].float()  # (A, HEADS, N)
        mass = (attention * batch.where).sum(-1)[taught]
        looking = looking - mass.clamp(min=1e-4).log().mean()

    spatial = ~batch.centers.isnan().any(-1)
    metrics = {
        "accuracy": right.float().mean().item(),
        "spatial": right[spatial].float().mean().item(),
        "looking": looking.item(),
    }
    loss = F.cross_entropy(logits, labels) + looking / 4
    if centers is None:
        return loss, metrics
    gathered = out.hidden_states[LAYERS[-1] + 1][row[spatial], place[spatial]]
    read = centers(F.rms_norm(gathered, gathered.shape[-1:])).float()
    placing = F.mse_loss(read, batch.centers[spatial])
    return loss + 4 * placing, metrics | {"placing": placing.item()}
