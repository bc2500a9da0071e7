"""The ledger on pages: quantities from the record, none typed, and all that belongs to a claim."""

import html
import importlib.util
import re
from copy import deepcopy
from pathlib import Path
from typing import Any

import nbformat
import pytest
from docutils.core import publish_doctree
from docutils.parsers.rst import roles

from book.ledger import page as ledger_page
from book.ledger.claims import ROOT, read, typed
from book.ledger.quantities import METRICS
from book.ledger.wording import criterion, show, typeset


def test_typed_results_are_found() -> None:
    claims = [{"quote": "accuracy (±0.3% change)", "statement": "by 12.7 points"}]
    assert typed("the source's ±0.3 % and 12.7 points, at 22 % of the tokens", claims) == []
    assert typed("we find 4.1 % and +2.25 points", claims) == ["4.1", "+2.25"]


def prose() -> list[tuple[str, str]]:
    """Pages, and texts of notebooks, that speak of results."""
    found = [(p.name, p.read_text()) for p in (ROOT / "index.md", ROOT / "README.md")]
    for name in ("04", "05", "07", "11"):
        for path in (ROOT / "notebooks").glob(f"{name}-*.ipynb"):
            cells = nbformat.read(path, as_version=4).cells
            text = "\n\n".join(c.source for c in cells if c.cell_type == "markdown")
            found.append((path.name, text))
    return found


@pytest.mark.parametrize(("name", "text"), prose(), ids=lambda x: x if len(x) < 40 else "")
def test_prose_types_no_results(name: str, text: str) -> None:
    assert typed(text, read()) == [], f"{name}: use {{metric}}`key` instead"


@pytest.mark.parametrize(("name", "text"), prose(), ids=lambda x: x if len(x) < 40 else "")
def test_prose_quotes_known_metrics(name: str, text: str) -> None:
    assert {*re.findall(r"\{metric\}`([^`]+)`", text)} <= METRICS.keys()
    ids = {claim["id"] for claim in read()}
    assert {*re.findall(r"\{verdict\}`([^`]+)`", text)} <= ids


def publish(text: str, record: dict[str, Any], monkeypatch: Any) -> str:
    """Render a line with the roles of the Sphinx extension."""
    path = ROOT / "book" / "_ext" / "ledger_roles.py"
    spec = importlib.util.spec_from_file_location("ledger_roles", path)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    monkeypatch.setattr(module, "recorded", lambda: record)
    for role in ("metric", "verdict"):
        monkeypatch.setitem(roles._roles, role, getattr(module, role))
    return publish_doctree(text, settings_overrides={"report_level": 5}).pformat()


def test_pages_take_quantities_from_the_record(made: dict[str, Any], monkeypatch: Any) -> None:
    page = publish(":metric:`lofi.lead.random`, :verdict:`deflation`", made, monkeypatch)
    assert typeset(show(made["metrics"]["lofi.lead.random"])) in page
    assert made["verdicts"]["deflation"]["verdict"] in page
    for wrong in (":metric:`lofi.lead.all`", ":metric:`cost.selection_share@25`", ":verdict:`it`"):
        without = deepcopy(made)
        without["metrics"]["cost.selection_share@25"] = {"missing": "no benchmark was recorded"}
        assert 'level="3"' in publish(wrong, without, monkeypatch)


def test_the_page_shows_source_verdict_quantity_criterion_and_n_of_every_claim(
    made: dict[str, Any],
) -> None:
    claims = read()
    page = ledger_page.Table(claims, made)._repr_html_()
    cards = re.split(r'(?=<div class="claim")', page)[1:]
    assert len(cards) == len(claims)
    for claim, card in zip(claims, cards, strict=True):
        found = made["verdicts"][claim["id"]]
        assert f'id="claim-{claim["id"]}"' in card and found["verdict"] in card
        assert claim["from"] in card and f'{Path(claim["notebook"]).name}.html"' in card
        for test in claim["tests"]:
            quantity = made["metrics"][test["metric"]]
            if "missing" in quantity:
                assert html.escape(quantity["missing"]) in card
                continue
            assert typeset(show(quantity)) in card
            assert typeset(criterion(test, quantity["unit"])) in card
            assert (
                f"n = {quantity['n']:,}" in card and html.escape(typeset(quantity["what"])) in card
            )
            assert quantity["model"] == "none" or quantity["model"] in card


def test_one_row_per_test_with_data(made: dict[str, Any]) -> None:
    claims = read()
    tried = [t for c in claims for t in made["verdicts"][c["id"]]["tests"] if t != "no data"]
    assert ledger_page.tests_table(claims, made)["outcome"].tolist() == tried
