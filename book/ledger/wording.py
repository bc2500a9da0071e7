"""Numbers as people read them: with their interval and unit, and as print sets them.

Records and code write -1.4, 7e-16 and "5.6 %" with the characters of a keyboard; pages set a minus
sign, powers of ten, and units that stay with their number.
"""

import re
from collections.abc import Mapping
from typing import Any

__all__ = ["criterion", "join_units", "limits", "show", "typeset"]

PERCENT = {"share", "points", "ratio"}
MINUS = re.compile(r"(?<![\w.])-(?=\.?\d)")
POWER = re.compile(r"(?<=\d)e([-+]?)0*(\d+)\b")
UNIT = re.compile(r"(?<=\d) (?=%)")
RAISED = str.maketrans("-0123456789", "⁻⁰¹²³⁴⁵⁶⁷⁸⁹")


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


def show(quantity: Mapping[str, Any]) -> str:
    """Render a quantity with its interval.

    >>> show({"value": 0.127, "low": 0.1, "high": 0.15, "unit": "points"})
    '+12.7 [+10.0, +15.0] points'
    """
    unit = quantity["unit"]
    value, low, high = (_number(quantity[name], unit) for name in ("value", "low", "high"))
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


def typeset(text: str) -> str:
    """Set the numbers in a text.

    >>> typeset("-1.4 [-1.8, 7e-16], bar-1")
    '−1.4 [−1.8, 7 × 10⁻¹⁶], bar-1'
    """
    text = POWER.sub(lambda m: f" × 10{(m[1].strip('+') + m[2]).translate(RAISED)}", text)
    return join_units(MINUS.sub("−", text))


def join_units(text: str) -> str:
    """Keep numbers on a line with their per cent sign."""
    return UNIT.sub("\N{NO-BREAK SPACE}", text)
