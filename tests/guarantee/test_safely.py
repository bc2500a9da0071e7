"""The context manager, and what is refused: other models, other ways to generate, bad batches."""

from dataclasses import replace
from typing import Any

import pytest
import torch
from policies import PRUNERS, policy_for
from transformers import TextStreamer

from lofi_core import pruning, scene_vlm
from lofi_core.errors import LofiError
from lofi_core.guarantee import safely


def test_safely_gives_back_prompts_and_answers(vlm: Any, batch: Any) -> None:
    model, processor = vlm
    inputs, choices = batch
    policy = policy_for(model, processor, PRUNERS[:1], 0.9)
    given = policy.generate(model, processor, inputs, choices=choices)
    with safely(model, processor, policy) as report:
        out = model.generate(**inputs, choices=choices)
        again = model.generate(inputs["input_ids"], choices=choices, **_rest(inputs))
    length = inputs["input_ids"].shape[1]
    assert torch.equal(out[:, :length], inputs["input_ids"]) and torch.equal(out, again)
    words = processor.tokenizer.batch_decode(out[:, length:])
    assert [word.strip() for word in words] == [row.text for row in given]
    assert report.rows == 28 and "generate" not in vars(model)


def _rest(inputs: Any) -> dict[str, Any]:
    return {name: value for name, value in inputs.items() if name != "input_ids"}


def test_safely_refuses_what_was_not_certified(vlm: Any, batch: Any) -> None:
    model, processor = vlm
    inputs, choices = batch
    policy = policy_for(model, processor, PRUNERS[:1], 0.9)
    refused = {
        "streamer": TextStreamer(processor.tokenizer),
        "do_sample": True,
        "num_beams": 2,
        "num_return_sequences": 2,
        "return_dict_in_generate": True,
    }
    with safely(model, processor, policy):
        for name, value in refused.items():
            with pytest.raises(LofiError, match=rf"generate\({name}="):
                model.generate(**inputs, choices=choices, **{name: value})
        with pytest.raises(LofiError, match="max_new_tokens=5; expected at most 1"):
            model.generate(**inputs, choices=choices, max_new_tokens=5)
        with pytest.raises(LofiError, match="already pruned"), safely(model, processor, policy):
            pass
    with (
        pruning(model, PRUNERS[0]),
        pytest.raises(LofiError, match="already pruned"),
        safely(model, processor, policy),
    ):
        pass
    with pytest.raises(RuntimeError, match="stop"), safely(model, processor, policy):
        raise RuntimeError("stop")
    assert "generate" not in vars(model)


def test_generate_refuses_what_it_cannot_answer(vlm: Any, batch: Any) -> None:
    inputs, choices = batch
    policy = policy_for(*vlm, PRUNERS[:1], 0.9)
    with pytest.raises(LofiError, match="14 rows and no choices"):
        policy.generate(*vlm, inputs)
    with pytest.raises(LofiError, match="14 rows and 3 choices"):
        policy.generate(*vlm, inputs, choices=choices[:3])
    with pytest.raises(LofiError, match="a policy for free answers"):
        replace(policy, answers="free").generate(*vlm, inputs, choices=choices)
    right = dict(inputs) | {"attention_mask": inputs["attention_mask"].flip(1)}
    assert not right["attention_mask"][:, -1].all()
    with pytest.raises(LofiError, match="padded on the right"):
        policy.generate(*vlm, right, choices=choices)


def test_another_model_dtype_or_processor_is_refused(vlm: Any) -> None:
    model, processor = vlm
    policy = policy_for(model, processor, PRUNERS[:1], 0.9)
    other, its = scene_vlm.load()
    policy.check(other, its)
    with pytest.raises(LofiError, match="'dtype'"):
        policy.check(other.bfloat16(), its)
    changed, _ = scene_vlm.load()
    with torch.no_grad():
        next(changed.parameters()).view(-1)[0] += 1e-3
    with pytest.raises(LofiError, match="'weights'"):
        policy.check(changed, its)
    its.image_processor.image_mean = [0.4, 0.5, 0.5]
    with pytest.raises(LofiError, match="'processor'"):
        policy.check(model, its)
    its = scene_vlm.load()[1]
    its.chat_template += " "
    with pytest.raises(LofiError, match="'processor'"):
        policy.check(model, its)
    unknown = {k: v for k, v in policy.provenance.items() if k != "processor"}
    with pytest.raises(LofiError, match="does not say for which"):
        replace(policy, provenance=unknown).check(model, processor)
