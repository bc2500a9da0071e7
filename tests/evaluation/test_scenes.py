"""SceneVQA: exact answers, balance, disjoint splits, the same pixels every time."""

import hashlib
import subprocess
import sys
from collections import Counter, defaultdict
from itertools import combinations

import numpy as np
import pytest

from lofi_core import LofiError, SceneVQA
from lofi_core.evaluation.questions import Question
from lofi_core.scenes.drawing import (
    COLORS,
    IMAGE_SIZE,
    SHAPES,
    SIZES,
    SPLITS,
    SceneObject,
    handwritten_digits,
)
from lofi_core.scenes.questions import FAMILIES

N = 1500
Described = tuple[tuple[SceneObject, ...], tuple[Question, ...]]


@pytest.fixture(scope="module")
def described() -> list[Described]:
    data = SceneVQA("train", seed=7)
    return [data.describe(i) for i in range(N)]


def test_the_same_scene_in_another_process() -> None:
    program = (
        "import hashlib; from lofi_core.scenes.vqa import SceneVQA; scene = SceneVQA('test')[5];"
        "print(hashlib.sha256(scene.image.tobytes()).hexdigest(), scene.questions)"
    )
    command = [sys.executable, "-c", program]
    there = subprocess.run(command, capture_output=True, text=True, check=True).stdout.strip()
    scene = SceneVQA("test")[5]
    assert there == f"{hashlib.sha256(scene.image.tobytes()).hexdigest()} {scene.questions}"


def test_describe_is_what_getitem_shows() -> None:
    data = SceneVQA("validation", seed=3)
    scene = data[11]
    assert (scene.objects, scene.questions) == data.describe(11)
    assert scene.image.size == (IMAGE_SIZE, IMAGE_SIZE)


def test_another_draw_asks_something_else_about_the_same_scene() -> None:
    first, second = SceneVQA("test")[0], SceneVQA("test", draw=1)[0]
    assert first.objects == second.objects
    assert first.image.tobytes() == second.image.tobytes()
    assert first.questions != second.questions


def test_objects_lie_inside_and_do_not_touch(described: list[Described]) -> None:
    for objects, _ in described:
        assert 2 <= len(objects) <= 6
        for o in objects:
            assert o.radius < o.x < IMAGE_SIZE - o.radius
            assert o.radius < o.y < IMAGE_SIZE - o.radius
        for a, b in combinations(objects, 2):
            assert max(abs(a.x - b.x), abs(a.y - b.y)) > a.radius + b.radius


def named(words: list[str], objects: tuple[SceneObject, ...]) -> list[SceneObject]:
    """Return the objects that every color, shape and size among the words applies to."""
    known = [w for w in words if w in (*COLORS, *SHAPES, *SIZES, "digit")]
    return [o for o in objects if set(known) <= {o.color, o.shape, o.size}]


def oracle(q: Question, objects: tuple[SceneObject, ...]) -> set[str]:
    """Answer a question from its words and the objects, knowing nothing of how it was made."""
    words = q.text.replace("?", " ").split()
    if q.family == "existence":
        return {"yes" if named(words, objects) else "no"}
    if q.family == "counting":
        return {str(len(named(words, objects)))}
    if q.family == "attribute":
        asked = "color" if "color" in words else "size"
        return {getattr(o, asked) for o in named(words, objects)}
    if q.family == "shape":
        return {o.shape for o in named(words, objects)}
    if q.family == "digit":
        return {str(o.digit) for o in named(words, objects)}
    if q.family == "choice":
        asked, listed = words[: words.index("A")], words[words.index("A") :]
        letters = dict(zip(listed[1::2], listed[::2], strict=True))
        return {letters[o.color] for o in named(asked, objects)}
    at = words.index("from")
    (a,), (b,) = named(words[:at], objects), named(words[at:], objects)
    dx, dy = a.x - b.x, a.y - b.y
    if abs(dx) > abs(dy):
        return {"left" if dx < 0 else "right"}
    return {"above" if dy < 0 else "below"}


def test_every_answer_follows_from_the_words_and_the_objects(described: list[Described]) -> None:
    for objects, questions in described:
        assert tuple(q.family for q in questions) == FAMILIES
        for q in questions:
            assert oracle(q, objects) == {q.answer}, (q, objects)
            assert q.answer in q.choices


def test_a_blind_model_sits_at_chance(described: list[Described]) -> None:
    """Whatever a blind model answers to questions of a form, it is right about once in |choices|.

    For every form (family and admissible answers) the commonest answer of half the scenes is
    tried on the other half; six standard errors, with seven families and a few forms, cannot be
    exceeded by luck.
    """
    forms: dict[tuple, list[str]] = defaultdict(list)
    for _, questions in described:
        for q in questions:
            forms[q.family, q.choices].append(q.answer)
    for (family, choices), answers in forms.items():
        half = len(answers) // 2
        guess = Counter(answers[:half]).most_common(1)[0][0]
        chance = 1 / len(choices)
        hits = np.mean([a == guess for a in answers[half:]])
        error = np.sqrt(chance * (1 - chance) / (len(answers) - half))
        assert abs(hits - chance) < 6 * error, (family, guess, hits)


def test_a_blind_model_that_reads_the_question_sits_at_chance(described: list[Described]) -> None:
    """The words of a question don't give its answer away: the best guess for each text.

    Texts are few for counting, existence and shape, so that a leak would show.
    """
    for family in ("existence", "counting", "shape", "digit"):
        seen: dict[str, Counter] = defaultdict(Counter)
        hits, chance = [], 0.0
        for _, questions in described:
            q = next(q for q in questions if q.family == family)
            if seen[q.text]:
                hits.append(seen[q.text].most_common(1)[0][0] == q.answer)
            seen[q.text][q.answer] += 1
            chance = 1 / len(q.choices)
        error = np.sqrt(chance * (1 - chance) / len(hits))
        assert abs(np.mean(hits) - chance) < 6 * error, family


def test_splits_share_no_digits_and_no_images() -> None:
    scans = {s: {d.tobytes() for c in handwritten_digits(s) for d in c} for s in SPLITS}
    for a, b in combinations(SPLITS, 2):
        assert not scans[a] & scans[b]
    images = [SceneVQA(s)[i].image.tobytes() for s in SPLITS for i in range(20)]
    assert len(set(images)) == len(images)


@pytest.mark.parametrize("arguments", [("nowhere",), ("test", -1)])
def test_bad_arguments(arguments: tuple) -> None:
    with pytest.raises(LofiError, match="SceneVQA"):
        SceneVQA(*arguments)


def test_index_outside() -> None:
    with pytest.raises(IndexError, match="2048"):
        SceneVQA("test")[2048]
