"""Quantities that need no run: identities, counts, operations, and the record of the benchmark.

What has no sampling error has both limits at its value; a model is asked only where the claim is
about one.
"""

import json
from functools import cache
from pathlib import Path
from typing import Any

import torch
from transformers import LlamaConfig

from book.ledger.evidence import Evidence
from book.ledger.quantities import NoData, Quantity, metric
from lofi_core import LoFi, SceneVQA, ipr, leverage_scores, prune_inputs, scene_vlm, spectrum
from lofi_core.evaluation.cost import prefill_flops
from lofi_core.vlm.prompts import chat_inputs

__all__ = ["BENCHMARKS", "CAPABILITIES"]

RESULTS = Path(__file__).parents[1] / "results"
CAPABILITIES = RESULTS / "capabilities.json"
BENCHMARKS = Path(__file__).parents[2] / "benchmarks" / "results"
SHAPES = ((5, 3), (16, 64), (64, 16), (144, 128), (128, 144))


def _number(value: float, n: int, unit: str, what: str, **made_by: str) -> Quantity:
    run = {"model": "none", "dtype": "float64", "device": "cpu"} | made_by
    return Quantity(value, value, value, n, 0, unit, what, **run)


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
        exact = spectrum(X).energies.square().sum(-1)
        errors.append(float((ipr(X) / exact - 1).abs()))
    what = "largest relative difference of IPR by Gram matrix and by SVD"
    return _number(max(errors), len(errors), "error", what)


@metric("leverage.full_rank_error", False)
@metric("leverage.full_rank_error.centered", True)
def _full_rank(e: Evidence, center: bool) -> Quantity:
    wide = [X for X in _matrices()[::2] if X.shape[0] < X.shape[1]]
    errors = []
    for X in wide:
        N = len(X)
        scores = leverage_scores(X, N - center, center=center)
        errors.append(float((scores - (1 - center / N)).abs().max()))
    which = "1 - 1/N, centred" if center else "1"
    what = f"largest distance of full-rank leverage scores from {which}"
    return _number(max(errors), sum(map(len, wide)), "error", what)


@metric("lofi.learned_parameters")
def _learned(e: Evidence) -> Quantity:
    held = [v for v in vars(LoFi(keep=0.22)).values() if isinstance(v, torch.Tensor)]
    what = "numbers that LoFi learns"
    return _number(sum(v.numel() for v in held), 1, "parameters", what, dtype="none")


@cache
def _asked() -> tuple[Any, list[Any]]:
    """Return the shipped model and eight prompts."""
    model, processor = scene_vlm.load()
    scenes = [SceneVQA("test")[i] for i in range(8)]
    return model, [chat_inputs(processor, [(s.image, s.questions[0].text)]) for s in scenes]


_SHIPPED = {"model": "SceneVLM", "dtype": "float32"}


@metric("lofi.changed_weights")
@torch.inference_mode()
def _changed(e: Evidence) -> Quantity:
    model, prompts = _asked()
    before = {name: weight.clone() for name, weight in model.state_dict().items()}
    for inputs in prompts:
        model(**prune_inputs(model, inputs, LoFi(keep=0.22)))
    after = model.state_dict()
    changed = sum(not weight.equal(after[name]) for name, weight in before.items())
    what = "weight tensors that differ after pruned calls"
    return _number(
        changed + abs(len(after) - len(before)), len(before), "tensors", what, **_SHIPPED
    )


@metric("drop.mask_error")
@torch.inference_mode()
def _masked(e: Evidence) -> Quantity:
    model, prompts = _asked()
    errors = []
    for inputs in prompts:
        pruned = prune_inputs(model, inputs, LoFi(keep=0.22))
        hidden = inputs["attention_mask"].clone()
        columns = (inputs["input_ids"][0] == model.config.image_token_id).nonzero()[:, 0]
        hidden[0, columns] = 0
        hidden[0, columns[pruned.report.images[0].kept]] = 1
        positions = torch.arange(hidden.shape[1])[None]
        whole = model(**{**inputs, "attention_mask": hidden, "position_ids": positions})
        errors.append(
            float((model(**pruned).logits - whole.logits[:, hidden[0].bool()]).abs().max())
        )
    what = "largest difference of logits, tokens dropped and tokens hidden"
    return _number(max(errors), len(errors), "error", what, **_SHIPPED)


@metric("drop.keep_all_error")
@torch.inference_mode()
def _all_kept(e: Evidence) -> Quantity:
    model, prompts = _asked()
    pairs = [(model(**x), model(**prune_inputs(model, x, LoFi(keep=1.0)))) for x in prompts]
    error = max(float((a.logits - b.logits).abs().max()) for a, b in pairs)
    what = "largest difference of logits, all tokens kept and no pruning"
    return _number(error, len(pairs), "error", what, **_SHIPPED)


@metric("families.failed", True)
@metric("families.missing_to_ten", False)
def _families(e: Evidence, failed: bool) -> Quantity:
    families = json.loads(CAPABILITIES.read_text())["families"]
    cases = [family[device] for family in families.values() for device in ("CPU", "CUDA")]
    run = {"model": f"{len(families)} families", "dtype": "float32"}
    asked = sum(count for _, count in cases)
    if failed:
        count = sum(of - passed for passed, of in cases)
        return _number(count, asked, "cases", "cases of the contract that failed", **run)
    count = max(0, 10 - len(families))
    return _number(count, len(families), "families", "families short of ten", **run)


@metric("cost.operations@25")
def _operations(e: Evidence) -> Quantity:
    """With the selection: the Gram matrix, and 10 N^3 for its eigenvectors."""
    config, N, text, D = LlamaConfig(), 576, 64, 4096
    whole = prefill_flops(config, N + text)
    pruned = prefill_flops(config, N // 4 + text) + 2 * N * N * D + 10 * N**3
    what = "operations to read 576 visual tokens and a text of 64, LoFi at 25 % over unpruned"
    run = {"model": "the shape of LLaVA-1.5-7B", "dtype": "none", "device": "none"}
    return _number(pruned / whole, 1, "ratio", what, **run)


@metric("cost.prefill_time@25", True)
@metric("cost.selection_share@25", False)
def _measured(e: Evidence, whole: bool) -> Quantity:
    """Limits are those that the quartiles of the times allow: wider than any of the ratio's own."""
    pruned, full, machine = _timed()
    device, kind = machine["device"], machine["type"]
    select, before, after = pruned["selection"], full["prefill"], pruned["prefill"]

    def ratio(part: str, of: str) -> float:
        return (select[part] + (after[part] if whole else 0)) / before[of]

    what = f"time of LoFi's selection{' and of prefill' if whole else ''} at 25 % of the tokens"
    dtype = pruned.get("dtype", "bfloat16" if kind == "cuda" else "float32")
    return Quantity(
        value=ratio("median", "median"),
        low=ratio("low", "high"),
        high=ratio("high", "low"),
        n=min(times["repeats"] for times in (select, before, after)),
        images=0,
        unit="ratio",
        what=f"{what} over that of the unpruned prefill, one image of {full['visual']} tokens",
        model=full["model"],
        dtype=dtype,
        device=device,
    )


def _timed() -> tuple[dict[str, Any], dict[str, Any], dict[str, Any]]:
    """Rows with a quarter of the tokens and with all, of the largest model, GPUs before CPUs."""
    found = []
    for path in sorted(BENCHMARKS.glob("*.json")):
        part = json.loads(path.read_text())["parts"].get("end to end", {"rows": []})
        rows = [row for row in part["rows"] if row["batch"] == 1 and "failed" not in row]
        for name, visual in {(row["model"], row["visual"]) for row in rows}:
            mine = {r["keep"]: r for r in rows if (r["model"], r["visual"]) == (name, visual)}
            rank = (part["machine"]["type"] == "cuda", name == "LLaVA-1.5-7B", -visual, path.name)
            if {0.25, 1.0} <= mine.keys():
                found.append((rank, mine[0.25], mine[1.0], part["machine"]))
    if not found:
        raise NoData("no benchmark was recorded")
    return max(found, key=lambda candidate: candidate[0])[1:]
