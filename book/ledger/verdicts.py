"""From a claim and the quantities to a verdict, and to the words that say it.

No verdict is typed: a test *holds* if its 95 % interval lies in the claimed range, *fails* if it
lies outside, and is *open* otherwise; a claim is *replicated* if all its tests hold, *not
replicated* if all fail, and *partly* in between. A claim without tests, or without data for them,
is *not attempted*.
"""

from collections.abc import Mapping
from typing import Any

from book.ledger.claims import Claim
from book.ledger.wording import criterion, limits, show

__all__ = ["VERDICTS", "Quantities", "outcome", "verdict"]

VERDICTS = ("replicated", "partly", "not replicated", "not attempted")

Quantities = Mapping[str, Mapping[str, Any]]


def outcome(test: Mapping[str, Any], quantities: Quantities) -> str:
    """Say of one test: holds, fails, open, or no data.

    >>> outcome({"metric": "x", "above": 0}, {"x": {"value": 1, "low": -1, "high": 3}})
    'open'
    """
    quantity = quantities[test["metric"]]
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


def verdict(claim: Claim, quantities: Quantities) -> dict[str, Any]:
    """Judge a claim: verdict, one outcome per test, and the sentence that says it."""
    outcomes = [outcome(test, quantities) for test in claim["tests"]]
    tried = [o for o in outcomes if o != "no data"]
    if not tried:
        result = "not attempted"
    elif all(o == "holds" for o in outcomes):
        result = "replicated"
    else:
        result = "not replicated" if all(o == "fails" for o in tried) else "partly"
    return {"verdict": result, "tests": outcomes, "says": _sentence(claim, outcomes, quantities)}


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
        of = f" of {quantity['images']:,} images" if quantity["images"] else ""
        parts.append(
            f"{found}: {show(quantity)}, claimed {criterion(test, quantity['unit'])} "
            f"(n = {quantity['n']:,}{of})"
        )
        if quantity["model"] != "none":
            where = [w for w in (quantity["dtype"], quantity["device"]) if w != "none"]
            made_by.add(", ".join([quantity["model"], *where]))
    tested = f" Tested on {'; '.join(sorted(made_by))}." if made_by else ""
    elsewhere = claim["about"] == "large VLMs" and any("SceneVLM" in m for m in made_by)
    remark = " The claim is about models a thousand times its size." if elsewhere else ""
    return "; ".join(parts) + "." + tested + remark
