"""The ledger: figures against brute force, verdicts by the rule, and a check that can fail."""

import html
import importlib.util
import json
import re
from copy import deepcopy
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import nbformat
import numpy as np
import pandas as pd
import pytest
from docutils.core import publish_doctree
from docutils.parsers.rst import roles

from book import exact, ledger, ledger_page, metrics
from book.evidence import BUDGETS, Evidence
from book.metrics import METRICS, compute
from book.typeset import typeset
from lofi_core.statistics import clustered_means

ALL_BUDGETS = (0.75, 0.5, 0.33, 0.22, 0.11, 0.05)
LABELS = {  # how often answers flip at a half, relative to each other
    **{"lofi": 1.0, "deflated-lofi": 0.8, "random": 1.2, "uniform": 1.2, "norm": 1.3},
    **{"pool": 1.2, "anti-lofi": 2.5, "fastervlm": 1.1, "divprune": 0.7, "dart": 0.6},
    **{"tome": 0.9, "trim": 1.6, "lrcp": 1.0, "fastv": 1.4},
}
IMAGES, QUESTIONS = 80, 5


def asked(label: str, budget: float) -> float:
    """DART keeps far less than it is asked to keep, as methods do that round."""
    return budget - 0.05 if label == "dart" else budget


def synthetic(seed: int = 0) -> Any:
    """Results as `book.experiments.load` gives them, of a world whose truth is known.

    IPR changes follow the budget alone, so that within a budget they tell nothing; answers of a
    small margin flip more often.
    """
    rng = np.random.default_rng(seed)
    arms, answers, sites = [], [], []
    image, number = (a.ravel() for a in np.indices((IMAGES, QUESTIONS)))
    margin, before = rng.random(image.size), rng.random(image.size) < 0.8

    def arm(group: str, label: str, budget: float | None, rate: float, kept: float) -> int:
        flip = rng.random(image.size) < rate * 2 * (1 - margin)
        after = np.where(flip, ~before, before)
        kind = np.select(
            [flip & before, flip & ~before, before],
            ["right to wrong", "wrong to right", "same right"],
            "same wrong",
        )
        facts = {"group": group, "label": label, "budget": budget, "split": "test"}
        arms.append(facts)
        rows = {"arm": len(arms) - 1, "image": image, "number": number, "flip": flip}
        rows |= {"right": after, "reference_right": before, "transition": kind, **facts}
        rows |= {"reference_margin": margin, "total_variation": flip * 0.5, "budget_measured": kept}
        answers.append(pd.DataFrame(rows))
        return len(arms) - 1

    arm("reference", "unpruned", None, 0.0, 1.0)
    arm("noise", "padding", None, 0.002, 1.0)
    arm("noise", "bfloat16", None, 0.2, 1.0)
    for budget in ALL_BUDGETS:
        for label, factor in LABELS.items():
            if label == "fastv" and budget < 0.3:
                continue
            rate = min(0.1 * factor * (1 - budget), 0.45)
            number_of_arm = arm("main", label, budget, rate, asked(label, budget))
            for site in ("projector", "layer 2", "layer 10"):
                for tokens in ("visual", "text"):
                    change = (1 - budget) + rng.normal(0, 0.02, IMAGES)
                    rows = {"arm": number_of_arm, "image": np.arange(IMAGES), "site": site}
                    rows |= {"tokens": tokens, **arms[-1]}
                    rows |= {"ipr_change": -change, "ipr_centered_change": change}
                    sites.append(pd.DataFrame(rows))
    for budget in BUDGETS:
        arm("dynamic", "lofi dynamic", budget, 0.1 * (1 - budget), budget)
    table = pd.concat(answers, ignore_index=True)

    def comparison(number: int) -> Any:
        mine = table[table["arm"] == number]
        rate = SimpleNamespace(value=mine.flip.mean(), low=0.0, high=mine.flip.mean() + 0.01)
        return SimpleNamespace(flip_rate=rate, samples=mine.assign(group=mine.image))

    return SimpleNamespace(
        arms=pd.DataFrame(arms).rename_axis("arm"),
        answers=table,
        sites=pd.concat(sites, ignore_index=True),
        experiment={"schema": 1, "dtype": "float32", "device": "cpu"},
        compare=comparison,
    )


@pytest.fixture(scope="module")
def evidence() -> Evidence:
    return Evidence(synthetic())


@pytest.fixture(scope="module")
def made(evidence: Evidence) -> dict[str, Any]:
    return ledger.record(evidence, ledger.read())


def agreement(evidence: Evidence, label: str, budget: float) -> float:
    rows = evidence.answers
    mine = rows[(rows.label == label) & (rows.budget == budget) & (rows.group == "main")]
    return float(1 - mine.flip.mean())


def mean_agreement(evidence: Evidence, label: str) -> float:
    return float(np.mean([agreement(evidence, label, b) for b in BUDGETS]))


def test_figures_are_means_of_the_answers(evidence: Evidence, made: dict[str, Any]) -> None:
    value = {key: figure.get("value") for key, figure in made["metrics"].items()}
    lofi = mean_agreement(evidence, "lofi")
    assert value["lofi.lead.random"] == pytest.approx(lofi - mean_agreement(evidence, "random"))
    assert value["lofi.agreement@22"] == pytest.approx(agreement(evidence, "lofi", 0.22))
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
    agree = pd.DataFrame({"x": 1.0 - mine.flip})
    expected = clustered_means(agree, mine.image, draws=1000)["x"]
    found = made["metrics"]["lofi.agreement@22"]
    width = expected.high - expected.low
    assert found["low"] == pytest.approx(expected.low, abs=0.1 * width)
    assert found["high"] == pytest.approx(expected.high, abs=0.1 * width)


def test_a_relation_through_the_budget_is_called_one(made: dict[str, Any]) -> None:
    figure = made["metrics"]
    pooled, control = (figure[f"ipr.pooled.{kind}"] for kind in ("centered", "shuffled"))
    assert pooled["high"] < -0.5
    assert control["value"] == pytest.approx(pooled["value"], abs=0.1)
    assert (
        figure["ipr.within_budget.centered"]["low"]
        < 0
        < figure["ipr.within_budget.centered"]["high"]
    )
    assert figure["ipr.auc"]["low"] < 0.5 < figure["ipr.auc"]["high"]
    assert figure["margin.auc"]["low"] > 0.6
    lead = figure["margin.auc"]["value"] - figure["ipr.auc"]["value"]
    assert figure["margin.auc_lead"]["value"] == pytest.approx(lead)


def test_published_methods_below_random(evidence: Evidence, made: dict[str, Any]) -> None:
    assert made["metrics"]["published.below_random"]["value"] == 1  # TRIM of this world
    assert made["metrics"]["published.below_random"]["n"] == 5


def test_missing_data_are_said_to_be_missing() -> None:
    bare = synthetic()
    bare.sites = bare.sites[:0]
    found = compute(Evidence(bare), ["ipr.auc", "lofi.lead.random"])
    assert "missing" in found["ipr.auc"]
    assert "value" in found["lofi.lead.random"]


def test_every_published_method_has_a_kind() -> None:
    assert metrics.unlisted() == []


# --- verdicts ---


def figure(low: float, high: float, **more: Any) -> dict[str, Any]:
    made_by = {"n": 9, "images": 3, "model": "SceneVLM", "dtype": "float32", "device": "cpu"}
    return {
        "value": (low + high) / 2,
        "low": low,
        "high": high,
        "unit": "points",
        **made_by,
        **more,
    }


@pytest.mark.parametrize(
    ("test", "low", "high", "outcome"),
    [
        ({"above": 0}, 0.1, 0.2, "holds"),
        ({"above": 0}, -0.1, 0.2, "open"),
        ({"above": 0}, -0.2, -0.1, "fails"),
        ({"above": 0}, 0.0, 0.0, "fails"),
        ({"above": 0}, 0.0, 0.1, "open"),
        ({"below": 0.5}, 0.5, 0.5, "fails"),
        ({"below": 0.5}, 0.1, 0.2, "holds"),
        ({"below": 0.5}, 0.6, 0.7, "fails"),
        ({"between": [-0.1, 0.1]}, -0.1, 0.1, "holds"),
        ({"between": [-0.1, 0.1]}, -0.2, 0.2, "open"),
        ({"between": [-0.1, 0.1]}, 0.2, 0.3, "fails"),
        ({"value": 0, "tolerance": 1e-9}, 1e-10, 1e-10, "holds"),
        ({"value": 0, "tolerance": 0}, 0, 0, "holds"),
        ({"value": 0, "tolerance": 1e-9}, 1e-8, 1e-8, "fails"),
    ],
)
def test_the_rule(test: dict[str, Any], low: float, high: float, outcome: str) -> None:
    assert ledger.judge({"metric": "x", **test}, {"x": figure(low, high)}) == outcome


@pytest.mark.parametrize(
    ("intervals", "expected"),
    [
        ([(1, 2), (1, 2)], "replicated"),
        ([(1, 2), (-2, -1)], "partly"),
        ([(-1, 1), (-2, -1)], "partly"),
        ([(-2, -1), (-2, -1)], "not replicated"),
        ([(1, 2), None], "partly"),
        ([(-2, -1), None], "not replicated"),
        ([None, None], "not attempted"),
        ([], "not attempted"),
    ],
)
def test_verdicts_follow_from_tests(intervals: list[Any], expected: str) -> None:
    figures = {
        str(i): {"missing": "nothing"} if x is None else figure(*x) for i, x in enumerate(intervals)
    }
    claim = {"id": "c", "about": "large VLMs", "not_attempted": "No time."}
    claim["tests"] = [{"metric": name, "above": 0} for name in figures]
    found = ledger.verdict(claim, figures)
    assert found["verdict"] == expected
    tried = any(intervals)
    assert ("models a thousand times its size" in found["says"]) == tried
    assert ("SceneVLM, float32, cpu" in found["says"]) == tried


# --- the committed claims, and the check ---


def test_claims_are_in_form(made: dict[str, Any]) -> None:
    assert ledger.check(ledger.read(), made, made["metrics"]) == []


def test_an_interval_and_a_criterion_are_readable() -> None:
    assert ledger.show(figure(-0.01, 0.03)) == "+1.0 [-1.0, +3.0] points"
    assert ledger.criterion({"metric": "x", "below": -0.7}, "correlation") == "below -0.7"
    assert ledger.criterion({"metric": "x", "value": 0, "tolerance": 0}, "cases") == "exactly 0"


def corrupted(change: Any) -> Any:
    def test(made: dict[str, Any]) -> list[str]:
        claims, recorded, fresh = ledger.read(), deepcopy(made), deepcopy(made["metrics"])
        change({claim["id"]: claim for claim in claims}, recorded, fresh)
        return ledger.check(claims, recorded, fresh)

    return test


def change_figure(claims: Any, recorded: Any, fresh: Any) -> None:
    recorded["metrics"]["lofi.lead.random"]["value"] += 0.001


def change_data(claims: Any, recorded: Any, fresh: Any) -> None:
    fresh["lofi.lead.random"]["value"] -= 0.001


def change_interval(claims: Any, recorded: Any, fresh: Any) -> None:
    figure = recorded["metrics"]["lofi.lead.random"]
    figure["low"] -= 0.2 * (figure["high"] - figure["low"])


def change_count(claims: Any, recorded: Any, fresh: Any) -> None:
    recorded["metrics"]["lofi.lead.random"]["n"] += 1


def change_verdict(claims: Any, recorded: Any, fresh: Any) -> None:
    mine = recorded["verdicts"]["beats-controls"]
    mine["verdict"] = "replicated" if mine["verdict"] != "replicated" else "partly"


def change_words(claims: Any, recorded: Any, fresh: Any) -> None:
    recorded["verdicts"]["beats-controls"]["says"] = "It does."


def change_criterion(claims: Any, recorded: Any, fresh: Any) -> None:
    claims["beats-controls"]["tests"][0]["above"] = -9


def change_notebook(claims: Any, recorded: Any, fresh: Any) -> None:
    claims["beats-controls"]["notebook"] = "notebooks/99-nowhere"


def change_metric(claims: Any, recorded: Any, fresh: Any) -> None:
    claims["beats-controls"]["tests"][0]["metric"] = "lofi.lead.everybody"


def change_kind(claims: Any, recorded: Any, fresh: Any) -> None:
    claims["beats-controls"]["kind"] = "exact"


def change_source(claims: Any, recorded: Any, fresh: Any) -> None:
    claims["beats-controls"]["source"] = "nobody1999"


def drop_verdict(claims: Any, recorded: Any, fresh: Any) -> None:
    del recorded["verdicts"]["beats-controls"]


def drop_figure(claims: Any, recorded: Any, fresh: Any) -> None:
    del recorded["metrics"]["lofi.lead.random"]


def drop_data(claims: Any, recorded: Any, fresh: Any) -> None:
    fresh["lofi.lead.random"] = {"missing": "no answers"}


def drop_reason(claims: Any, recorded: Any, fresh: Any) -> None:
    claims["beats-controls"]["tests"] = []


CORRUPTIONS = [change_figure, change_data, change_interval, change_count, change_verdict]
CORRUPTIONS += [change_words, change_criterion, change_notebook, change_metric, change_kind]
CORRUPTIONS += [change_source, drop_verdict, drop_figure, drop_data, drop_reason]


@pytest.mark.parametrize("change", CORRUPTIONS, ids=lambda f: f.__name__)
def test_the_check_names_the_claim(change: Any, made: dict[str, Any]) -> None:
    problems = corrupted(change)(made)
    assert any("beats-controls" in problem for problem in problems), problems


def test_an_error_beyond_its_tolerance_fails(made: dict[str, Any]) -> None:
    """Rounding differs between machines, so only the criterion bounds it."""
    fresh = deepcopy(made["metrics"])
    fresh["drop.mask_error"] |= dict.fromkeys(("value", "low", "high"), 2e-6)
    assert ledger.check(ledger.read(), made, fresh) == []
    fresh["drop.mask_error"] |= dict.fromkeys(("value", "low", "high"), 0.1)
    (problem,) = ledger.check(ledger.read(), made, fresh)
    assert problem.startswith("dropping-is-masking")


def test_another_sample_of_the_bootstrap_passes(made: dict[str, Any]) -> None:
    fresh = deepcopy(made["metrics"])
    figure = fresh["lofi.lead.random"]
    figure["low"] += 0.03 * (figure["high"] - figure["low"])
    assert ledger.check(ledger.read(), made, fresh) == []


def test_the_command_writes_and_checks(
    evidence: Evidence, made: dict[str, Any], tmp_path: Any, monkeypatch: Any, capsys: Any
) -> None:
    import book.experiments

    monkeypatch.setattr(book.experiments, "load", lambda *_: evidence.results)
    monkeypatch.setattr(ledger, "compute", lambda _: deepcopy(made["metrics"]))
    path = tmp_path / "metrics.json"
    assert ledger.main(["--record", str(path)]) == 0
    assert ledger.main(["--record", str(path), "--check"]) == 0
    record = json.loads(path.read_text())
    record["verdicts"]["deflation"]["verdict"] = "true"
    path.write_text(json.dumps(record))
    assert ledger.main(["--record", str(path), "--check"]) == 1
    assert "deflation" in capsys.readouterr().err


# --- prose ---


def test_typed_figures_are_found() -> None:
    claims = [{"quote": "accuracy (±0.3% change)", "statement": "by 12.7 points"}]
    assert ledger.typed("the source's ±0.3 % and 12.7 points, at 22 % of the tokens", claims) == []
    assert ledger.typed("we find 4.1 % and +2.25 points", claims) == ["4.1", "+2.25"]


def prose() -> list[tuple[str, str]]:
    """Pages, and texts of notebooks, that speak of results."""
    found = [(p.name, p.read_text()) for p in (ledger.ROOT / "index.md", ledger.ROOT / "README.md")]
    for name in ("04", "05", "07", "11"):
        for path in (ledger.ROOT / "notebooks").glob(f"{name}-*.ipynb"):
            cells = nbformat.read(path, as_version=4).cells
            text = "\n\n".join(c.source for c in cells if c.cell_type == "markdown")
            found.append((path.name, text))
    return found


@pytest.mark.parametrize(("name", "text"), prose(), ids=lambda x: x if len(x) < 40 else "")
def test_prose_types_no_figures(name: str, text: str) -> None:
    assert ledger.typed(text, ledger.read()) == [], f"{name}: use {{metric}}`key` instead"


@pytest.mark.parametrize(("name", "text"), prose(), ids=lambda x: x if len(x) < 40 else "")
def test_prose_quotes_known_figures(name: str, text: str) -> None:
    assert {*re.findall(r"\{metric\}`([^`]+)`", text)} <= METRICS.keys()
    ids = {claim["id"] for claim in ledger.read()}
    assert {*re.findall(r"\{verdict\}`([^`]+)`", text)} <= ids


def publish(text: str, record: dict[str, Any], monkeypatch: Any) -> str:
    """Render a line with the roles of the Sphinx extension."""
    path = ledger.ROOT / "book" / "_ext" / "ledger_roles.py"
    spec = importlib.util.spec_from_file_location("ledger_roles", path)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    monkeypatch.setattr(module, "recorded", lambda: record)
    for role in ("metric", "verdict"):
        monkeypatch.setitem(roles._roles, role, getattr(module, role))
    return publish_doctree(text, settings_overrides={"report_level": 5}).pformat()


def test_pages_take_figures_from_the_record(made: dict[str, Any], monkeypatch: Any) -> None:
    page = publish(":metric:`lofi.lead.random`, :verdict:`deflation`", made, monkeypatch)
    assert typeset(ledger.show(made["metrics"]["lofi.lead.random"])) in page
    assert made["verdicts"]["deflation"]["verdict"] in page
    for wrong in (":metric:`lofi.lead.all`", ":metric:`cost.selection_share@25`", ":verdict:`it`"):
        without = deepcopy(made)
        without["metrics"]["cost.selection_share@25"] = {"missing": "no benchmark was recorded"}
        assert 'level="3"' in publish(wrong, without, monkeypatch)


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


def test_claims_of_a_chapter() -> None:
    ids = [claim["id"] for claim in ledger.claims_of("notebooks/05-why-energy-and-ipr")]
    assert "ipr-consistency" in ids
    assert "deflation" not in ids
    named = ledger.claims_of("05-why-energy-and-ipr.ipynb")
    assert [claim["id"] for claim in named] == ids


def test_the_page_shows_source_verdict_figure_criterion_and_n_of_every_claim(
    made: dict[str, Any],
) -> None:
    claims = ledger.read()
    page = ledger_page.Table(claims, made)._repr_html_()
    cards = re.split(r'(?=<div class="claim")', page)[1:]
    assert len(cards) == len(claims)
    for claim, card in zip(claims, cards, strict=True):
        found = made["verdicts"][claim["id"]]
        assert f'id="claim-{claim["id"]}"' in card and found["verdict"] in card
        assert claim["from"] in card and f'{Path(claim["notebook"]).name}.html"' in card
        for test in claim["tests"]:
            figure = made["metrics"][test["metric"]]
            if "missing" in figure:
                assert html.escape(figure["missing"]) in card
                continue
            assert typeset(ledger.show(figure)) in card
            assert typeset(ledger.criterion(test, figure["unit"])) in card
            assert f"n = {figure['n']:,}" in card and html.escape(figure["what"]) in card
            assert figure["model"] == "none" or figure["model"] in card


def test_one_row_a_test_with_data(made: dict[str, Any]) -> None:
    claims = ledger.read()
    tried = [t for c in claims for t in made["verdicts"][c["id"]]["tests"] if t != "no data"]
    assert ledger_page.tests_table(claims, made)["outcome"].tolist() == tried


@pytest.mark.slow
def test_the_committed_record_is_current() -> None:
    assert ledger.main(["--check"]) == 0
