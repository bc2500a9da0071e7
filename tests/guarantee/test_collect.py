"""Calibration from a model: what is asked, for closed answers and for free text."""

from dataclasses import replace
from typing import Any

import pytest
import torch
from policies import PRUNERS

from lofi_core import SceneVQA, ask
from lofi_core.errors import LofiError
from lofi_core.evaluation.questions import Question
from lofi_core.guarantee import calibrate, safely
from lofi_core.guarantee.collect import collect
from lofi_core.pruners import FastV
from lofi_core.vlm.prompts import chat_inputs


def test_calibration_from_a_model(vlm: Any) -> None:
    data = SceneVQA("validation", 0)
    scenes = [data[i] for i in range(10)]
    policy = calibrate((*vlm, scenes), ["deflated-lofi"], [0.33], alpha=0.5)
    assert policy.images == 10 and policy.answers == "closed" and policy.longest == 1
    policy.check(*vlm)
    with pytest.raises(LofiError, match="act inside the language model"):
        calibrate((*vlm, scenes), [FastV(keep=0.5)], [0.5], alpha=0.3)
    with pytest.raises(LofiError, match="at least one question"):
        calibrate((*vlm, []), ["lofi"], [0.5], alpha=0.3)


def test_what_is_collected_is_what_ask_finds(vlm: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("lofi_core.guarantee.collect.IMAGES", 2)
    data = SceneVQA("validation", 0)
    scenes = [data[i] for i in range(3)]  # two batches
    table = collect(*vlm, scenes, [PRUNERS[0]])
    for arm, pruner in enumerate((None, PRUNERS[0])):
        expected = ask(*vlm, scenes, pruner)
        mine = table[table["arm"] == arm].sort_values(["image", "number"])
        assert mine["predicted"].tolist() == expected["predicted"].tolist()
        assert mine["right"].tolist() == expected["right"].tolist()
        top = [sorted(p)[-1] - sorted(p)[-2] for p in expected["probabilities"]]
        assert mine["margin"].tolist() == pytest.approx(top, abs=1e-4)
        assert mine["tokens"].tolist() == expected["tokens"].tolist()


def test_free_text(vlm: Any) -> None:
    model, processor = vlm
    data = SceneVQA("validation", 0)

    def opened(i: int) -> Any:
        questions = [Question(q.family, q.text, q.answer) for q in data[i].questions]
        return replace(data[i], questions=tuple(questions))

    scenes = [opened(i) for i in range(10)]
    policy = calibrate((*vlm, scenes), ["deflated-lofi"], [0.33], alpha=0.5, longest=3)
    assert policy.answers == "free" and policy.longest == 3
    inputs = chat_inputs(processor, [(data[30].image, q.text) for q in data[30].questions])
    with safely(model, processor, policy) as report:
        out = model.generate(**inputs, max_new_tokens=3)
    plain = model.generate(**inputs, max_new_tokens=3, do_sample=False)
    length = inputs["input_ids"].shape[1]
    assert out.shape[1] <= length + 3 and report.rows == 7
    if report.again == 7:
        assert torch.equal(out, plain)
    mixed = [*scenes, data[25]]
    with pytest.raises(LofiError, match="one kind"):
        calibrate((*vlm, mixed), ["deflated-lofi"], [0.33], alpha=0.3)
