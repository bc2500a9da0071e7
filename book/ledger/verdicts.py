"""From a claim and the quantities to a verdict, and to the words that say it.

No verdict is typed: a test *holds* if its 95 % interval lies in the claimed range, *fails* if it
lies outside, and is *open* otherwise. A claim that the models here can decide is *replicated* if
all its tests hold, *not replicated* if all fail; one about large models is *observed here*, or *not
observed here*. Both are *partly* so in between. A claim without tests, or without data for them, is
*not attempted*.
"""

from collections.abc import Mapping
from typing import Any

from book.ledger.claims import Claim
from book.ledger.quantities import views_of
from book.ledger.wording import criterion, limits, show

__all__ = ["VERDICTS", "Quantities", "control_keys", "outcome", "rests_on", "verdict", "views"]

VERDICTS = (
    *("replicated", "observed here", "partly", "not replicated", "not observed here"),
    "not attempted",
)
LARGE = "large VLMs"

Quantities = Mapping[str, Mapping[str, Any]]


def outcome(test: Mapping[str, Any], quantities: Quantities, world: str = "") -> str:
    """Say of one test: holds, fails, open, or no data.

    >>> outcome({"metric": "x", "above": 0}, {"x": {"value": 1, "low": -1, "high": 3}})
    'open'
    """
    quantity = quantities[test["metric"] + (f"~{world}" if world else "")]
    if "missing" in quantity:
        return "no data"
    low, high = limits(test)
    if "above" in test:  # and a quantity at the limit is not beyond it
        inside, outside = quantity["low"] > low, quantity["high"] <= low
    elif "below" in test:
        inside, outside = quantity["high"] < high, quantity["low"] >= high
    else:
        inside = low <= quantity["low"] and quantity["high"] <= high
        outside = quantity["high"] < low or quantity["low"] > high
    return "holds" if inside else "fails" if outside else "open"


def verdict(
    claim: Claim, quantities: Quantities, controlled: Quantities | None = None
) -> dict[str, Any]:
    """Judge a claim.

    Parameters
    ----------
    claim
        An entry of book/claims.yml.
    quantities
        Of the results as recorded, and in their views.
    controlled : optional
        Those in the worlds of the controls; without them no control is judged.

    Returns
    -------
    dict
        ``verdict``; ``tests``, one outcome per test; ``controls``, the outcomes in the worlds where
        they must not hold; ``views``, verdict and outcomes in other views; and what it ``says``.
    """
    outcomes = [outcome(test, quantities) for test in claim["tests"]]
    controls = []
    if controlled is not None:
        controls = [outcome(test, controlled, test["control"]) for test in claim["tests"]]
    seen = {}
    for view in views(claim):
        there = [outcome(t, quantities, view * (view in _views(t))) for t in claim["tests"]]
        seen[view] = {"verdict": _word(claim, there), "tests": there}
    return {
        "verdict": _word(claim, outcomes),
        "tests": outcomes,
        "controls": controls,
        "views": seen,
        "says": _sentence(claim, outcomes, quantities),
    }


def views(claim: Claim) -> list[str]:
    """Views in which at least one of the claim's tests is computed."""
    return list(dict.fromkeys(view for test in claim["tests"] for view in _views(test)))


def control_keys(claims: list[Claim]) -> list[str]:
    """Keys of what the controls of all tests need."""
    return sorted({f"{t['metric']}~{t['control']}" for c in claims for t in c["tests"]})


def _views(test: Mapping[str, Any]) -> tuple[str, ...]:
    return views_of(test["metric"])


def _word(claim: Claim, outcomes: list[str]) -> str:
    tried = [o for o in outcomes if o != "no data"]
    if not tried:
        return "not attempted"
    large = claim["about"] == LARGE
    if all(o == "holds" for o in outcomes):
        return "observed here" if large else "replicated"
    if all(o == "fails" for o in tried):
        return "not observed here" if large else "not replicated"
    return "partly"


def _sentence(claim: Claim, outcomes: list[str], quantities: Quantities) -> str:
    """Say what was found, on what, and on what it was not."""
    if not claim["tests"]:
        return " ".join(claim["not_attempted"].split())
    parts, made_by = [], set()
    for test, found in zip(claim["tests"], outcomes, strict=True):
        quantity = quantities[test["metric"]]
        if found == "no data":
            parts.append(f"no data: {quantity['missing']}")
            continue
        parts.append(
            f"{found}: {show(quantity)}, claimed {criterion(test, quantity['unit'])} "
            f"({rests_on(quantity)})"
        )
        if quantity["model"] != "none":
            where = [w for w in (quantity["dtype"], quantity["device"]) if w != "none"]
            made_by.add(", ".join([quantity["model"], *where]))
    tested = f" Tested on {'; '.join(sorted(made_by))}." if made_by else ""
    elsewhere = claim["about"] == LARGE and any("SceneVLM" in m for m in made_by)
    remark = " The claim is about models a thousand times its size." if elsewhere else ""
    return "; ".join(parts) + "." + tested + remark


def rests_on(quantity: Mapping[str, Any]) -> str:
    """Say what was counted, and what the interval is over.

    >>> rests_on({"n": 7000, "images": 1000, "methods": 15})
    'n = 7,000 of 1,000 images and 15 methods'
    """
    units = {"images": quantity["images"], "methods": quantity["methods"]}
    over = " and ".join(f"{count:,} {name}" for name, count in units.items() if count)
    return f"n = {quantity['n']:,}" + (f" of {over}" if over else "")
