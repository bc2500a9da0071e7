"""SceneVQA: procedural scenes with questions whose true answers are known exactly.

A scene is a list of objects (shape x colour x size, and real handwritten digits) drawn on a
noisy, cluttered background.  One question of every family is asked about it.  The families
mirror the public benchmarks: existence (as POPE), attribute, shape, counting, spatial relation,
digit reading (as TextVQA) and multiple choice (as MMBench and ScienceQA).

Balance is by construction, not by filtering.  The count that will be asked for, the digit classes
and every yes/no are drawn uniformly *before* the scene exists; colours, shapes and positions are
exchangeable.  A model that does not look at the image therefore cannot beat the mean of
``1 / len(question.choices)`` over a family.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import permutations
from typing import TypeVar

import numpy as np
from numpy.random import Generator
from PIL import Image

from lofi_core.drawing import COLORS, IMAGE_SIZE, SHAPES, SIZES, SPLITS, SceneObject, draw_scene
from lofi_core.errors import LofiError

RELATIONS = ("left", "right", "above", "below")
LETTERS = ("A", "B", "C", "D")
COUNTS = ("0", "1", "2", "3", "4")
DIGITS = tuple("0123456789")
FAMILIES = ("existence", "attribute", "shape", "counting", "spatial", "digit", "choice")
T = TypeVar("T")


@dataclass(frozen=True)
class Question:
    """A question with its true answer, all admissible answers and the objects it is about."""

    family: str
    text: str
    answer: str
    choices: tuple[str, ...]
    about: tuple[int, ...]


@dataclass(frozen=True)
class Scene:
    """One image with its ground truth. ``id`` is unique over splits and seeds."""

    id: str
    image: Image.Image
    objects: tuple[SceneObject, ...]
    questions: tuple[Question, ...]

    @property
    def caption(self) -> str:
        """Exact caption: every object's phrase, from left to right."""
        return " , ".join(o.phrase for o in sorted(self.objects, key=lambda o: (o.x, o.y)))


class SceneVQA(Sequence[Scene]):
    """An index-addressable data set: ``SceneVQA(split, seed)[i]`` is the same on every machine.

    Parameters
    ----------
    split : {"train", "validation", "test"}
        Splits share neither images nor handwritten digits.
    seed : int
        Non-negative; another seed gives other scenes of the same distribution.
    draw : int
        Which draw of the questions; the scenes and their images do not depend on it.

    Raises
    ------
    LofiError
        For an unknown split or a negative seed.

    Examples
    --------
    >>> scene = SceneVQA("test", seed=0)[3]
    >>> scene.image.size, len(scene.questions)
    ((144, 144), 7)
    >>> scene == SceneVQA("test", seed=0)[3]
    True
    """

    def __init__(self, split: str = "test", seed: int = 0, draw: int = 0) -> None:
        if split not in SPLITS:
            raise LofiError(f"SceneVQA: unknown split {split!r}; expected one of {list(SPLITS)}.")
        if seed < 0 or draw < 0:
            raise LofiError(f"SceneVQA: seed {seed} and draw {draw} must not be negative.")
        self.split, self.seed, self.draw = split, seed, draw

    def __len__(self) -> int:
        return SPLITS[self.split]

    def __getitem__(self, index: int) -> Scene:  # type: ignore[override]
        if not 0 <= index < len(self):
            raise IndexError(f"SceneVQA: index {index} outside [0, {len(self)}).")
        objects, questions = self.describe(index)
        image = draw_scene(objects, self._rng(index, "image"), self.split)
        return Scene(f"{self.split}-{self.seed}-{index}", image, objects, questions)

    def describe(self, index: int) -> tuple[tuple[SceneObject, ...], tuple[Question, ...]]:
        """Objects and questions of scene ``index``, without drawing its image."""
        objects, count = _sample_objects(self._rng(index, "objects"))
        return objects, _ask(objects, count, self._rng(index, "questions"))

    def _rng(self, index: int, purpose: str) -> Generator:
        stream = {"objects": 0, "image": 1, "questions": 2 + self.draw}[purpose]
        split = list(SPLITS).index(self.split)
        return np.random.default_rng((self.seed, split, index, stream))


def _pick(rng: Generator, items: Sequence[T]) -> T:
    return items[int(rng.integers(len(items)))]


def _sample_objects(rng: Generator) -> tuple[tuple[SceneObject, ...], tuple[str, str, int]]:
    """Draw the count question's ``(kind, value, n)`` first, then objects that make it true."""
    kind = _pick(rng, ("color", "shape"))
    value = _pick(rng, tuple(COLORS) if kind == "color" else SHAPES)
    n, n_digits = int(rng.integers(len(COUNTS))), int(rng.integers(1, 3))
    # Shapes that are counted are no digits; two digits must differ in color to be told apart.
    least = max(n + (n_digits if kind == "shape" else n_digits - 1), n_digits + 1)
    total = int(rng.integers(least, 7))
    classes = [int(rng.integers(10)) for _ in range(n_digits)]
    while True:  # everything above stays fixed: rejection cannot unbalance it
        objects = _propose(rng, kind, value, n, total, classes)
        if objects and all(
            _candidates(f, objects) for f in ("attribute", "shape", "spatial", "digit")
        ):
            return objects, (kind, value, n)


def _propose(
    rng: Generator, kind: str, value: str, n: int, total: int, classes: Sequence[int]
) -> tuple[SceneObject, ...]:
    """One proposal of objects that don't touch each other; empty if the space ran out."""
    digits = [None] * (total - len(classes)) + list(classes)
    pool = rng.permutation(total if kind == "color" else total - len(classes))
    chosen = set(pool[:n].tolist())
    objects: list[SceneObject] = []
    for i, digit in enumerate(digits):
        color = _pick(rng, [c for c in COLORS if kind != "color" or c != value])
        shape = "digit" if digit is not None else _pick(rng, [s for s in SHAPES if s != value])
        color = value if kind == "color" and i in chosen else color
        shape = value if kind == "shape" and i in chosen else shape
        size = _pick(rng, tuple(SIZES))
        for _ in range(20):
            r = SIZES[size] + 2
            x, y = (int(v) for v in rng.integers(r, IMAGE_SIZE - r, 2))
            if all(max(abs(x - o.x), abs(y - o.y)) > r + o.radius for o in objects):
                objects.append(SceneObject(shape, color, size, x, y, digit))
                break
        else:
            return ()
    return tuple(objects)


def _unique(objects: Sequence[SceneObject], *keys: str) -> list[int]:
    """Return the indices of the objects that no other object equals in all of ``keys``."""
    names = [tuple(getattr(o, k) for k in keys) for o in objects]
    return [i for i, name in enumerate(names) if names.count(name) == 1]


def _relation(a: SceneObject, b: SceneObject) -> str | None:
    """Where ``a`` lies seen from ``b``; None unless one axis clearly dominates."""
    dx, dy = a.x - b.x, a.y - b.y
    if abs(dx) > abs(dy) + 12:
        return "left" if dx < 0 else "right"
    if abs(dy) > abs(dx) + 12:
        return "above" if dy < 0 else "below"
    return None


def _candidates(family: str, objects: Sequence[SceneObject]) -> list[tuple[int, ...]]:
    """Return the objects, or pairs of objects, that a question can refer to unambiguously."""
    if family in ("attribute", "choice"):
        return [(i,) for i in _unique(objects, "size", "shape")]
    if family == "shape":
        return [(i,) for i in _unique(objects, "size", "color") if objects[i].digit is None]
    if family == "digit":
        digits = [i for i, o in enumerate(objects) if o.digit is not None]
        colors = [objects[i].color for i in digits]
        return [(i,) for i in digits if colors.count(objects[i].color) == 1]
    pairs = permutations(_unique(objects, "color", "shape"), 2)
    return [(i, j) for i, j in pairs if _relation(objects[i], objects[j])]


def _ask(
    objects: tuple[SceneObject, ...], count: tuple[str, str, int], rng: Generator
) -> tuple[Question, ...]:
    """Draw one question of every family, in the order of ``FAMILIES``."""
    picked = {
        f: _pick(rng, _candidates(f, objects))
        for f in FAMILIES
        if f not in ("existence", "counting")
    }
    return (
        _existence(objects, rng),
        _attribute(objects, picked["attribute"], rng),
        _shape(objects, picked["shape"]),
        _counting(objects, count),
        _spatial(objects, picked["spatial"]),
        _digit(objects, picked["digit"]),
        _choice(objects, picked["choice"], rng),
    )


def _existence(objects: Sequence[SceneObject], rng: Generator) -> Question:
    """Half the questions name a present object, half alter one attribute of a present object."""
    i = int(rng.integers(len(objects)))
    o, present = objects[i], {(o.color, o.shape) for o in objects}
    if rng.random() < 0.5:
        color, shape, answer = o.color, o.shape, "yes"
    else:
        recolored = [(c, o.shape) for c in COLORS if (c, o.shape) not in present]
        reshaped = [(o.color, s) for s in SHAPES if (o.color, s) not in present]
        swap_color = o.digit is not None or rng.random() < 0.5 or not reshaped
        (color, shape), answer = _pick(rng, recolored if swap_color else reshaped), "no"
    about = (i,) if answer == "yes" else ()
    return Question("existence", f"Is there a {color} {shape}?", answer, ("yes", "no"), about)


def _attribute(objects: Sequence[SceneObject], about: tuple[int, ...], rng: Generator) -> Question:
    o = objects[about[0]]
    sized = [i for i in _unique(objects, "color", "shape")]
    if sized and rng.random() < 0.5:
        i = _pick(rng, sized)
        text = f"What size is the {objects[i].color} {objects[i].shape}?"
        return Question("attribute", text, objects[i].size, tuple(SIZES), (i,))
    text = f"What color is the {o.size} {o.shape}?"
    return Question("attribute", text, o.color, tuple(COLORS), about)


def _shape(objects: Sequence[SceneObject], about: tuple[int, ...]) -> Question:
    o = objects[about[0]]
    text = f"What shape is the {o.size} {o.color} object?"
    return Question("shape", text, o.shape, SHAPES, about)


def _counting(objects: Sequence[SceneObject], count: tuple[str, str, int]) -> Question:
    kind, value, n = count
    what = f"{value} objects" if kind == "color" else f"{value} shapes"
    about = tuple(i for i, o in enumerate(objects) if getattr(o, kind) == value)
    return Question("counting", f"How many {what} are there?", COUNTS[n], COUNTS, about)


def _spatial(objects: Sequence[SceneObject], about: tuple[int, ...]) -> Question:
    a, b = (objects[i] for i in about)
    text = f"Where is the {a.color} {a.shape} from the {b.color} {b.shape}?"
    return Question("spatial", text, _relation(a, b) or "", RELATIONS, about)


def _digit(objects: Sequence[SceneObject], about: tuple[int, ...]) -> Question:
    o = objects[about[0]]
    return Question("digit", f"Which digit is {o.color}?", str(o.digit), DIGITS, about)


def _choice(objects: Sequence[SceneObject], about: tuple[int, ...], rng: Generator) -> Question:
    o = objects[about[0]]
    wrong = [c for c in COLORS if c != o.color]
    options = [wrong[i] for i in rng.permutation(len(wrong))[:3]]
    answer = int(rng.integers(4))
    options.insert(answer, o.color)
    listed = " ".join(f"{letter} {c}" for letter, c in zip(LETTERS, options, strict=True))
    text = f"Which color has the {o.size} {o.shape}? {listed}"
    return Question("choice", text, LETTERS[answer], LETTERS, about)
