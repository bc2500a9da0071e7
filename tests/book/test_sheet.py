"""Contact sheets: what is veiled, once stored, and refused."""

import re

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from book.visuals.sheet import CELL, contact_sheet
from lofi_core.errors import LofiError

PICTURE = Image.new("RGB", (24, 24), (200, 30, 30))
BOX = re.compile(r"M([\d.e-]+) ([\d.e-]+)h([\d.e-]+)v([\d.e-]+)H")


@settings(deadline=None)
@given(kept=st.sets(st.integers(0, 23)), columns=st.integers(1, 3))
def test_the_veil_covers_what_is_dropped(kept: set[int], columns: int) -> None:
    svg = contact_sheet(PICTURE, {"one": kept, "other": range(24)}, (4, 6), columns)
    covered = set()
    for x, y, w, h in (map(float, box) for box in BOX.findall(svg)):
        assert h == CELL / 4
        row, first, count = round(y / h), round(x * 6 / CELL), round(w * 6 / CELL)
        covered |= {6 * row + first + j for j in range(count)}
    assert covered == set(range(24)) - kept
    assert svg.count("<use") == 2 and svg.count("data:image/png") == 1


def test_labels_are_escaped_and_bad_input_refused() -> None:
    assert "&lt;b&gt;" in contact_sheet(PICTURE, {"<b>": [0]}, (2, 2))
    with pytest.raises(LofiError, match=r"0\.\.3"):
        contact_sheet(PICTURE, {"x": [4]}, (2, 2))
    with pytest.raises(LofiError, match="at least one"):
        contact_sheet(PICTURE, {}, (2, 2))
