"""How far training is: existence with the right and with a wrong photo, on validation photos."""

from typing import Any

import numpy as np
import torch
from sklearn.metrics import roc_auc_score

from book.training.photo.features import Features
from book.training.photo.lessons import Lesson, Nouns, four_captions, wording
from book.training.photo.packing import loss_of, pack_lessons
from book.training.photo.photos import read_photos

__all__ = ["validate"]

PHOTOS, BATCH = 96, 8


@torch.no_grad()
def validate(model: Any, tokenizer: Any, features: Features, nouns: Nouns) -> dict[str, float]:
    """Mean caption loss, and AUC or accuracy of questions, with right and with shifted photos."""
    rng = np.random.default_rng(0)
    photos = [photo for photo in read_photos("validation") if photo.captions][:PHOTOS]
    asked = []
    for photo in photos:
        there = nouns.mentioned(photo.captions)
        absent = [w for w in rng.choice(nouns.words, 12, p=nouns.chances) if w not in there][:3]
        words = [*((w, "yes") for w in there[:3]), *((w, "no") for w in absent)]
        one = [Lesson(f"Is there a {w} in the picture?", a, "existence") for w, a in words]
        one.append(Lesson("Describe the photo in one sentence.", photo.captions[0], "caption"))
        one.append(four_captions(photo, photos, rng))
        one += [Lesson(*wording(q), q["source"]) for q in photo.questions]
        asked.append(one)
    yes, no = (tokenizer(word, add_special_tokens=False)["input_ids"][0] for word in ("yes", "no"))
    letters = [tokenizer(c, add_special_tokens=False)["input_ids"][0] for c in "ABCD"]
    found: dict[str, float] = {}
    for shift, mark in ((0, ""), (1, "_wrong")):
        scores: dict[str, list[tuple[bool, float]]] = {}
        fits, losses_of_captions = [], []
        for first in range(0, len(photos), BATCH):
            some = asked[first : first + BATCH]
            names = [
                photos[(i + shift * 7) % len(photos)].name for i in range(first, first + len(some))
            ]
            rows = pack_lessons(some, tokenizer, model.config.image_token_id, 196)
            with torch.autocast("cpu", torch.bfloat16):
                losses, labels, logits = loss_of(model, rows, features(names))
            at = 0
            for lesson in (lesson for one in some for lesson in one):
                n = len(
                    tokenizer(lesson.answer + "<|im_end|>", add_special_tokens=False)["input_ids"]
                )
                if lesson.answer in ("yes", "no"):
                    margin = float(logits[at, yes] - logits[at, no])
                    scores.setdefault(lesson.kind, []).append((lesson.answer == "yes", margin))
                elif lesson.kind == "four captions":
                    best = logits[at, letters].argmax()
                    fits.append(letters[int(best)] == int(labels[at]))
                elif lesson.kind == "caption":
                    losses_of_captions.append(float(losses[at : at + n].mean()))
                at += n
        found[f"caption{mark}"] = float(np.mean(losses_of_captions))
        found[f"four{mark}"] = float(np.mean(fits))
        for kind in ("existence", "vqa2-yesno"):
            if len({truth for truth, _ in scores.get(kind, [])}) == 2:
                truths, margins = zip(*scores[kind], strict=True)
                found[f"{kind}{mark}"] = float(roc_auc_score(truths, margins))
                right = [(m > 0) == t for t, m in scores[kind]]
                found[f"{kind}_accuracy{mark}"] = float(np.mean(right))
    return found
