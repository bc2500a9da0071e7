"""Which model families can be pruned, and how: a table made of the tests' results, never typed.

    python -m book.build.capabilities    run the contract, write book/results/capabilities.json

`book.build.tables` puts the table on its pages.
A cell says yes if every case of the contract (tests/test_models.py) that bears on it passed, no if
one failed, and nothing if there is none.
"""

import json
import platform
import sys
from collections.abc import Callable, Iterable
from importlib.metadata import version
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    import pytest

__all__ = ["COLUMNS", "RESULTS", "render", "summarise"]

ROOT = Path(__file__).resolve().parents[2]
RESULTS = ROOT / "book" / "results" / "capabilities.json"

# A case: the test's name and parameters, where it ran, how it ended.
Case = dict[str, Any]


def _layout(*names: str) -> Callable[[Case], bool]:
    return lambda case: case["layout"] in names


def _test(*names: str) -> Callable[[Case], bool]:
    return lambda case: case["test"].removeprefix("test_") in names


COLUMNS: dict[str, Callable[[Case], bool]] = {
    "image": _layout("one"),
    "several images": _layout("two"),
    "unequal images": _layout("unequal"),
    "video": _layout("video", "mixed"),
    "padded batch": lambda case: (
        _layout("left", "right")(case) or _test("each_row_equals_the_row_alone")(case)
    ),
    "positions kept or compact": _test("positions", "greedy_equals_recomputation"),
    "beams": _test("beams"),
    "sampling": _test("sampling"),
    "static cache": _test("static_cache"),
    "chat": _test("several_turns"),
    "bf16, fp16": _test("half_precision"),
    "CPU": lambda case: case["device"] == "cpu",
    "CUDA": lambda case: case["device"] == "cuda",
}


def summarise(cases: Iterable[Case]) -> dict[str, Any]:
    """Condense cases into one row a family: by column, how many passed of how many.

    Examples
    --------
    >>> case = {"family": "llava", "test": "test_beams", "layout": None, "device": "cpu"}
    >>> rows = summarise([case | {"passed": True}, case | {"passed": False}])
    >>> rows["llava"]["beams"], rows["llava"]["video"]
    ([1, 2], [0, 0])
    """
    families: dict[str, Any] = {}
    for case in cases:
        row = families.setdefault(case["family"], {name: [0, 0] for name in COLUMNS})
        for name, bears_on in COLUMNS.items():
            if bears_on(case):
                row[name][0] += case["passed"]
                row[name][1] += 1
    return families


def render(results: dict[str, Any]) -> str:
    """Render results, as the JSON file holds them, as a Markdown table."""
    signs = {True: "yes", False: "**no**"}
    lines = [
        "| family | " + " | ".join(COLUMNS) + " |",
        "| --- |" + " :-: |" * len(COLUMNS),
    ]
    for family, row in results["families"].items():
        cells = []
        for name in COLUMNS:
            passed, total = row[name]
            cells.append(signs[passed == total] if total else "")
            if name in ("CPU", "CUDA") and total:
                cells[-1] = f"{passed} of {total}"
        lines.append(f"| `{family}` | " + " | ".join(cells) + " |")
    where = results["environment"]
    lines += [
        "",
        "Made by running the contract with "
        + ", ".join(f"{name} {number}" for name, number in where.items())
        + ".",
    ]
    return "\n".join(lines)


class Recorder:
    """A pytest plugin that notes how each case of a family ended."""

    def __init__(self) -> None:
        self.cases: list[Case] = []
        self._known: dict[str, Case] = {}

    def pytest_collection_modifyitems(self, items: "list[pytest.Item]") -> None:
        for item in items:
            params = getattr(getattr(item, "callspec", None), "params", {})
            if "family" in params:
                self._known[item.nodeid] = {
                    "family": params["family"],
                    "test": item.originalname,  # type: ignore[attr-defined]
                    "layout": params.get("layout"),
                    "device": params.get("device", "cpu"),
                }

    def pytest_runtest_logreport(self, report: "pytest.TestReport") -> None:
        case = self._known.get(report.nodeid)
        if case is not None and (report.when == "call" or report.failed):
            self.cases.append(case | {"passed": report.passed})


def main() -> int:
    """Run the contract and record how it ended; the exit status is that of the tests."""
    import pytest  # here, because the table alone needs no test extras

    recorder = Recorder()
    status = pytest.main(["-q", str(ROOT / "tests" / "test_models.py")], plugins=[recorder])
    results = {
        "environment": {
            "Python": platform.python_version(),
            **{name: version(name) for name in ("torch", "transformers")},
        },
        "families": summarise(recorder.cases),
    }
    RESULTS.parent.mkdir(parents=True, exist_ok=True)
    RESULTS.write_text(json.dumps(results, indent=1) + "\n")
    return int(status)


if __name__ == "__main__":
    sys.exit(main())
