"""Quantities that need no run: identities and counts.

They have no sampling error: both limits are the value. A model is asked only where the claim is
about one. In the world "fault" a fault is planted, which the test of the claim has to find.
"""

import json
from functools import cache
from pathlib import Path
from typing import Any

import torch

from book.ledger.evidence import Evidence
from book.ledger.quantities import Quantity, metric
from lofi_core import LoFi, SceneVQA, ipr, leverage_scores, prune_inputs, scene_vlm, spectrum
from lofi_core.pruners import Random
from lofi_core.vlm.prompts import chat_inputs

__all__ = ["CAPABILITIES", "number"]

RESULTS = Path(__file__).parents[1] / "results"
CAPABILITIES = RESULTS / "capabilities.json"
SHAPES = ((5, 3), (16, 64), (64, 16), (144, 128), (128, 144))


def number(value: float, n: int, unit: str, what: str, **made_by: Any) -> Quantity:
    """Return a quantity without sampling error."""
    run: dict[str, Any] = {"model": "none", "dtype": "float64", "device": "cpu"} | made_by
    return Quantity(value, value, value, n, 0, unit, what, **run)


def _fault(e: Evidence | None) -> int:
    """1 where a fault is to be planted, else 0; identities need no evidence."""
    return int(e is not None and "fault" in e.worlds)


def _matrices() -> list[torch.Tensor]:
    """Random matrices; half of them badly conditioned, with singular values down to 1e-8."""
    generator = torch.Generator().manual_seed(0)
    found = []
    for N, D in SHAPES:
        X = torch.randn(N, D, generator=generator, dtype=torch.float64)
        U, _, Vh = torch.linalg.svd(X, full_matrices=False)
        s = torch.logspace(0, -8, min(N, D), dtype=torch.float64)
        found += [X, U * s @ Vh]
    return found


@metric("ipr.identity_error")
def _identity(e: Evidence) -> Quantity:
    errors = []
    for X in _matrices():
        weights = spectrum(X).energies
        weights = weights.sqrt() / weights.sqrt().sum() if _fault(e) else weights
        errors.append(float((ipr(X) / weights.square().sum(-1) - 1).abs()))
    what = "largest relative difference of IPR by Gram matrix and by SVD"
    return number(max(errors), len(errors), "error", what)


@metric("leverage.full_rank_error", False)
@metric("leverage.full_rank_error.centered", True)
def _full_rank(e: Evidence, center: bool) -> Quantity:
    wide = [X for X in _matrices()[::2] if X.shape[0] < X.shape[1]]
    errors = []
    for X in wide:
        N = len(X)
        scores = leverage_scores(X, N - center - _fault(e), center=center)
        errors.append(float((scores - (1 - center / N)).abs().max()))
    which = "1 - 1/N, centred" if center else "1"
    what = f"largest distance of full-rank leverage scores from {which}"
    return number(max(errors), sum(map(len, wide)), "error", what)


@cache
def _asked() -> tuple[Any, list[Any]]:
    """Return the shipped model and eight prompts."""
    model, processor = scene_vlm.load()
    scenes = [SceneVQA("test")[i] for i in range(8)]
    return model, [chat_inputs(processor, [(s.image, s.questions[0].text)]) for s in scenes]


_SHIPPED = {"model": "SceneVLM", "dtype": "float32"}


@metric("lofi.remembered")
@torch.inference_mode()
def _remembered(e: Evidence) -> Quantity:
    """Prune each image with a pruner that has seen the others before, and with a new one."""
    model, prompts = _asked()
    used, differ = LoFi(keep=0.22), 0
    for i, inputs in enumerate(prompts):
        before = Random(keep=0.22, seed=i) if _fault(e) else used
        new = Random(keep=0.22, seed=0) if _fault(e) else LoFi(keep=0.22)
        first, second = (
            prune_inputs(model, inputs, p).report.images[0].kept for p in (before, new)
        )
        differ += not torch.equal(torch.as_tensor(first), torch.as_tensor(second))
    what = "images of which a used and a new pruner keep other tokens"
    return number(differ, len(prompts), "images", what, **_SHIPPED)


@metric("lofi.changed_weights")
@torch.inference_mode()
def _changed(e: Evidence) -> Quantity:
    model, prompts = _asked()
    before = {name: weight.clone() for name, weight in model.state_dict().items()}
    for inputs in prompts:
        model(**prune_inputs(model, inputs, LoFi(keep=0.22)))
    after = dict(model.state_dict())
    if _fault(e):
        name = next(iter(after))
        after[name] = after[name] + 1
    changed = sum(not weight.equal(after[name]) for name, weight in before.items())
    count = changed + abs(len(after) - len(before))
    what = "weight tensors that differ after pruned calls"
    return number(count, len(before), "tensors", what, **_SHIPPED)


@metric("drop.mask_error")
@torch.inference_mode()
def _masked(e: Evidence) -> Quantity:
    model, prompts = _asked()
    errors = []
    for inputs in prompts:
        pruned = prune_inputs(model, inputs, LoFi(keep=0.22))
        kept = [int(place) for place in pruned.report.images[0].kept]
        if _fault(e):
            kept[0] = next(place for place in range(144) if place not in kept)
        hidden = inputs["attention_mask"].clone()
        columns = (inputs["input_ids"][0] == model.config.image_token_id).nonzero()[:, 0]
        hidden[0, columns] = 0
        hidden[0, columns[kept]] = 1
        positions = torch.arange(hidden.shape[1])[None]
        whole = model(**{**inputs, "attention_mask": hidden, "position_ids": positions}).logits
        seen = whole[:, hidden[0].bool()]
        errors.append(float((model(**pruned).logits - seen).abs().max()))
    what = "largest difference of logits, tokens dropped and tokens hidden"
    return number(max(errors), len(errors), "error", what, **_SHIPPED)


@metric("drop.keep_all_error")
@torch.inference_mode()
def _all_kept(e: Evidence) -> Quantity:
    model, prompts = _asked()
    pruner = Random(keep=143 / 144) if _fault(e) else LoFi(keep=1.0)
    pairs = [(model(**x).logits, model(**prune_inputs(model, x, pruner)).logits) for x in prompts]
    error = max(float((a[:, -b.shape[1] :] - b).abs().max()) for a, b in pairs)
    what = "largest difference of logits, all tokens kept and no pruning"
    return number(error, len(pairs), "error", what, **_SHIPPED)


@metric("families.failed", True)
@metric("families.missing_to_ten", False)
def _families(e: Evidence, failed: bool) -> Quantity:
    families = list(json.loads(CAPABILITIES.read_text())["families"].values())
    cases = [family[device] for family in families for device in ("CPU", "CUDA")]
    run = {"model": f"{len(families)} families", "dtype": "float32"}
    if failed:
        count = sum(of - passed for passed, of in cases) + _fault(e)
        asked = sum(of for _, of in cases)
        return number(count, asked, "cases", "cases of the contract that failed", **run)
    found = 9 if _fault(e) else len(families)
    return number(max(0, 10 - found), len(families), "families", "families short of ten", **run)
