"""The capability table says what the tests found."""

import json

from book.build.capabilities import COLUMNS, RESULTS, render, summarise
from lofi_core.vlm.families import FAMILIES


def case(**changes: object) -> dict[str, object]:
    plain = {"family": "a", "test": "test_x", "layout": None, "device": "cpu", "passed": True}
    return plain | changes


def test_a_cell_says_yes_only_if_all_passed() -> None:
    cases = [
        case(layout="video"),
        case(layout="video", device="cuda"),
        case(test="test_beams"),
        case(test="test_beams", passed=False),
    ]
    table = render({"families": summarise(cases), "environment": {"torch": "1"}}).splitlines()
    names = [cell.strip() for cell in table[0].strip("|").split("|")]
    row = dict(zip(names, (cell.strip() for cell in table[2].strip("|").split("|")), strict=True))
    assert row["video"] == "yes" and row["beams"] == "**no**" and row["chat"] == ""
    assert row["CPU"] == "2 of 3" and row["CUDA"] == "1 of 1"


def test_the_recorded_table_covers_every_family_and_column() -> None:
    results = json.loads(RESULTS.read_text())
    assert set(results["families"]) == set(FAMILIES)
    for family, row in results["families"].items():
        assert set(row) == set(COLUMNS)
        assert row["CPU"][0] == row["CPU"][1] > 0, family
        assert row["image"][1] > 0 and row["padded batch"][1] > 0
