"""A processor that cuts images into crops, all the way from a question to its record."""

from typing import Any

import pandas as pd
import pytest
import torch
import transformers as hf
from tiny import TEXT, VISION
from tokenizers import Tokenizer, models, pre_tokenizers

from lofi_core import LoFi, SceneVQA, prune_inputs
from lofi_core.evaluation.arms import UNPRUNED
from lofi_core.evaluation.asking import ask_arms
from lofi_core.evaluation.questions import Question, Scene
from lofi_core.pruners import Random
from lofi_core.vlm.overlay import kept_masks, seen
from lofi_core.vlm.prompts import chat_inputs

SPECIAL = ["<pad>", "<s>", "</s>", "<unk>", "<image>", "<fake_token_around_image>"]
SPECIAL += ["<global-img>", "<end_of_utterance>"]
SPECIAL += [f"<row_{r}_col_{c}>" for r in (1, 2) for c in (1, 2)]
WORDS = "Is there a red shape ? what is it yes no left right"
TEMPLATE = (
    "{% for m in messages %}{% for c in m['content'] %}"
    "{% if c['type'] == 'image' %}<image>{% else %}{{ c['text'] }}{% endif %}"
    "{% endfor %}{% endfor %}"
)


@pytest.fixture(scope="module")
def loaded() -> tuple[Any, Any]:
    """A small Idefics3 and its real processor: crops of 48 x 48, 36 tokens each."""
    words = [*SPECIAL, *WORDS.split()]
    vocabulary = {word: i for i, word in enumerate(dict.fromkeys(words))}
    core = Tokenizer(models.WordLevel(vocabulary, unk_token="<unk>"))
    core.pre_tokenizer = pre_tokenizers.Whitespace()
    names = {"pad_token": "<pad>", "eos_token": "</s>", "unk_token": "<unk>"}
    tokenizer = hf.PreTrainedTokenizerFast(
        tokenizer_object=core, additional_special_tokens=SPECIAL[4:], **names
    )
    sizes = {"size": {"longest_edge": 96}, "max_image_size": {"longest_edge": 48}}
    images = hf.Idefics3ImageProcessor(**sizes)
    processor = hf.Idefics3Processor(images, tokenizer, image_seq_len=36, chat_template=TEMPLATE)
    image = vocabulary["<image>"]
    config = hf.Idefics3Config(
        vision_config=VISION | {"image_size": 48},
        text_config=hf.LlamaConfig(**TEXT | {"vocab_size": len(vocabulary)}),
        image_token_id=image,
        pad_token_id=0,
    )
    model = hf.AutoModelForImageTextToText.from_config(config).eval()
    g = torch.Generator().manual_seed(0)
    for parameter in model.parameters():
        if parameter.ndim > 1:
            fan_in = parameter[0].numel()
            parameter.data = torch.randn(parameter.shape, generator=g) * (1.5 / fan_in**0.5)
    return model, processor


def scenes(choices: tuple[str, ...]) -> list[Scene]:
    """A square image of four crops and a wide one of two, each with two questions."""
    texts = ("Is there a red shape ?", "what is it ?")
    questions = tuple(Question(f"f{i}", text, "yes", choices) for i, text in enumerate(texts))
    square, other = SceneVQA("validation")[0].image, SceneVQA("validation")[1].image
    wide = other.crop((0, 0, 144, 72))
    return [Scene("square", square, questions), Scene("wide", wide, questions)]


ARMS = [UNPRUNED, LoFi(keep=0.5), Random(keep=0.25)]


@pytest.mark.parametrize("choices", [("yes", "no"), ()])
def test_images_asked_together_and_alone(loaded: tuple[Any, Any], choices: tuple[str, ...]) -> None:
    data = scenes(choices)
    together = pd.DataFrame(ask_arms(*loaded, data, ARMS))
    alone = pd.DataFrame([row for scene in data for row in ask_arms(*loaded, [scene], ARMS)])
    keys = ["arm", "scene", "family"]
    a, b = (table.sort_values(keys).reset_index() for table in (together, alone))
    assert a.predicted.equals(b.predicted)
    for p, q in zip(a.probabilities, b.probabilities, strict=True):
        assert p == pytest.approx(q, abs=1e-5) and len(p) == len(choices)
    crops = a.scene.map({"square": 5, "wide": 3})
    assert (a.tokens_before == 36 * crops).all()
    assert (a.tokens == crops * a.arm.map({0: 36, 1: 18, 2: 9})).all()
    assert (a.kept.map(len) == crops).all()


def test_crops_make_a_picture(loaded: tuple[Any, Any]) -> None:
    model, processor = loaded
    picture = scenes(("yes", "no"))[1].image
    assert seen(processor, picture) is picture
    inputs = chat_inputs(processor, [(picture, "what is it ?")])
    report = prune_inputs(model, inputs, LoFi(keep=0.25)).report
    overview, together = kept_masks(report.images, aspect=picture.width / picture.height)
    assert overview.shape == (6, 6) and together.shape == (6, 12)
    assert int(overview.sum()) == 9 and int(together.sum()) == 18
