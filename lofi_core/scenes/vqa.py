"""SceneVQA: procedural scenes with questions whose true answers are known exactly.

A scene is a list of objects (shape x colour x size, and real handwritten digits) drawn on a
noisy, cluttered background.  One question of every family is asked about it.

Balance is by construction, not by filtering.  The count that will be asked for, the digit classes
and every yes/no are drawn uniformly *before* the scene exists; colours, shapes and positions are
exchangeable.  A model that does not look at the image therefore cannot beat the mean of
``1 / len(question.choices)`` over a family.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.random import Generator

from lofi_core.errors import LofiError
from lofi_core.evaluation.questions import Question, Scene
from lofi_core.scenes.drawing import (
    COLORS,
    IMAGE_SIZE,
    SHAPES,
    SIZES,
    SPLITS,
    SceneObject,
    draw_scene,
)
from lofi_core.scenes.questions import COUNTS, candidates, draw_questions, pick


@dataclass(frozen=True)
class DrawnScene(Scene):
    """A scene whose objects are known. ``id`` is unique over splits and seeds."""

    objects: tuple[SceneObject, ...]

    @property
    def caption(self) -> str:
        """Exact caption, every object's phrase from left to right."""
        return " , ".join(o.phrase for o in sorted(self.objects, key=lambda o: (o.x, o.y)))


class SceneVQA(Sequence[DrawnScene]):
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

    def __getitem__(self, index: int) -> DrawnScene:  # type: ignore[override]
        if not 0 <= index < len(self):
            raise IndexError(f"SceneVQA: index {index} outside [0, {len(self)}).")
        objects, questions = self.describe(index)
        image = draw_scene(objects, self._rng(index, "image"), self.split)
        return DrawnScene(f"{self.split}-{self.seed}-{index}", image, questions, objects)

    def describe(self, index: int) -> tuple[tuple[SceneObject, ...], tuple[Question, ...]]:
        """Objects and questions of scene ``index``, without drawing its image."""
        objects, count = _sample_objects(self._rng(index, "objects"))
        return objects, draw_questions(objects, count, self._rng(index, "questions"))

    def _rng(self, index: int, purpose: str) -> Generator:
        stream = {"objects": 0, "image": 1, "questions": 2 + self.draw}[purpose]
        split = list(SPLITS).index(self.split)
        return np.random.default_rng((self.seed, split, index, stream))


def _sample_objects(rng: Generator) -> tuple[tuple[SceneObject, ...], tuple[str, str, int]]:
    """Draw the count question's ``(kind, value, n)`` first, then objects that make it true."""
    kind = pick(rng, ("color", "shape"))
    value = pick(rng, tuple(COLORS) if kind == "color" else SHAPES)
    n, n_digits = int(rng.integers(len(COUNTS))), int(rng.integers(1, 3))
    # Shapes that are counted are no digits; two digits must differ in color to be told apart.
    least = max(n + (n_digits if kind == "shape" else n_digits - 1), n_digits + 1)
    total = int(rng.integers(least, 7))
    classes = [int(rng.integers(10)) for _ in range(n_digits)]
    while True:  # everything above stays fixed: rejection cannot unbalance it
        objects = _propose(rng, kind, value, n, total, classes)
        if objects and all(
            candidates(f, objects) for f in ("attribute", "shape", "spatial", "digit")
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
        color = pick(rng, [c for c in COLORS if kind != "color" or c != value])
        shape = "digit" if digit is not None else pick(rng, [s for s in SHAPES if s != value])
        color = value if kind == "color" and i in chosen else color
        shape = value if kind == "shape" and i in chosen else shape
        size = pick(rng, tuple(SIZES))
        for _ in range(20):
            r = SIZES[size] + 2
            x, y = (int(v) for v in rng.integers(r, IMAGE_SIZE - r, 2))
            if all(max(abs(x - o.x), abs(y - o.y)) > r + o.radius for o in objects):
                objects.append(SceneObject(shape, color, size, x, y, digit))
                break
        else:
            return ()
    return tuple(objects)
