"""What PhotoVLM is asked while it learns: captions, existence, which of four captions, questions.

Every visit of a photo draws new lessons from a generator that depends on seed, visit and photo.
Existence questions are made from the nouns of captions: a noun is a word that captions use between
an article and a preposition, a verb or a full stop, often enough; one that no caption of the photo
mentions is asked about with the answer "no". Captions do not mention everything, so some of these
answers are wrong; evaluation uses none of them.
"""

import re
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cache

from numpy.random import Generator

from book.training.photo.photos import Photo

__all__ = ["Lesson", "Nouns", "four_captions", "lessons", "wording"]

LETTERS = "ABCD"
SPOTTED = re.compile(
    r"\b(?:a|an|the) (\w+)(?=(?: (?:on|in|with|and|is|are|of|at|near|next|sitting|standing|by|"
    r"while|to|that|from|flying|parked|laying|lying|holding|riding|walking|eating)\b)|[,.]|$)"
)
WHERE = ("photo", "image", "picture")
DESCRIBE = "Describe the {} in one sentence."
COMMON = 12  # captions that must use a noun
# Words in a noun's place that nobody could look for in a photo.
VAGUE = frozenset(
    [
        "air",
        "back",
        "background",
        "black",
        "blue",
        "body",
        "bunch",
        "city",
        "corner",
        "couple",
        "crowd",
        "day",
        "game",
        "group",
        "guy",
        "image",
        "line",
        "lot",
        "middle",
        "number",
        "pair",
        "photo",
        "picture",
        "piece",
        "pile",
        "pitch",
        "platform",
        "rain",
        "red",
        "row",
        "side",
        "slice",
        "store",
        "suit",
        "top",
        "track",
        "trick",
        "view",
        "yellow",
    ]
)
ASKED = re.compile(r"^Is there an? (.+) in the picture\?$")
# Words that name what POPE calls by another word.
KINDS = {
    "person": ("man", "woman", "boy", "girl", "people", "child", "kid", "lady", "men", "women"),
    "dining table": ("table",),
    "couch": ("sofa",),
    "tv": ("television",),
    "cell phone": ("phone", "cellphone"),
    "motorcycle": ("motorbike",),
    "bicycle": ("bike",),
    "airplane": ("plane", "jet"),
    "potted plant": ("plant",),
    "sports ball": ("ball",),
    "tennis racket": ("racket", "racquet"),
    "traffic light": ("light",),
    "teddy bear": ("teddy",),
    "wine glass": ("wine",),
    "refrigerator": ("fridge",),
}


@dataclass(frozen=True)
class Lesson:
    """A prompt, its answer, and the kind of lesson."""

    prompt: str
    answer: str
    kind: str


class Nouns:
    """The nouns of a split's captions, how often they occur, and which photos mention them."""

    def __init__(self, photos: Sequence[Photo]) -> None:
        texts = [caption.lower() for photo in photos for caption in photo.captions]
        counts = Counter(noun for text in texts for noun in SPOTTED.findall(text))
        asked = {
            found[1]
            for photo in photos
            for q in photo.questions
            if q["source"] == "coco-boxes-exist" and (found := ASKED.match(q["question"]))
        }
        common = {noun for noun, n in counts.items() if n >= COMMON} - VAGUE
        self.words = sorted(common | set(KINDS) | asked)
        weights = [4 + sum(counts[w] for w in (noun, *KINDS.get(noun, ()))) for noun in self.words]
        total = sum(weight**0.5 for weight in weights)
        self.chances = [weight**0.5 / total for weight in weights]

    @cache  # noqa: B019  (one instance per process)
    def mentioned(self, captions: tuple[str, ...]) -> tuple[str, ...]:
        """Return the nouns that a photo's captions mention, plurals included."""
        text = f" {' '.join(captions).lower()} "
        return tuple(
            noun
            for noun in self.words
            if any(re.search(rf"\b{word}(s|es)?\b", text) for word in (noun, *KINDS.get(noun, ())))
        )


def lessons(
    photo: Photo, others: Sequence[Photo], nouns: Nouns, rng: Generator, questions: bool
) -> list[Lesson]:
    """Draw the lessons of one visit.

    Parameters
    ----------
    photo : Photo
        With at least one caption or question.
    others : sequence of Photo
        Where other captions come from.
    nouns : Nouns
    rng : Generator
    questions : bool
        Whether the photo's own questions are asked too: not during alignment.
    """
    drawn: list[Lesson] = []
    where = WHERE[int(rng.integers(3))]
    if photo.captions:
        caption = photo.captions[int(rng.integers(len(photo.captions)))]
        drawn.append(Lesson(DESCRIBE.format(where), caption.strip(), "caption"))
        if rng.random() < 0.5:  # it is as long as five other lessons
            drawn.append(four_captions(photo, others, rng))
        there = nouns.mentioned(photo.captions)
        absent = [w for w in rng.choice(nouns.words, 12, p=nouns.chances) if w not in there][:2]
        for noun, answer in [
            *((n, "yes") for n in _some(there, 2, rng)),
            *((n, "no") for n in absent),
        ]:
            article = "an" if noun[0] in "aeiou" else "a"
            text = f"Is there {article} {noun} in the {where}?"
            drawn.append(Lesson(text, answer, "existence"))
    if questions:
        drawn += [Lesson(*wording(q), q["source"]) for q in _some(photo.questions, 4, rng)]
    return drawn


def four_captions(photo: Photo, others: Sequence[Photo], rng: Generator) -> Lesson:
    """Ask which of four captions fits; three belong to other photos."""
    own = photo.captions[int(rng.integers(len(photo.captions)))]
    wrong: list[str] = []
    while len(wrong) < 3:
        other = others[int(rng.integers(len(others)))]
        if other.name != photo.name and other.captions:
            wrong.append(other.captions[int(rng.integers(len(other.captions)))])
    place = int(rng.integers(4))
    options = [*wrong[:place], own, *wrong[place:]]
    return Lesson(_listed(options), LETTERS[place], "four captions")


def wording(question: dict) -> tuple[str, str]:
    """Prompt and answer of one of the data's questions."""
    if choices := question.get("choices"):
        return _listed(choices), LETTERS[choices.index(question["answer"])]
    return question["question"], question["answer"]


def _listed(options: Sequence[str]) -> str:
    lines = [f"{letter}. {text.strip()}" for letter, text in zip(LETTERS, options, strict=False)]
    return "\n".join(["Which caption fits the picture? Answer with a letter.", *lines])


def _some(items: Sequence, most: int, rng: Generator) -> list:
    """At most so many of the items, in random order."""
    return [items[i] for i in rng.permutation(len(items))[:most]]
