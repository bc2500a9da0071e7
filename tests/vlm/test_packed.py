"""Questions packed behind one image get the answers that each would get alone."""

from typing import Any

import pytest
import torch
from tiny import FAMILIES

from lofi_core.evaluation.arms import UNPRUNED, Arm, Condition
from lofi_core.evaluation.asking import ask_arms
from lofi_core.evaluation.questions import spellings
from lofi_core.evaluation.replies import judge
from lofi_core.pruners import AveragePool, DeflatedLoFi, LoFi, PruMerge, Pruner, Random
from lofi_core.scene_vlm import load
from lofi_core.scenes.vqa import SceneVQA
from lofi_core.vlm.encoding import encode_inputs
from lofi_core.vlm.packing import NotPackable, Packed, pack
from lofi_core.vlm.prompts import chat_inputs

SCENES = [SceneVQA("validation")[i] for i in range(3)]
ROWS = [i for i in range(3) for _ in range(7)]
ARMS = [
    UNPRUNED,
    Random(keep=0.11),
    LoFi(keep=0.5),
    AveragePool(keep=0.25),
    DeflatedLoFi(keep=0.05, merge=True),
    PruMerge(),  # as many tokens as the image asks for
]


def packed(model: Any, processor: Any) -> Packed:
    alone = chat_inputs(processor, [(s.image, s.questions[0].text) for s in SCENES])
    inputs = chat_inputs(processor, [(s.image, q.text) for s in SCENES for q in s.questions])
    needs = sorted({name for arm in ARMS for name in arm.needs} - {"project"})
    return pack(encode_inputs(model, alone, needs), inputs, ROWS)


@pytest.fixture(scope="module")
def loaded() -> tuple[Any, Any]:
    return load()


@pytest.mark.parametrize("attention", ["sdpa", "eager"])
def test_each_answer_is_that_of_the_question_alone(loaded: Any, attention: str) -> None:
    model, processor = loaded
    tokenizer = processor.tokenizer
    apart = [Arm(pruner=pruner, condition=Condition(packed=False)) for pruner in ARMS]
    rows = ask_arms(model, processor, SCENES, apart)
    model.set_attn_implementation(attention)
    try:
        together = packed(model, processor)
        for number, arm in enumerate(ARMS):
            mine = [row for row in rows if row["arm"] == number]
            output = together.run(arm)
            asked = [q for scene in SCENES for q in scene.questions]
            for row, logits, q in zip(mine, output.logits, asked, strict=True):
                p = judge(tokenizer, q, spellings(tokenizer, q), logits, "")["probabilities"]
                assert p == pytest.approx(row["probabilities"], abs=2e-5)
                assert tokenizer.decode(int(logits.argmax())).strip() == row["predicted"]
            counts = [image.tokens_after for image in output.report.images]
            assert [counts[i] for i in ROWS] == [row["tokens"] for row in mine]
    finally:
        model.set_attn_implementation("sdpa")


def test_hidden_states_are_those_of_the_question_alone(loaded: Any) -> None:
    model, processor = loaded
    output = packed(model, processor).run(UNPRUNED, hidden=True)
    last = SCENES[2].questions[6]
    inputs = chat_inputs(processor, [(SCENES[2].image, last.text)])
    with torch.no_grad():
        alone = model(**inputs, output_hidden_states=True).hidden_states
    visual = inputs["input_ids"][0] == model.config.image_token_id
    words = int(visual.nonzero()[-1]) + 1
    for together, single in zip(output.hidden, alone, strict=True):
        close = {"atol": 1e-4, "rtol": 1e-4}
        torch.testing.assert_close(together[2, output.visual[2]], single[0, visual], **close)
        torch.testing.assert_close(together[2, output.question[2] == 7], single[0, words:], **close)


def test_what_cannot_be_packed_is_refused(loaded: Any) -> None:
    model, processor = loaded
    alone = chat_inputs(processor, [(SCENES[0].image, "?")])
    encoded = encode_inputs(model, alone)
    inputs = dict(alone)
    inputs["input_ids"] = alone["input_ids"].repeat(2, 1)
    inputs["attention_mask"] = alone["attention_mask"].repeat(2, 1)
    inputs["input_ids"][1, 1] += 1  # text before the image
    with pytest.raises(NotPackable, match="differ before its end"):
        pack(encoded, inputs, [0, 0])
    tiny = FAMILIES["qwen2_5_vl"]
    other = tiny.model()
    given = tiny.inputs([[3, "a", 4]])
    with pytest.raises(NotPackable, match="ask one question per row"):
        pack(encode_inputs(other, given), given, [0])


def test_decoders_that_do_not_look_at_everything(loaded: Any) -> None:
    model, processor = loaded
    alone = chat_inputs(processor, [(SCENES[0].image, "?")])
    text = model.config.get_text_config()
    for name, value in (("sliding_window", 8), ("layer_types", ["sliding_attention"])):
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(text, name, value, raising=False)
            with pytest.raises(NotPackable, match="expected full attention"):
                pack(encode_inputs(model, alone), alone, [0])


def test_choices_are_made_once_an_image(loaded: Any) -> None:
    seen: list[int] = []

    class Counting(Random):
        def scores(self, tokens: Any) -> torch.Tensor:
            seen.append(len(tokens.projected))
            return super().scores(tokens)

    counting: Pruner = Counting(keep=0.5)
    packed(*loaded).run(counting)
    assert seen == [3]
