"""Tables on pages are what the data says."""

import pytest

from book.build.tables import TABLES, fill, pages
from lofi_core.pruners import registered


def test_every_table_has_a_place() -> None:
    texts = "".join(page.read_text() for page in pages())
    assert all(f"<!-- {name}: begin -->" in texts for name in TABLES)


@pytest.mark.parametrize("page", pages(), ids=lambda page: page.name)
def test_pages_show_the_current_tables(page) -> None:
    text = page.read_text()
    assert fill(text, TABLES) == text, f"{page.name}: run 'python -m book.build.tables'"


def test_a_table_replaces_what_stood_in_its_place() -> None:
    old = "a\n<!-- x: begin -->\nold\n<!-- x: end -->\nb"
    assert fill(old, {"x": lambda: "new"}) == old.replace("old", "new")


@pytest.mark.parametrize("name", ["methods", "pruners"])
def test_every_method_has_a_row_without_gaps(name: str) -> None:
    rows = TABLES[name]().splitlines()
    assert len(rows) == 2 + len(registered())
    for kind, row in zip(registered(), rows[2:], strict=True):
        cells = [cell.strip() for cell in row.strip("|").split("|")]
        assert f"`{kind.name}`" in cells[0]
        assert all(cells) and len(cells) == rows[0].count("|") - 1
