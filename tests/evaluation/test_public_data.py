"""Public benchmarks: adapters on small local files that have the hub's columns."""

import sys
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from lofi_core.errors import LofiError
from lofi_core.evaluation import __main__ as command
from lofi_core.evaluation.benchmarks import BENCHMARKS, load_benchmark
from lofi_core.evaluation.consistency import compare
from lofi_core.evaluation.questions import Scene
from lofi_core.evaluation.records import read_records

datasets = pytest.importorskip("datasets")


def picture(i: int, mode: str = "RGB") -> Image.Image:
    pixels = np.random.default_rng(i).integers(0, 255, (8, 12, 3), dtype=np.uint8)
    return Image.fromarray(pixels).convert(mode)


# Rows under all column names that the data sets have on the hub, also those that are not read.
ROWS: dict[str, list[dict[str, Any]]] = {
    "pope": [
        {
            "id": str(i),
            "question_id": str(i),
            "question": f"Is there a {what} in the image?",
            "answer": answer,
            "image_source": f"COCO_val2014_{i // 2}",
            "image": picture(i // 2),
            "category": "adversarial",
        }
        for i, (what, answer) in enumerate(
            [("dog", "yes"), ("snowboard", "no"), ("car", "No "), ("cup", "yes")]
        )
    ],
    "scienceqa": [
        {
            "image": picture(i, "L" if i else "RGB"),
            "question": "Which is longer?",
            "choices": ["a mile", "a foot", "an inch"][: 3 - i],
            "answer": 1 - i,
            "hint": "Look." if i else "",
            "task": "closed choice",
            "grade": "grade2",
            "subject": "natural science",
            "topic": "units",
            "category": "length",
            "skill": "compare",
            "lecture": "",
            "solution": "",
        }
        for i in range(2)
    ],
    "mmbench": [
        {
            "index": str(i * 1_000_000),  # the same question, its options rotated
            "question": "What is it?",
            "hint": "nan",
            "answer": "AB"[i],
            "A": ["cat", "dog"][i],
            "B": ["dog", "cat"][i],
            "C": "nan",
            "D": "nan",
            "category": "object_localization",
            "image": picture(0),
            "source": "made",
            "L2-category": "finegrained_perception",
            "comment": "nan",
            "split": "dev",
        }
        for i in range(2)
    ],
    "gqa": [
        {
            "id": str(i),
            "imageId": f"n{i % 2}",
            "question": f"Who wears coat {i}?",
            "answer": "the Man",
            "fullAnswer": "The man wears it.",
            "isBalanced": True,
            "types": {"detailed": "relS", "semantic": "rel", "structural": "query"},
        }
        for i in range(3)
    ],
    "gqa-images": [{"id": f"n{i}", "image": picture(i)} for i in range(5)],
    "textvqa": [
        {
            "image_id": "0",
            "question_id": 3,
            "question": "what brand is it?",
            "question_tokens": ["what"],
            "image": picture(0),
            "image_width": 12,
            "image_height": 8,
            "flickr_original_url": "",
            "flickr_300k_url": "",
            "answers": ["Nokia"] * 5 + ["nokia."] + ["HP"] * 3 + ["no brand"],
            "image_classes": ["phone"],
            "set_name": "val",
            "ocr_tokens": ["NOKIA"],
        }
    ],
}


def write(folder: Path, name: str, rows: list[dict[str, Any]]) -> None:
    columns = {key: [row[key] for row in rows] for key in rows[0]}
    datasets.Dataset.from_dict(columns).to_parquet(folder / f"{name}.parquet")


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("hub")
    for name, rows in ROWS.items():
        write(path, name, rows)
    return path


def load(folder: Path, name: str, limit: int = 9, seed: int | None = None) -> list[Scene]:
    return load_benchmark(name, limit, seed, folder=folder)


@pytest.mark.parametrize("name", BENCHMARKS)
def test_scenes_hold_all_questions_once(folder: Path, name: str) -> None:
    scenes = load(folder, name)
    assert sum(len(scene.questions) for scene in scenes) == len(ROWS[name])
    assert len({scene.id for scene in scenes}) == len(scenes)
    for scene in scenes:
        assert scene.image.mode == "RGB" and scene.image.size == (12, 8)
        assert scene.id.startswith(name) and scene.questions
        for q in scene.questions:
            assert q.answer in q.choices or not q.choices
            assert q.answer and q.family and q.text.endswith((".", "phrase."))


def test_pope(folder: Path) -> None:
    first, second = load(folder, "pope")
    assert first.id == "pope-COCO_val2014_0"
    assert [q.answer for scene in (first, second) for q in scene.questions] == [
        "yes", "no", "no", "yes",
    ]  # fmt: skip
    assert first.questions[0].choices == ("yes", "no")
    assert first.questions[0].family == "adversarial"
    assert first.questions[0].text.startswith("Is there a dog in the image?\n")


def test_letters(folder: Path) -> None:
    a, b = (scene.questions[0] for scene in load(folder, "scienceqa"))
    assert a.choices == ("A", "B", "C") and a.answer == "B"
    assert a.text.startswith("Which is longer?\nA. a mile\nB. a foot\nC. an inch\nAnswer")
    assert b.choices == ("A", "B") and b.answer == "A"
    assert b.text.startswith("Look.\nWhich is longer?")
    (rotated,) = load(folder, "mmbench")  # rotations share an image, so they are one cluster
    assert [q.answer for q in rotated.questions] == ["A", "B"]
    assert [q.choices for q in rotated.questions] == [("A", "B")] * 2
    assert "nan" not in rotated.questions[0].text


def test_free_text(folder: Path) -> None:
    scenes = load(folder, "gqa")
    assert [len(scene.questions) for scene in scenes] == [2, 1]
    q = scenes[0].questions[0]
    assert (q.answer, q.choices, q.family) == ("man", (), "query")
    ((reading,),) = (scene.questions for scene in load(folder, "textvqa"))
    assert reading.answer == "nokia"
    assert set(reading.accepted) == {"nokia", "hp"}  # type: ignore[attr-defined]


def test_seed_and_buffer_fix_the_order(folder: Path, tmp_path: Path) -> None:
    rows = [ROWS["pope"][0] | {"question": f"{i}?", "image_source": str(i)} for i in range(30)]
    write(tmp_path, "pope", rows)
    one, same, other = (
        [scene.id for scene in load(tmp_path, "pope", 8, seed)] for seed in (0, 0, 1)
    )
    plain = [scene.id for scene in load(tmp_path, "pope", 8)]
    assert one == same and len(one) == 8
    assert one != other and one != plain
    assert plain == [f"pope-{i}" for i in range(8)]


def test_a_question_asked_twice_counts_once(tmp_path: Path) -> None:
    other = ROWS["pope"][0] | {"category": "random"}
    write(tmp_path, "pope", [*ROWS["pope"], ROWS["pope"][0], other])
    assert [len(scene.questions) for scene in load(tmp_path, "pope")] == [3, 2]


def test_other_columns_are_named(folder: Path, tmp_path: Path) -> None:
    for name in ("pope", "gqa"):
        column = BENCHMARKS[name].columns[0]
        rows = [{("renamed" if k == column else k): v for k, v in r.items()} for r in ROWS[name]]
        write(tmp_path, name, rows)
        with pytest.raises(LofiError, match=rf"found columns .*'renamed'.* without \['{column}'\]"):
            load(tmp_path, name)
    write(tmp_path, "gqa", ROWS["gqa"])
    write(tmp_path, "gqa-images", ROWS["gqa-images"][:1])
    with pytest.raises(LofiError, match=r"no image for \['n1'\]"):
        load(tmp_path, "gqa")


def test_what_cannot_be_loaded(
    folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with pytest.raises(LofiError, match="no benchmark 'mme'"):
        load(folder, "mme")
    with pytest.raises(LofiError, match="limit=0"):
        load(folder, "pope", 0)
    with pytest.raises(LofiError, match=r"pope\.parquet.*HF_HUB_OFFLINE"):
        load(tmp_path, "pope")
    monkeypatch.setitem(sys.modules, "datasets", None)
    with pytest.raises(LofiError, match=r"pip install datasets"):
        load(folder, "pope")


@pytest.mark.parametrize("name", ["pope", "textvqa", "gqa"])
def test_evaluated_from_the_command_line(
    folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str
) -> None:
    """Choices are scored by first tokens, free text by what `generate` returns."""
    monkeypatch.setattr(command, "load_benchmark", partial(load_benchmark, folder=folder))
    options = "--pruners random fastv --budgets 0.9 --device cpu --scenes 4 --images-per-batch 2"
    command.main([str(tmp_path), "--data", name, *options.split()])
    records = read_records(tmp_path / "records.parquet")
    assert len(records) == 3 * len(ROWS[name]) and set(records.data) == {
        f"load_benchmark({name!r}, 4, seed=0)"
    }
    free = name != "pope"
    assert (records.probabilities.map(len) == (0 if free else 2)).all()
    assert records.chance.isna().all() == free and records.margin.between(0, 1).all()
    if name != "textvqa":  # that has one image, too few for an interval
        result = compare(records[records.arm == 0], records[records.arm == 1])
        assert 0 <= result.flip_rate.value <= 1
        assert np.isnan(result.jensen_shannon.value) == free
