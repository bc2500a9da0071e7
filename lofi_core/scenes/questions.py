"""Questions about a scene, one of every family, with their true answers.

The families mirror the public benchmarks: existence (as POPE), attribute, shape, counting, spatial
relation, digit reading (as TextVQA) and multiple choice (as MMBench and ScienceQA).
"""

from collections.abc import Sequence
from itertools import permutations
from typing import TypeVar

from numpy.random import Generator

from lofi_core.evaluation.questions import Question
from lofi_core.scenes.drawing import COLORS, SHAPES, SIZES, SceneObject

RELATIONS = ("left", "right", "above", "below")
LETTERS = ("A", "B", "C", "D")
COUNTS = ("0", "1", "2", "3", "4")
DIGITS = tuple("0123456789")
FAMILIES = ("existence", "attribute", "shape", "counting", "spatial", "digit", "choice")
T = TypeVar("T")


def draw_questions(
    objects: tuple[SceneObject, ...], count: tuple[str, str, int], rng: Generator
) -> tuple[Question, ...]:
    """Draw one question of every family, in the order of ``FAMILIES``."""
    picked = {
        f: pick(rng, candidates(f, objects)) for f in FAMILIES if f not in ("existence", "counting")
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


def candidates(family: str, objects: Sequence[SceneObject]) -> list[tuple[int, ...]]:
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


def pick(rng: Generator, items: Sequence[T]) -> T:
    """Draw one of the items."""
    return items[int(rng.integers(len(items)))]


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
        (color, shape), answer = pick(rng, recolored if swap_color else reshaped), "no"
    about = (i,) if answer == "yes" else ()
    return Question("existence", f"Is there a {color} {shape}?", answer, ("yes", "no"), about)


def _attribute(objects: Sequence[SceneObject], about: tuple[int, ...], rng: Generator) -> Question:
    o = objects[about[0]]
    sized = _unique(objects, "color", "shape")
    if sized and rng.random() < 0.5:
        i = pick(rng, sized)
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
