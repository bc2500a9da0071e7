"""From a claim and the figures to a verdict, and to the words that say it.

No verdict is typed: a test *holds* if its 95 % interval lies in the claimed range, *fails* if it
lies outside, and is *open* otherwise; a claim is *replicated* if all its tests hold, *not
replicated* if all fail, and *partly* in between. A claim without tests, or without data for them,
is *not attempted*.
"""

from collections.abc import Mapping
from typing import Any

__all__ = ["VERDICTS", "Claim", "Figures", "criterion", "judge", "limits", "show", "verdict"]

VERDICTS = ("replicated", "partly", "not replicated", "not attempted")

Claim = dict[str, Any]
Figures = Mapping[str, Mapping[str, Any]]


def limits(test: Mapping[str, Any]) -> tuple[float, float]:
    """Return the claimed range of a test.

    >>> limits({"metric": "x", "above": 0})
    (0.0, inf)
    """
    if "tolerance" in test:
        low, high = test["value"] - test["tolerance"], test["value"] + test["tolerance"]
    else:
        low, high = test.get("between", (test.get("above", "-inf"), test.get("below", "inf")))
    return float(low), float(high)


def judge(test: Mapping[str, Any], figures: Figures) -> str:
    """Say of one test: holds, fails, open, or no data.

    >>> judge({"metric": "x", "above": 0}, {"x": {"value": 1, "low": -1, "high": 3}})
    'open'
    """
    figure = figures[test["metric"]]
    if "missing" in figure:
        return "no data"
    low, high = limits(test)
    if "above" in test:  # and a figure at the limit is not beyond it
        inside, outside = figure["low"] > low, figure["high"] <= low
    elif "below" in test:
        inside, outside = figure["high"] < high, figure["low"] >= high
    else:
        inside = low <= figure["low"] and figure["high"] <= high
        outside = figure["high"] < low or figure["low"] > high
    return "holds" if inside else "fails" if outside else "open"


def verdict(claim: Claim, figures: Figures) -> dict[str, Any]:
    """Judge a claim: verdict, one outcome a test, and the sentence that says it."""
    outcomes = [judge(test, figures) for test in claim["tests"]]
    tried = [outcome for outcome in outcomes if outcome != "no data"]
    if not tried:
        result = "not attempted"
    elif all(outcome == "holds" for outcome in outcomes):
        result = "replicated"
    else:
        result = "not replicated" if all(o == "fails" for o in tried) else "partly"
    return {"verdict": result, "tests": outcomes, "says": _sentence(claim, outcomes, figures)}


def _sentence(claim: Claim, outcomes: list[str], figures: Figures) -> str:
    """Say what was found, on what, and on what it was not."""
    if not claim["tests"]:
        return " ".join(claim["not_attempted"].split())
    parts, made_by = [], set()
    for test, outcome in zip(claim["tests"], outcomes, strict=True):
        figure = figures[test["metric"]]
        if outcome == "no data":
            parts.append(f"no data: {figure['missing']}")
            continue
        of = f" of {figure['images']:,} images" if figure["images"] else ""
        parts.append(
            f"{outcome}: {show(figure)}, claimed {criterion(test, figure['unit'])} "
            f"(n = {figure['n']:,}{of})"
        )
        if figure["model"] != "none":
            where = [w for w in (figure["dtype"], figure["device"]) if w != "none"]
            made_by.add(", ".join([figure["model"], *where]))
    tested = f" Tested on {'; '.join(sorted(made_by))}." if made_by else ""
    elsewhere = claim["about"] == "large VLMs" and any("SceneVLM" in m for m in made_by)
    remark = " The claim is about models a thousand times its size." if elsewhere else ""
    return "; ".join(parts) + "." + tested + remark


PERCENT = {"share", "points", "ratio"}


def show(figure: Mapping[str, Any]) -> str:
    """Render a figure with its interval as people read it.

    >>> show({"value": 0.127, "low": 0.1, "high": 0.15, "unit": "points"})
    '+12.7 [+10.0, +15.0] points'
    """
    unit = figure["unit"]
    value, low, high = (_number(figure[name], unit) for name in ("value", "low", "high"))
    interval = "" if low == high else f" [{low}, {high}]"
    ending = {"points": " points", "share": " %", "ratio": " %"}.get(unit, f" {unit}")
    return f"{value}{interval}{'' if unit in ('correlation', 'AUC', 'error') else ending}"


def _number(value: float, unit: str) -> str:
    if unit in ("points", "AUC lead"):
        return f"{100 * value:+.1f}" if unit == "points" else f"{value:+.3f}"
    if unit in PERCENT:
        return f"{100 * value:.1f}"
    if unit in ("correlation", "AUC"):
        return f"{value:.3f}"
    return f"{value:.0e}" if unit == "error" and value else f"{value:.0f}"


def criterion(test: Mapping[str, Any], unit: str) -> str:
    """Render the claimed range of a test.

    >>> criterion({"metric": "x", "between": [-0.003, 0.003]}, "points")
    '-0.3 to +0.3'
    """
    low, high = limits(test)
    if "tolerance" in test:
        exact, room = (_bound(test[name], unit) for name in ("value", "tolerance"))
        return f"{exact} ± {room.lstrip('+')}" if test["tolerance"] else f"exactly {exact}"
    if "between" in test:
        return f"{_bound(low, unit)} to {_bound(high, unit)}"
    return f"above {_bound(low, unit)}" if "above" in test else f"below {_bound(high, unit)}"


def _bound(value: float, unit: str) -> str:
    """Render a limit: a number that somebody wrote, without digits that it does not have."""
    scaled = 100 * value if unit in PERCENT else value
    return f"{scaled:+.4g}" if unit in ("points", "AUC lead") and value else f"{scaled:.4g}"
