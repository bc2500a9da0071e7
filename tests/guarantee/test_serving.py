"""Serving under a policy: each row's answer is that of its pass, and the report counts them all."""

from collections.abc import Iterator
from dataclasses import replace
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from tiny import FAMILIES
from torch import Tensor
from transformers import TextStreamer

from lofi_core import SceneVQA, ask, prune_inputs, pruning, scene_vlm
from lofi_core.errors import LofiError
from lofi_core.evaluation.answers import chat_inputs
from lofi_core.evaluation.replies import OpenQuestion
from lofi_core.guarantee import Monitor, Policy, Served, calibrate, safely
from lofi_core.guarantee import provenance as sources
from lofi_core.guarantee.confidence import reply, residual_leverage
from lofi_core.guarantee.policy import describe_pruner
from lofi_core.leverage import ridge_leverage_scores
from lofi_core.pruners import DeflatedLoFi, FastV, Pruner, Random

PRUNERS = [DeflatedLoFi(keep=0.11), DeflatedLoFi(keep=0.33)]


def policy_for(
    model: Any, processor: Any, pruners: list[Pruner], threshold: float, **changes: Any
) -> Policy:
    facts = sources.of_model(model) | {"processor": sources.of_processor(processor)}
    numbers = {"coverage": 1.0, "cost": 1.0, "risk": 0.0, "risk_upper": 0.1}
    fields = {
        **{"confidence": "margin", "answers": "closed", "longest": 1, "alpha": 0.1, "delta": 0.05},
        **{"loss": "changed", "bound": "betting", "images": 100, "questions": 700, **numbers},
    }
    described = tuple(describe_pruner(pruner) for pruner in pruners)
    return Policy(described, threshold, **fields | {"provenance": facts} | changes)


@pytest.fixture(scope="module")
def vlm() -> tuple[Any, Any]:
    return scene_vlm.load()


@pytest.fixture(scope="module")
def batch(vlm: tuple[Any, Any]) -> tuple[Any, list[tuple[str, ...]]]:
    """Two images with seven questions each."""
    data = SceneVQA("test", 0)
    asked = [(data[i].image, q) for i in range(2) for q in data[i].questions]
    inputs = chat_inputs(vlm[1], [(image, q.text) for image, q in asked])
    return inputs, [q.choices for _, q in asked]


@pytest.fixture(scope="module")
def passes(vlm: tuple[Any, Any], batch: Any) -> list[Any]:
    """What each pass alone answers, the last one with all tokens."""
    return [said(vlm, *batch, pruner) for pruner in (*PRUNERS, None)]


def said(vlm: tuple[Any, Any], inputs: Any, choices: Any, pruner: Pruner | None) -> Any:
    """What the model answers in one pass over the whole batch."""
    with torch.inference_mode():
        if pruner is not None:
            inputs = prune_inputs(vlm[0], inputs, pruner)
        return reply(vlm[0], vlm[1].tokenizer, inputs, choices, 1)


def test_each_row_is_answered_by_the_first_pass_that_is_sure(
    vlm: Any, batch: Any, passes: list[Any]
) -> None:
    inputs, choices = batch
    threshold = 0.9
    level = [
        next((k for k, rows in enumerate(passes[:2]) if rows[b].margin >= threshold), 2)
        for b in range(len(choices))
    ]
    assert set(level) == {0, 1, 2}  # every pass answers something
    report, seen = Served(), []
    handle = vlm[0].base_model.vision_tower.register_forward_hook(lambda *_: seen.append(1))
    policy = policy_for(*vlm, PRUNERS, threshold)
    given = policy.generate(*vlm, inputs, choices=choices, report=report)
    handle.remove()
    assert len(seen) == 1  # images are encoded once
    for b, (row, k) in enumerate(zip(given, level, strict=True)):
        assert row.text == passes[k][b].text
        assert row.margin == pytest.approx(passes[k][b].margin, abs=1e-4)
    assert report.stayed == [level.count(0), level.count(1)] and report.again == level.count(2)
    asked = [len(level), len(level) - level.count(0), level.count(2)]
    assert report.passes == sum(asked)
    assert report.tokens == sum(n * m for n, m in zip(asked, (16, 48, 144), strict=True))
    assert report.tokens_before == 144 * len(level)
    assert report.coverage == 1 - report.again / report.rows
    assert all(report.seconds[name] > 0 for name in ("encoding", "selection", "pruned", "all"))
    assert report.time is not None and "14 answers" in str(report)


@pytest.mark.parametrize(("threshold", "pruned"), [(0.0, True), (1.1, False)])
def test_all_or_nothing(
    vlm: Any, batch: Any, passes: list[Any], threshold: float, pruned: bool
) -> None:
    inputs, choices = batch
    expected = passes[0 if pruned else 2]
    policy = policy_for(*vlm, PRUNERS[:1], threshold)
    given = policy.generate(*vlm, inputs, choices=choices)
    assert [row.text for row in given] == [row.text for row in expected]


def test_pre_pass_signals_route_before_the_language_model(vlm: Any, batch: Any) -> None:
    inputs, choices = batch
    images = prune_inputs(vlm[0], inputs, PRUNERS[0]).report.images
    values = [1 / (1 + abs(image.ipr_after / image.ipr_before - 1)) for image in images]
    threshold = sorted(values)[6]
    report = Served()
    policy = policy_for(*vlm, PRUNERS[:1], threshold, confidence="ipr")
    policy.generate(*vlm, inputs, choices=choices, report=report)
    stayed = sum(value >= threshold for value in values)
    assert 0 < stayed < 14 and report.stayed == [stayed]
    assert report.tokens == 16 * stayed + 144 * (14 - stayed)
    assert report.passes == 14


def test_residual_leverage_by_its_definition() -> None:
    X = torch.randn(30, 8, generator=torch.Generator().manual_seed(0))
    kept = torch.tensor([2, 7, 20])
    Y = (X - X.mean(0)).double()
    lam = Y.square().sum() / 8
    K = Y @ Y.T @ torch.linalg.inv(Y @ Y.T + lam * torch.eye(30, dtype=torch.double))
    own = K.diagonal().clone()
    for S in kept:  # one step of Gaussian elimination after the other
        K = K - K[:, S, None] * K[None, S] / K[S, S]
    assert residual_leverage(X, kept) == pytest.approx(float(K.diagonal().max()), abs=1e-6)
    none = residual_leverage(X, torch.tensor([], dtype=torch.int64))
    assert none == pytest.approx(float(own.max()), abs=1e-6)
    assert own.float() == pytest.approx(ridge_leverage_scores(X, 1.0, True, True), abs=1e-5)
    assert residual_leverage(torch.ones(4, 3), torch.tensor([0])) == 0


def test_a_monitor_repeats_pruned_answers_with_all_tokens(
    vlm: Any, batch: Any, passes: list[Any]
) -> None:
    inputs, choices = batch
    pruner = Random(keep=0.05)
    full, pruned = passes[2], said(vlm, inputs, choices, pruner)
    sure = [row.margin >= 0.5 for row in pruned]
    flips = [a.text != b.text and s for a, b, s in zip(full, pruned, sure, strict=True)]
    assert sum(flips) > 0 and not all(sure)
    monitor, report = Monitor(0.1, share=1 - 1e-9), Served()
    units = [b // 7 for b in range(14)]
    policy = policy_for(*vlm, [pruner], 0.5)
    options = {"choices": choices, "report": report, "monitor": monitor}
    policy.generate(*vlm, inputs, **options)
    assert (monitor.drawn, monitor.total) == (14, sum(flips))
    assert report.audited == sum(sure) and report.audit_tokens == 144 * sum(sure)
    monitor = Monitor(0.1, share=1 - 1e-9)
    policy.generate(*vlm, inputs, choices=choices, monitor=monitor, units=units)
    assert monitor.drawn == 2 and monitor.total == pytest.approx(sum(flips) / 7)
    with pytest.raises(LofiError, match="loss='broken'"):
        Monitor.of(replace(policy, loss="broken"))


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


def test_what_is_collected_is_what_ask_finds(vlm: Any) -> None:
    from lofi_core.guarantee.collect import collect

    data = SceneVQA("validation", 0)
    scenes = [data[i] for i in range(9)]  # more than one batch
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
        questions = [OpenQuestion(q.family, q.text, q.answer, (), ()) for q in data[i].questions]
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


class Words:
    """A processor of tiny models: token 7 reads "7"."""

    chat_template = ""

    def __init__(self) -> None:
        self.tokenizer = SimpleNamespace(
            get_vocab=lambda: {"0": 0},
            decode=lambda ids, skip_special_tokens: " ".join(map(str, ids)),
        )

    def to_dict(self) -> dict[str, Any]:
        return {}


@pytest.fixture
def no_grad() -> Iterator[None]:
    with torch.no_grad():
        yield


def generated(model: Any, inputs: Any, longest: int) -> Tensor:
    out = model.generate(**inputs, max_new_tokens=longest, do_sample=False)
    return out[:, inputs["input_ids"].shape[1] :]


@pytest.mark.parametrize("family", FAMILIES)
def test_every_family_with_several_images_and_padding(family: str, no_grad: None) -> None:
    kinds = FAMILIES[family].kinds
    other = "b" if "b" in kinds else "a"
    rows = [[3, "a", 4], [5, "a", 2, other, 6], [4], [2, other, 3], [6, "a", 2, "a", 1]]
    if "v" in kinds:
        rows += [[3, "v", 4], [3, "v", 2, "a", 4]]
    model, inputs = FAMILIES[family].model(), FAMILIES[family].inputs(rows)
    processor, pruner, longest = Words(), Random(keep=0.4), 4
    full = generated(model, inputs, longest)
    half = generated(model, prune_inputs(model, inputs, pruner), longest)
    margins = [
        row.margin
        for row in reply(
            model, processor.tokenizer, prune_inputs(model, inputs, pruner), None, longest
        )
    ]
    threshold = sorted(margins)[len(rows) // 2]
    options = {"answers": "free", "longest": longest}
    policy = policy_for(model, processor, [pruner], threshold, **options)
    report = Served()
    given = policy.generate(model, processor, inputs, report=report)
    stays = [m >= threshold or b == 2 for b, m in enumerate(margins)]  # row 2 has no image
    assert 0 < sum(stays) < len(rows)
    for b, row in enumerate(given):
        expected = half[b] if stays[b] else full[b]
        assert list(row.tokens) == expected.tolist(), b
        assert row.cut_off
    assert report.again == len(rows) - sum(stays) and report.cut_off == len(rows)
