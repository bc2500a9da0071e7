r"""Ask PhotoVLM about test photos: each question with its own photo, and with a wrong one.

The wrong photo comes from a derangement *within source*: the photos that a source asks about are
put into one random cycle, and every question is shown the next photo of that cycle. A model that
answers from the question alone scores the same on both.

An answer is the likeliest of the permitted first tokens ("yes" or "no", or a letter), as in

    \hat a = argmax_{a in A} z_a ,

so that no answer is lost to its wording. Records hold ids, answers and margins, no text and no
pixel.
"""

from collections import defaultdict
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import pandas as pd
import torch
from tqdm import tqdm

from book.training.photo.features import Features
from book.training.photo.lessons import DESCRIBE, LETTERS, Lesson, four_captions, wording
from book.training.photo.packing import END, loss_of, pack_lessons
from book.training.photo.photos import Photo
from lofi_core.errors import LofiError

__all__ = ["FOUR", "Item", "ask_twice", "derangement", "items_of", "rank_captions"]

FOUR = "four-captions"
YES_NO = ("yes", "no")
TEXTS, ROWS = 8, 4  # texts behind one photo, photos in one batch


@dataclass(frozen=True)
class Item:
    """A lesson about a photo under the id that records refer to it by."""

    photo: str
    identity: str
    source: str
    lesson: Lesson
    options: tuple[str, ...]
    settings: str = ""


def items_of(photos: Sequence[Photo], seed: int = 0) -> list[Item]:
    """List what is asked: every closed question, and which of four captions fits.

    Open answers (``okvqa``) and counts are left out: their permitted first tokens are not a short
    list.
    """
    rng = np.random.default_rng(seed)
    captioned = [photo for photo in photos if photo.captions]
    items = []
    for photo in photos:
        for q in photo.questions:
            prompt, answer = wording(q)
            options = tuple(LETTERS[: len(q["choices"])]) if q.get("choices") else YES_NO
            if answer in options:
                settings = " ".join(q.get("settings", ()))
                lesson = Lesson(prompt, answer, q["source"])
                items.append(Item(photo.name, str(q["id"]), q["source"], lesson, options, settings))
        if photo.captions and len(captioned) > 3:
            lesson = four_captions(photo, captioned, rng)
            items.append(Item(photo.name, f"{FOUR}:{photo.name}", FOUR, lesson, tuple(LETTERS)))
    return items


def derangement(names: Sequence[str], seed: int = 0) -> dict[str, str]:
    """Map each name to the next one of a random cycle, so that none maps to itself.

    Raises
    ------
    LofiError
        If there are fewer than two different names.

    Examples
    --------
    >>> other = derangement(["a", "b", "c"])
    >>> sorted(other.values()), any(k == v for k, v in other.items())
    (['a', 'b', 'c'], False)
    """
    unique = sorted(set(names))
    if len(unique) < 2:
        raise LofiError(
            f"derangement: {len(unique)} photos; expected at least two: nobody can be shown "
            "another photo where there is only one"
        )
    cycle = [unique[i] for i in np.random.default_rng(seed).permutation(len(unique))]
    return dict(zip(cycle, cycle[1:] + cycle[:1], strict=True))


def ask_twice(
    model: Any, tokenizer: Any, features: Features, items: Sequence[Item], seed: int = 0
) -> pd.DataFrame:
    """Answer every item with the right and with the wrong photo.

    Parameters
    ----------
    model : LlavaForConditionalGeneration
        With eager attention.
    tokenizer
    features : Features
    items : sequence of Item
        At least two photos of each source.
    seed : int
        Of the derangement.

    Returns
    -------
    DataFrame
        One row per item and photo shown: ``image, question, source, settings, shown`` ("right" or
        "wrong"), ``shown_image, answer, predicted, margin, right``. The margin is that of the
        true answer over the best other one, in nats.

    Raises
    ------
    LofiError
        If a photo has no features, or is alone in its source.
    """
    by_source: dict[str, list[str]] = defaultdict(list)
    for item in items:
        by_source[item.source].append(item.photo)
    wrong = {source: derangement(names, seed) for source, names in by_source.items()}
    jobs = []
    for shown in ("right", "wrong"):
        groups: dict[str, list[Item]] = defaultdict(list)
        for item in items:
            groups[item.photo if shown == "right" else wrong[item.source][item.photo]].append(item)
        jobs += [(shown, name, part) for name, all_ in groups.items() for part in _parts(all_)]
    # Neighbours of similar length waste no padding.
    jobs.sort(key=lambda job: sum(len(item.lesson.prompt) for item in job[2]))
    rows: list[dict[str, Any]] = []
    for first in tqdm(range(0, len(jobs), ROWS), "photos shown"):
        rows += _answers(model, tokenizer, features, jobs[first : first + ROWS])
    return pd.DataFrame(rows).sort_values(["source", "question", "shown"], ignore_index=True)


def _parts(items: list[Item]) -> Iterator[list[Item]]:
    for first in range(0, len(items), TEXTS):
        yield items[first : first + TEXTS]


@torch.inference_mode()
def rank_captions(
    model: Any, tokenizer: Any, features: Features, photos: Sequence[Photo], seed: int = 0
) -> pd.DataFrame:
    """Choose among four captions by how likely each is as a description of the photo.

    The score of a caption is the mean log-probability of its tokens after the prompt that asks for
    a description, with the right photo and with the next one of a random cycle. Columns as
    `ask_twice` returns them, source "four-captions-ranked".
    """
    rng, rows = np.random.default_rng(seed), []
    captioned = [photo for photo in photos if photo.captions]
    wrong = derangement([photo.name for photo in captioned], seed)
    prompt = DESCRIBE.format("photo")
    for photo in tqdm(captioned, "captions ranked"):
        others = [captioned[i] for i in rng.permutation(len(captioned)) if captioned[i] != photo]
        texts = [photo.captions[0], *(other.captions[0] for other in others[:3])]
        asked = [Lesson(prompt, text.strip(), "caption") for text in texts]
        packed = pack_lessons([asked], tokenizer, model.config.image_token_id, 196)
        lengths = [len(_ids(tokenizer, lesson.answer + END)) for lesson in asked]
        for shown, name in (("right", photo.name), ("wrong", wrong[photo.name])):
            with torch.autocast(model.device.type, torch.bfloat16):
                losses, _, _ = loss_of(model, packed, features([name]))
            scores = [-float(part.mean()) for part in losses.split(lengths)]
            best = max(range(4), key=scores.__getitem__)
            row = {"image": photo.name, "question": f"ranked:{photo.name}", "settings": ""}
            row |= {"source": "four-captions-ranked", "shown": shown, "shown_image": name}
            row |= {"answer": "A", "predicted": LETTERS[best], "right": best == 0}
            rows.append(row | {"margin": scores[0] - max(scores[1:])})
    return pd.DataFrame(rows)


@torch.inference_mode()
def _answers(
    model: Any, tokenizer: Any, features: Features, jobs: Sequence[tuple[str, str, list[Item]]]
) -> Iterator[dict[str, Any]]:
    values = features([name for _, name, _ in jobs])
    if empty := [job[1] for job, value in zip(jobs, values, strict=True) if not value.any()]:
        raise LofiError(
            f"ask_twice: the features of {empty[0]} are all zero; expected those that CLIP gives: "
            "extraction was interrupted, run `python -m book.training.photo.features` again"
        )
    lessons = [[item.lesson for item in part] for _, _, part in jobs]
    packed = pack_lessons(lessons, tokenizer, model.config.image_token_id, values.shape[1])
    with torch.autocast(model.device.type, torch.bfloat16):
        _, _, logits = loss_of(model, packed, values)
    at, rows = 0, []
    for shown, name, part in jobs:
        for item in part:
            first = [_ids(tokenizer, option)[0] for option in item.options]
            scores = dict(zip(item.options, logits[at, first].tolist(), strict=True))
            at += len(_ids(tokenizer, item.lesson.answer + END))
            truth = item.lesson.answer
            predicted = max(scores, key=lambda option: scores[option])
            margin = scores.pop(truth) - max(scores.values())
            row = {"image": item.photo, "question": item.identity, "source": item.source}
            row |= {"settings": item.settings, "shown": shown, "shown_image": name}
            row |= {"answer": truth, "predicted": predicted, "margin": margin}
            rows.append(row | {"right": predicted == truth})
    return iter(rows)


def _ids(tokenizer: Any, text: str) -> list[int]:
    return tokenizer(text, add_special_tokens=False)["input_ids"]
