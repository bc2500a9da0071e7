"""The flip browser and the explorer: complete without scripts, the same with a kernel."""

import pandas as pd
import pytest
from PIL import Image

from book.visuals.browse import Flip, flip_browser
from book.visuals.explore import explorer
from lofi_core.errors import LofiError

WIDGET = "application/vnd.jupyter.widget-view+json"


def flip(before: str, after: str, truth: str = "red", question: str = "What colour?") -> Flip:
    picture = Image.new("RGB", (8, 8), "red")
    return Flip(picture, [0, 3], (2, 2), question, truth, before, after, "LoFi, half", (0.9, 0.4))


FLIPS = [flip("red", "blue"), flip("blue", "red"), flip("blue", "green"), flip("red", "green")]


def table(**changes: object) -> pd.DataFrame:
    rows = [
        {"method": m, "budget": b, "right_to_wrong": r, "wrong_to_right": w, "wrong_to_other": 0.1}
        for m, b, r, w in [("lofi", 0.5, 0.1, 0.2), ("lofi", 0.25, 0.4, 0.1), ("random", 0.5, 0, 0)]
    ]
    return pd.DataFrame(rows).assign(**changes)


def test_flips_are_told_apart_and_counted() -> None:
    kinds = ["right_to_wrong", "wrong_to_right", "wrong_to_other", "right_to_wrong"]
    shown = flip_browser(FLIPS)
    assert shown.kinds == kinds
    assert dict(map(reversed, shown.choices())) == {
        "": "all flips (4)",
        "right_to_wrong": "right to wrong (2)",
        "wrong_to_right": "wrong to right (1)",
        "wrong_to_other": "wrong to other (1)",
    }


def test_without_scripts_one_flip_is_shown_and_no_dead_control() -> None:
    page = flip_browser(FLIPS)._repr_html_()
    assert page.count('class="flip-card"') == 4
    assert (
        page.count('_wrong" hidden>')
        + page.count('_right" hidden>')
        + page.count('_other" hidden>')
        == 3
    )
    assert '<div class="flip-controls" hidden>' in page
    for part in ("What colour?", "2 of 4 kept", "<b>red</b> (90%) ✓", "<b>blue</b> (40%) ✗"):
        assert part in page


def test_text_of_a_flip_stays_text() -> None:
    page = flip_browser([flip("a", "b", question="<script>alert(1)</script>")])._repr_html_()
    assert "<script>alert" not in page


def test_live_flip_browser_walks_round_and_filters() -> None:
    shown = flip_browser(FLIPS)
    assert {WIDGET, "text/html"} <= shown._repr_mimebundle_().keys()
    controls, card = shown.widget().children
    previous, after, place, select = controls.children
    after.click()
    assert (card.value, place.value) == (shown.cards[1], "2 of 4")
    previous.click()
    previous.click()
    assert place.value == "4 of 4"
    select.value = "wrong_to_other"
    assert (card.value, place.value) == (shown.cards[2], "1 of 1")


def test_what_is_no_flip_is_refused() -> None:
    with pytest.raises(LofiError, match="no flips"):
        flip_browser([])
    with pytest.raises(LofiError, match=r"flips\[1\] has the answer 'red' before and after"):
        flip_browser([flip("red", "blue"), flip("red", "red")])


def test_explorer_orders_methods_by_flips_and_budgets_by_size() -> None:
    shown = explorer(table())
    assert shown.budgets == [0.5, 0.25]
    assert list(shown.sentences[0]) == ["random", "lofi"]
    assert list(shown.sentences[1]) == ["lofi"]
    assert shown.sentences[0]["lofi"].endswith(
        "40.0% of the answers flip. Accuracy changes by +10.0 points."
    )


def test_explorer_draws_bars_to_one_scale() -> None:
    shown = explorer(table(low=0.05, high=0.6))
    # the largest end of an interval, or else the largest flip rate, fills the cell
    assert f"width: {100 * 0.4 / 0.6:.2f}%" in shown.frames[1]
    assert f"width: {100 * 0.4 / 0.6:.2f}%" in explorer(table()).frames[1]
    assert "left: 8.33%; width: 91.67%" in shown.frames[0]


def test_live_explorer_says_what_is_chosen() -> None:
    shown = explorer(table())
    assert {WIDGET, "text/html"} <= shown._repr_mimebundle_().keys()
    view, slider, select, said = shown.widget().children
    select.value, slider.value = "lofi", 1
    assert view.value == shown.frames[1]
    assert said.value.startswith("lofi, 25% of the tokens: 60.0%")
    select.value = "random"
    assert said.value == "", "random has no budget of a quarter"


@pytest.mark.parametrize(
    ("rows", "message"),
    [
        (table().drop(columns="budget"), r"columns missing: \['budget'\]"),
        (table().iloc[:0], "0 rows"),
        (table(budget=0.5), "'lofi' at budget 0.5 occurs twice"),
        (table(right_to_wrong=12.0), r"12\.0; expected numbers in \[0, 1\]"),
    ],
)
def test_explorer_names_what_is_wrong(rows: pd.DataFrame, message: str) -> None:
    with pytest.raises(LofiError, match=message):
        explorer(rows)
