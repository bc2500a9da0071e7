"""Figures of results: what is drawn is what the table says, and no method is left out."""

import numpy as np
import pandas as pd
import pytest
from matplotlib.colors import to_hex

from book.visuals.browse import KINDS
from book.visuals.differences import plot_cells, plot_leads
from book.visuals.figures import FAINT, plot_budgets, plot_flows, plot_hazard
from lofi_core.plots import METHOD_COLORS

pytestmark = pytest.mark.usefixtures("clean_figures")


@pytest.fixture()
def table() -> pd.DataFrame:
    methods, budgets = ["lofi", "random", "tome"], [0.5, 0.22, 0.05]
    rows = pd.DataFrame([(m, b) for m in methods for b in budgets], columns=["method", "budget"])
    rng = np.random.default_rng(0)
    rows["measured"] = rows.budget
    rows["right_to_wrong"], rows["wrong_to_right"], rows["wrong_to_other"] = rng.random((3, 9)) / 4
    rows["accuracy_change"] = rows.wrong_to_right - rows.right_to_wrong
    rows["flip_rate"] = rows[[*KINDS]].sum(axis=1)
    return rows


def drawn(ax) -> dict[str, list]:
    """Colour to the data of its lines."""
    lines: dict[str, list] = {}
    for line in ax.lines:
        lines.setdefault(to_hex(line.get_color()), []).append(np.asarray(line.get_ydata(), float))
    return lines


@pytest.mark.parametrize("plot", [plot_hazard, lambda t, h: plot_budgets(t, "flip_rate", h)])
def test_every_method_is_drawn_and_few_are_coloured(table, plot) -> None:
    ax = plot(table, ["lofi"])
    lines = drawn(ax)
    expected = table[table.method == "lofi"].flip_rate
    np.testing.assert_allclose(np.sort(lines[METHOD_COLORS["lofi"]][0]), np.sort(expected))
    assert len(lines[FAINT]) == 2, "the other two methods, in grey"
    assert [text.get_text() for text in ax.get_legend().get_texts()] == ["lofi"]


def test_highlighted_methods_without_rows_are_no_error(table) -> None:
    assert len(plot_hazard(table, ["fastv", "lofi"]).get_legend().get_texts()) == 1


def test_flows_end_where_accuracy_does(table) -> None:
    part = table[table.budget == 0.5].set_index("method")
    ax = plot_flows(part)
    diamonds = next(line for line in ax.lines if line.get_marker() == "D")
    np.testing.assert_allclose(diamonds.get_xdata(), part.accuracy_change)
    ends = np.array([bar.get_x() + bar.get_width() for bar in ax.patches]).reshape(3, 3)
    np.testing.assert_allclose(ends[0], -part.right_to_wrong)
    np.testing.assert_allclose(ends[2], part.wrong_to_right + part.wrong_to_other)


def test_flows_beyond_the_edge_are_written(table) -> None:
    part = table[table.budget == 0.5].set_index("method")
    part["right_to_wrong"] = [0.1, 0.42, 0.2]
    ax = plot_flows(part, edge=0.3)
    (text,) = ax.texts
    assert (text.get_text(), text.get_position()[1]) == ("◀ 42%", 1)
    assert ax.get_xlim()[0] == -0.3


def test_cells_that_are_not_sure_have_no_colour() -> None:
    values = pd.DataFrame({"50 %": [0.1, -0.1], "5 %": [0.01, np.nan]}, index=["a", "b"])
    ax = plot_cells(values, values.abs() > 0.05, "budget")
    shown = np.ma.filled(ax.images[0].get_array(), np.nan)
    np.testing.assert_allclose(shown, [[10, np.nan], [-10, np.nan]])
    assert sorted(text.get_text() for text in ax.texts) == ["+1.0", "+10.0", "−10.0"]


def test_leads_are_filled_where_they_are_sure() -> None:
    found = pd.DataFrame(
        {
            "rival": ["random, 50 %", "divprune, 50 %"],
            "difference": [0.02, 0.01],
            "low": [0.01, -0.01],
            "high": [0.03, 0.03],
            "p_holm": [0.01, 0.4],
        }
    )
    points = [line for line in plot_leads(found).lines if line.get_marker() == "o"]
    colors = [to_hex(point.get_markerfacecolor()) for point in points]
    assert colors == [METHOD_COLORS["random"].lower(), "#ffffff"]
    assert [float(point.get_xdata()[0]) for point in points] == [2.0, 1.0]


def test_two_methods_share_the_rows_of_a_figure() -> None:
    row = {"rival": "random", "difference": 0.02, "low": 0.01, "high": 0.03, "p_holm": 0.01}
    ax = plot_leads(pd.DataFrame([row]), order=["divprune", "random"], marker="s", shift=0.2)
    (point,) = (line for line in ax.lines if line.get_marker() == "s")
    assert point.get_ydata()[0] == 1.2
    assert [label.get_text() for label in ax.get_yticklabels()] == ["divprune", "random"]
