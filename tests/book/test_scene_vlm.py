"""The shipped model, and how it is trained: packing, supervision, resuming, the card."""

import json
from pathlib import Path

import numpy as np
import pytest
import torch
from transformers import AutoModelForImageTextToText, AutoProcessor, AutoTokenizer, CLIPModel

from book.training.scene import build
from book.training.scene.card import WEIGHTS, sha256
from book.training.scene.language import IGNORE, pack
from book.training.scene.train import Recipe, pixels, schedule, train
from book.training.scene.vision import (
    CAPTION_LENGTH,
    TEXT_LENGTH,
    covered_patches,
    patch_labels,
    supervision,
    text_embeds,
)
from lofi_core import SceneVQA, ask
from lofi_core.scene_vlm import CLIP_PATH, PATH
from lofi_core.scenes.drawing import COLORS, SceneObject
from lofi_core.vlm.prompts import chat_inputs


@pytest.fixture(scope="module")
def shipped():
    model = AutoModelForImageTextToText.from_pretrained(PATH).eval()
    return model, AutoProcessor.from_pretrained(PATH)


def test_files_are_those_of_the_card() -> None:
    scores = json.loads((PATH / "scores.json").read_text())
    assert scores["sha256"] == {name: sha256(PATH / name) for name in WEIGHTS}
    card = (PATH / "README.md").read_text()
    for family, row in scores["families"].items():
        assert f"| {family} | {row['questions']:,} | {row['accuracy']:.1%} |" in card
    assert sum(f.stat().st_size for f in PATH.rglob("*") if f.is_file()) < 25e6


def test_good_enough_to_study() -> None:
    families = json.loads((PATH / "scores.json").read_text())["families"]
    overall = families.pop("all")
    assert 0.80 <= overall["accuracy"] <= 0.97
    assert all(row["accuracy"] >= row["chance"] + 0.20 for row in families.values())
    assert overall["unsure"] > 0.02


def test_measured_accuracy_is_that_of_the_card(shipped) -> None:
    """On other scenes of the same kind, within six standard errors of a scene's mean."""
    model, processor = shipped
    data = SceneVQA("validation")
    records = ask(model, processor, [data[i] for i in range(40)])
    expected = json.loads((PATH / "scores.json").read_text())["families"]["all"]["accuracy"]
    by_scene = records.groupby("scene").right.mean()
    assert abs(by_scene.mean() - expected) < 6 * max(by_scene.std(), 0.05) / np.sqrt(len(by_scene))


def test_tower_is_that_of_the_clip(shipped) -> None:
    model, _ = shipped
    clip = CLIPModel.from_pretrained(CLIP_PATH)
    tower = model.model.vision_tower.state_dict()
    for name, weight in clip.vision_model.state_dict().items():
        assert torch.equal(weight, tower[name]), name


def test_clip_knows_which_caption_belongs_to_which_image() -> None:
    clip, tok = (
        CLIPModel.from_pretrained(CLIP_PATH).eval(),
        AutoTokenizer.from_pretrained(CLIP_PATH),
    )
    scenes = [SceneVQA("validation")[i] for i in range(32)]
    pixels = build.image_processor()([s.image for s in scenes], return_tensors="pt")
    text = tok([s.caption for s in scenes], padding=True, return_tensors="pt", padding_side="right")
    with torch.no_grad():
        logits = clip(**pixels, input_ids=text["input_ids"], attention_mask=text["attention_mask"])
    found = logits.logits_per_image.argmax(1) == torch.arange(32)
    assert found.float().mean() > 0.5  # one in 32 by chance


@pytest.mark.parametrize("attention", ["sdpa", "eager"])
def test_packed_questions_are_answered_as_if_alone(shipped, attention: str) -> None:
    model, processor = shipped
    model.set_attn_implementation(attention)
    scenes = [SceneVQA("validation")[i] for i in range(2)]
    ids, positions, labels, mask = pack([s.questions for s in scenes], 144)
    images = processor.image_processor([s.image for s in scenes], return_tensors="pt")
    with torch.no_grad():
        packed = model(
            input_ids=ids,
            pixel_values=images["pixel_values"],
            attention_mask=mask,
            position_ids=positions,
            use_cache=False,
        ).logits
        asked = [(s.image, q.text) for s in scenes for q in s.questions]
        alone = model(**chat_inputs(processor, asked)).logits[:, -1]
    answers = (labels != IGNORE) & (labels != model.config.eos_token_id)
    torch.testing.assert_close(packed[answers], alone, atol=1e-4, rtol=0)


def test_a_training_image_is_what_the_processor_makes(shipped) -> None:
    _, processor = shipped
    image = SceneVQA("train")[0].image
    theirs = processor.image_processor(image, return_tensors="pt")["pixel_values"]
    ours = pixels(np.asarray(image)[None], torch.tensor([0]), torch.device("cpu"))
    torch.testing.assert_close(ours, theirs, atol=1e-6, rtol=0)


def test_no_word_of_the_data_is_unknown() -> None:
    tok, data = build.tokenizer(), SceneVQA("train")
    for i in range(300):
        objects, questions = data.describe(i)
        words = [q.text + " " + q.answer for q in questions] + [o.phrase for o in objects]
        assert all(tok.unk_token_id not in ids for ids in tok(words)["input_ids"])


def test_texts_fit() -> None:
    """Captions and questions end in ``</s>``, so none was cut."""
    targets = supervision(SceneVQA("train"), 200)
    end = build.vocabulary()["</s>"]
    assert targets["captions"].shape[-1] == CAPTION_LENGTH
    assert targets["texts"].shape[-1] == TEXT_LENGTH
    for ids in (targets["captions"], targets["texts"].flatten(0, 1)):
        assert ((ids == end).sum(-1) == 1).all()


def test_patches_of_a_known_object() -> None:
    o = SceneObject("digit", "blue", "large", x=42, y=54, digit=7)  # centre of row 4, column 3
    where = np.zeros((12, 12), bool)
    where[3:6, 2:5] = True  # 30 pixels: a patch, and 9 of 12 pixels of each neighbour
    assert (covered_patches(o) == where).all()
    labels = patch_labels([o]).reshape(12, 12, 7)
    assert (labels[where][:, :4] == [5, list(COLORS).index("blue"), 1, 7]).all()
    assert (labels[~where][:, [0, 1, 2, 3, 5, 6]] == -100).all()
    assert labels[4, 3, 4] == 1 and labels[..., 4].sum() == 1


def test_padding_does_not_change_a_text() -> None:
    clip, tok = build.clip().eval(), build.tokenizer(end=True)
    kwargs = {"return_tensors": "pt", "padding": "max_length", "padding_side": "right"}
    short, long = (tok("red circle", max_length=n, **kwargs)["input_ids"] for n in (4, 16))
    with torch.no_grad():
        torch.testing.assert_close(text_embeds(clip, short), text_embeds(clip, long))


def test_the_plateau_does_not_depend_on_the_length() -> None:
    assert schedule(500, 1000) == schedule(500, 4000) == 1.0
    assert schedule(0, 1000) == pytest.approx(1 / 150)
    assert schedule(999, 1000) == pytest.approx(1 / 250)


@pytest.mark.slow
def test_training_resumes_to_the_same_weights(tmp_path: Path) -> None:
    """A few steps of all stages: once in one go, once with the last stage lost and done again."""
    recipe = Recipe(
        scenes=8,
        vision_steps=2,
        vision_batch=4,
        language_steps=2,
        relation_steps=1,
        language_batch=2,
        seed=5,
    )
    train(recipe, tmp_path / "a", tmp_path / "a/model", torch.device("cpu"))
    (tmp_path / "a/relations.pt").unlink()
    train(recipe, tmp_path / "a", tmp_path / "again", torch.device("cpu"))
    weights = ["a/model/model.safetensors", "again/model.safetensors"]
    assert sha256(tmp_path / weights[0]) == sha256(tmp_path / weights[1])
    rows = [json.loads(line) for line in (tmp_path / "a/log.jsonl").read_text().splitlines()]
    assert {row["stage"] for row in rows} == {"vision", "language", "relations"}
    assert all(np.isfinite(row["loss"]) for row in rows)
    AutoModelForImageTextToText.from_pretrained(tmp_path / "a/model")
