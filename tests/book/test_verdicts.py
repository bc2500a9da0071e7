"""Verdicts by the rule, and the words that say them."""

from typing import Any

import pytest

from book.ledger.verdicts import outcome, verdict
from book.ledger.wording import criterion, show


def quantity(low: float, high: float, **more: Any) -> dict[str, Any]:
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
    ("test", "low", "high", "expected"),
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
def test_the_rule(test: dict[str, Any], low: float, high: float, expected: str) -> None:
    assert outcome({"metric": "x", **test}, {"x": quantity(low, high)}) == expected


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
    quantities = {
        str(i): {"missing": "nothing"} if x is None else quantity(*x)
        for i, x in enumerate(intervals)
    }
    claim = {"id": "c", "about": "large VLMs", "not_attempted": "No time."}
    claim["tests"] = [{"metric": name, "above": 0} for name in quantities]
    found = verdict(claim, quantities)
    assert found["verdict"] == expected
    tried = any(intervals)
    assert ("models a thousand times its size" in found["says"]) == tried
    assert ("SceneVLM, float32, cpu" in found["says"]) == tried


def test_an_interval_and_a_criterion_are_readable() -> None:
    assert show(quantity(-0.01, 0.03)) == "+1.0 [-1.0, +3.0] points"
    assert criterion({"metric": "x", "below": -0.7}, "correlation") == "below -0.7"
    assert criterion({"metric": "x", "value": 0, "tolerance": 0}, "cases") == "exactly 0"
