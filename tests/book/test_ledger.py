"""The ledger: claims in form, and a check that can fail."""

import json
from copy import deepcopy
from typing import Any

import pytest

from book.ledger import __main__ as command
from book.ledger.check import check
from book.ledger.claims import claims_of, read
from book.ledger.evidence import Evidence


def test_claims_are_in_form(made: dict[str, Any]) -> None:
    assert check(read(), made, made["metrics"]) == []


def corrupted(change: Any) -> Any:
    def test(made: dict[str, Any]) -> list[str]:
        claims, recorded, fresh = read(), deepcopy(made), deepcopy(made["metrics"])
        change({claim["id"]: claim for claim in claims}, recorded, fresh)
        return check(claims, recorded, fresh)

    return test


def change_quantity(claims: Any, recorded: Any, fresh: Any) -> None:
    recorded["metrics"]["lofi.lead.random"]["value"] += 0.001


def change_data(claims: Any, recorded: Any, fresh: Any) -> None:
    fresh["lofi.lead.random"]["value"] -= 0.001


def change_interval(claims: Any, recorded: Any, fresh: Any) -> None:
    quantity = recorded["metrics"]["lofi.lead.random"]
    quantity["low"] -= 0.2 * (quantity["high"] - quantity["low"])


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


def drop_quantity(claims: Any, recorded: Any, fresh: Any) -> None:
    del recorded["metrics"]["lofi.lead.random"]


def drop_data(claims: Any, recorded: Any, fresh: Any) -> None:
    fresh["lofi.lead.random"] = {"missing": "no answers"}


def drop_reason(claims: Any, recorded: Any, fresh: Any) -> None:
    claims["beats-controls"]["tests"] = []


CORRUPTIONS = [change_quantity, change_data, change_interval, change_count, change_verdict]
CORRUPTIONS += [change_words, change_criterion, change_notebook, change_metric, change_kind]
CORRUPTIONS += [change_source, drop_verdict, drop_quantity, drop_data, drop_reason]


@pytest.mark.parametrize("change", CORRUPTIONS, ids=lambda f: f.__name__)
def test_the_check_names_the_claim(change: Any, made: dict[str, Any]) -> None:
    problems = corrupted(change)(made)
    assert any("beats-controls" in problem for problem in problems), problems


def test_an_error_beyond_its_tolerance_fails(made: dict[str, Any]) -> None:
    """Rounding differs between machines, so only the criterion bounds it."""
    fresh = deepcopy(made["metrics"])
    fresh["drop.mask_error"] |= dict.fromkeys(("value", "low", "high"), 2e-6)
    assert check(read(), made, fresh) == []
    fresh["drop.mask_error"] |= dict.fromkeys(("value", "low", "high"), 0.1)
    (problem,) = check(read(), made, fresh)
    assert problem.startswith("dropping-is-masking")


def test_another_sample_of_the_bootstrap_passes(made: dict[str, Any]) -> None:
    fresh = deepcopy(made["metrics"])
    quantity = fresh["lofi.lead.random"]
    quantity["low"] += 0.03 * (quantity["high"] - quantity["low"])
    assert check(read(), made, fresh) == []


def test_the_command_writes_and_checks(
    evidence: Evidence, made: dict[str, Any], tmp_path: Any, monkeypatch: Any, capsys: Any
) -> None:
    monkeypatch.setattr(command, "load", lambda *_: evidence.results)
    monkeypatch.setattr(command, "compute", lambda _: deepcopy(made["metrics"]))
    path = tmp_path / "metrics.json"
    assert command.main(["--record", str(path)]) == 0
    assert command.main(["--record", str(path), "--check"]) == 0
    record = json.loads(path.read_text())
    record["verdicts"]["deflation"]["verdict"] = "true"
    path.write_text(json.dumps(record))
    assert command.main(["--record", str(path), "--check"]) == 1
    assert "deflation" in capsys.readouterr().err


def test_claims_of_a_chapter() -> None:
    ids = [claim["id"] for claim in claims_of("notebooks/05-why-energy-and-ipr")]
    assert "ipr-consistency" in ids
    assert "deflation" not in ids
    named = claims_of("05-why-energy-and-ipr.ipynb")
    assert [claim["id"] for claim in named] == ids


@pytest.mark.slow
def test_the_committed_record_is_current() -> None:
    assert command.main(["--check"]) == 0
