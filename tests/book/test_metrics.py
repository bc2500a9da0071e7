"""The quantities that claims are judged by, against brute force in a world whose truth is known."""

import json
from types import SimpleNamespace
from typing import Any

import numpy as np
import pandas as pd
import pytest

from book.ledger import exact
from book.ledger.evidence import Evidence
from book.ledger.means import BUDGETS, PUBLISHED
from book.ledger.quantities import compute
from lofi_core.evaluation.statistics import clustered_means
from lofi_core.pruners import get_pruner, pruner_names


def agreement(evidence: Evidence, label: str, budget: float) -> float:
    rows = evidence.answers
    mine = rows[(rows.label == label) & (rows.budget == budget) & (rows.group == "main")]
    return float(1 - mine.flip.mean())


def mean_agreement(evidence: Evidence, label: str) -> float:
    return float(np.mean([agreement(evidence, label, b) for b in BUDGETS]))


def test_quantities_are_means_of_the_answers(evidence: Evidence, made: dict[str, Any]) -> None:
    value = {key: quantity.get("value") for key, quantity in made["metrics"].items()}
    lofi = mean_agreement(evidence, "lofi")
    assert value["lofi.lead.random"] == pytest.approx(lofi - mean_agreement(evidence, "random"))
    rows = evidence.answers[evidence.answers.label.eq("lofi") & evidence.answers.budget.eq(0.22)]
    change = rows.right.mean() - rows.reference_right.mean()
    assert value["lofi.accuracy_change@22"] == pytest.approx(change)
    published = ["fastervlm", "divprune", "tome", "trim", "lrcp"]  # neither DART nor FastV
    theirs = [mean_agreement(evidence, name) for name in published]
    assert value["lofi.lead.published"] == pytest.approx(lofi - np.mean(theirs))
    assert value["lofi.lead.best_published"] == pytest.approx(lofi - max(theirs))
    relative = (lofi - np.mean(theirs)) / np.mean(theirs)
    assert value["lofi.lead.published.relative"] == pytest.approx(relative)
    half = [1 - agreement(evidence, name, 0.5) for name in [*published, "fastv"]]
    assert value["published.flips@50"] == pytest.approx(np.mean(half))
    padding = evidence.answers[evidence.answers.label == "padding"].flip.mean()
    assert value["published.excess_flips@50"] == pytest.approx(np.mean(half) - padding)
    rows = evidence.answers[evidence.answers.label.isin([*published, "fastv"])]
    lost, won = ((rows[rows.budget == 0.5].transition == k).sum() for k in TO_AND_FRO)
    assert value["published.cancelling@50"] == pytest.approx(won / (won + lost))


TO_AND_FRO = ("right to wrong", "wrong to right")


def test_a_method_counts_at_the_budgets_it_kept_to(
    evidence: Evidence, made: dict[str, Any]
) -> None:
    inside = made["metrics"]["lofi.lead.inside"]
    leads = [agreement(evidence, "lofi", b) - agreement(evidence, "fastv", b) for b in (0.5, 0.33)]
    assert inside["value"] == pytest.approx(np.mean(leads))
    assert "fastv at 50% and 33%" in inside["what"]
    assert "dart" not in made["metrics"]["lofi.lead.diversity"]["what"]
    assert made["metrics"]["budget.deviation.max"]["value"] == pytest.approx(0.05)


def test_intervals_are_those_of_clustered_means(evidence: Evidence, made: dict[str, Any]) -> None:
    rows = evidence.answers
    mine = rows[(rows.label == "lofi") & (rows.budget == 0.22) & (rows.group == "main")]
    change = pd.DataFrame({"x": mine.right.astype(float) - mine.reference_right})
    expected = clustered_means(change, mine.image, draws=1000).loc["x"]
    found = made["metrics"]["lofi.accuracy_change@22"]
    width = expected.high - expected.low
    assert found["low"] == pytest.approx(expected.low, abs=0.1 * width)
    assert found["high"] == pytest.approx(expected.high, abs=0.1 * width)


def test_a_relation_through_the_budget_is_called_one(made: dict[str, Any]) -> None:
    found = made["metrics"]
    pooled, control = (found[f"ipr.pooled.{kind}"] for kind in ("centered", "shuffled"))
    assert pooled["high"] < -0.5
    assert control["value"] == pytest.approx(pooled["value"], abs=0.1)
    within = found["ipr.within_budget.centered"]
    assert within["low"] < 0 < within["high"]
    assert found["ipr.auc"]["low"] < 0.5 < found["ipr.auc"]["high"]
    assert found["margin.auc"]["low"] > 0.6
    lead = found["margin.auc"]["value"] - found["ipr.auc"]["value"]
    assert found["margin.auc_lead"]["value"] == pytest.approx(lead)


def test_published_methods_below_random(evidence: Evidence, made: dict[str, Any]) -> None:
    assert made["metrics"]["published.below_random"]["value"] == 1  # TRIM of this world
    assert made["metrics"]["published.below_random"]["n"] == 5


def test_missing_data_are_said_to_be_missing(evidence: Evidence) -> None:
    whole = evidence.results
    bare = SimpleNamespace(**vars(whole) | {"sites": whole.sites[:0]})
    found = compute(Evidence(bare), ["ipr.auc", "lofi.lead.random"])
    assert "missing" in found["ipr.auc"]
    assert "value" in found["lofi.lead.random"]


def test_every_published_method_has_a_kind() -> None:
    kinds = {name: type(get_pruner(name, keep=0.5)) for name in pruner_names()}
    ours = kinds["lofi"].paper
    others = {name for name, kind in kinds.items() if kind.paper not in ("", ours)}
    assert others == {*PUBLISHED}


def timed(seconds: float) -> dict[str, Any]:
    return {"median": seconds, "low": seconds * 0.9, "high": seconds * 1.1, "repeats": 9}


def test_costs_come_from_the_largest_model_on_a_gpu(tmp_path: Any, monkeypatch: Any) -> None:
    def row(model: str, keep: float, prefill: float) -> dict[str, Any]:
        selection = timed(0.2) if keep < 1 else None
        common = {"model": model, "batch": 1, "visual": 576, "keep": keep}
        return {**common, "selection": selection, "prefill": timed(prefill)}

    for kind, models in (("cpu", ["SceneVLM"]), ("cuda", ["SceneVLM", "LLaVA-1.5-7B"])):
        rows = [
            row(model, keep, keep * size)
            for size, model in enumerate(models, start=4)
            for keep in (1.0, 0.5, 0.25)
        ]
        part = {"machine": {"device": f"a {kind}", "type": kind}, "rows": rows}
        text = json.dumps({"schema": 1, "parts": {"end to end": part}})
        (tmp_path / f"{kind}.json").write_text(text)
    monkeypatch.setattr(exact, "BENCHMARKS", tmp_path)
    found = compute(Evidence(None), ["cost.prefill_time@25", "cost.selection_share@25"])
    whole, share = found["cost.prefill_time@25"], found["cost.selection_share@25"]
    assert whole["value"] == pytest.approx((0.2 + 5 / 4) / 5)
    assert share["value"] == pytest.approx(0.2 / 5)
    assert share["low"] == pytest.approx(0.18 / 5.5) and share["high"] == pytest.approx(0.22 / 4.5)
    assert (whole["model"], whole["device"], whole["n"]) == ("LLaVA-1.5-7B", "a cuda", 9)
    monkeypatch.setattr(exact, "BENCHMARKS", tmp_path / "none")
    assert "missing" in compute(Evidence(None), ["cost.prefill_time@25"])["cost.prefill_time@25"]
