"""Serving under a policy: each row's answer is that of its pass, and the report counts them all."""

from dataclasses import replace
from typing import Any

import pytest
import torch
from policies import PRUNERS, policy_for, said
from tiny import FAMILIES
from torch import Tensor

from lofi_core import prune_inputs
from lofi_core.errors import LofiError
from lofi_core.guarantee import Monitor, Served
from lofi_core.guarantee.confidence import reply, residual_leverage
from lofi_core.leverage import ridge_leverage_scores
from lofi_core.pruners import Random


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
    threshold = (min(values) + max(values)) / 2  # between the two images
    report = Served()
    policy = policy_for(*vlm, PRUNERS[:1], threshold, confidence="ipr")
    policy.generate(*vlm, inputs, choices=choices, report=report)
    stayed = sum(value >= threshold for value in values)
    assert stayed == 7 and report.stayed == [7]
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


class Words:
    """A processor of tiny models: token 7 reads "7"."""

    chat_template = ""

    def __init__(self) -> None:
        self.tokenizer = self

    def to_dict(self) -> dict[str, Any]:
        return {}

    def get_vocab(self) -> dict[str, int]:
        return {"0": 0}

    def decode(self, ids: list[int], skip_special_tokens: bool) -> str:
        return " ".join(map(str, ids))


@torch.no_grad()
def generated(model: Any, inputs: Any, longest: int) -> Tensor:
    out = model.generate(**inputs, max_new_tokens=longest, do_sample=False)
    return out[:, inputs["input_ids"].shape[1] :]


@pytest.mark.parametrize("family", FAMILIES)
def test_every_family_with_several_images_and_padding(family: str) -> None:
    kinds = FAMILIES[family].kinds
    other = "b" if "b" in kinds else "a"
    rows = [[3, "a", 4], [5, "a", 2, other, 6], [4], [2, other, 3], [6, "a", 2, "a", 1]]
    if "v" in kinds:
        rows += [[3, "v", 4], [3, "v", 2, "a", 4]]
    model, inputs = FAMILIES[family].model(), FAMILIES[family].inputs(rows)
    processor, pruner, longest = Words(), Random(keep=0.4), 4
    full = generated(model, inputs, longest)
    half = generated(model, prune_inputs(model, inputs, pruner), longest)
    pruned = prune_inputs(model, inputs, pruner)
    margins = [row.margin for row in reply(model, processor, pruned, None, longest)]
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
