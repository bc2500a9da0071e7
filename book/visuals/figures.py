"""Figures of results: many methods at many budgets, of which the reader should see a few.

Every function takes a tidy table, one row a method and budget, in shares from 0 to 1, and draws
percent. The methods named in ``highlight`` get their colour of `lofi_core.plots.METHOD_COLORS` and
a label; the others are drawn thin and grey, so that none is left out and none is in the way.
"""

from collections.abc import Sequence
from typing import Any

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.ticker import FixedLocator, NullLocator, PercentFormatter

from book.visuals.browse import KINDS
from lofi_core.plots import INK, METHOD_COLORS

__all__ = ["plot_budgets", "plot_flows", "plot_hazard", "plot_levels"]

FAINT = "#c9c9c9"
# Relatives share a colour and differ by line and marker.
STYLES: dict[str, dict[str, str]] = {
    "deflated-lofi": {"ls": "--", "marker": "s"},
    "anti-lofi": {"ls": "-", "marker": "v"},
    "random": {"ls": ":", "marker": "o"},
    "uniform": {"ls": "-.", "marker": "D"},
    "divprune": {"ls": "-", "marker": "^"},
    "fastervlm": {"ls": "-", "marker": "P"},
    "fastv": {"ls": "-", "marker": "X"},
}


def plot_hazard(
    table: pd.DataFrame, highlight: Sequence[str], loss: float = 0.15, ax: Axes | None = None
) -> Axes:
    """Draw flip rate over accuracy change, a point a method and budget, budgets joined by a line.

    Below the two grey edges nothing can be: ``flip rate >= |accuracy change|``.

    Parameters
    ----------
    table : DataFrame
        With ``method``, ``budget``, ``accuracy_change`` and ``flip_rate``.
    highlight : sequence of str
        Methods to colour and label.
    loss : float
        Where the frame ends; points of a greater loss of accuracy are outside.
    ax : Axes, optional
        Where to draw; by default a new figure.

    Returns
    -------
    Axes

    Examples
    --------
    >>> row = {"method": "lofi", "budget": 0.5, "accuracy_change": -0.01, "flip_rate": 0.08}
    >>> ax = plot_hazard(pd.DataFrame([row]), ["lofi"])
    >>> len(ax.lines), ax.get_xlabel()
    (2, 'accuracy change, points')
    >>> plt.close(ax.figure)
    """
    ax = ax or plt.figure(figsize=(7.5, 4.4)).add_subplot()
    for method, part in _in_order(table, highlight):
        x, y = part["accuracy_change"], part["flip_rate"]
        ax.plot(x, y, **_look(method, highlight))
    inside = table[table["accuracy_change"] >= -loss]
    ax.set_xlim(-loss, max(0.02, 1.1 * inside["accuracy_change"].max()))
    ax.set_ylim(0, max(0.02, 1.05 * inside["flip_rate"].max()))
    edge = np.array([-1, 0, 1])
    ax.fill_between(edge, np.abs(edge), color="#808080", alpha=0.15, lw=0)
    ax.axvline(0, color=INK, lw=0.8)
    ax.set(xlabel="accuracy change, points", ylabel="answers changed")
    ax.xaxis.set_major_formatter(PercentFormatter(1, decimals=0, symbol=""))
    ax.yaxis.set_major_formatter(PercentFormatter(1))
    ax.legend(loc="center left", bbox_to_anchor=(1, 0.5))
    return ax


def plot_budgets(
    table: pd.DataFrame,
    y: str,
    highlight: Sequence[str],
    x: str = "measured",
    ax: Axes | None = None,
) -> Axes:
    """Draw a share over the share of tokens kept, a line a method, with intervals where given.

    Parameters
    ----------
    table : DataFrame
        With ``method``, the columns ``x`` and ``y`` and, for bands, ``{y}_low`` and ``{y}_high``.
    y : str
        What to draw.
    highlight : sequence of str
        Methods to colour and label.
    x : str
        Share of tokens kept.
    ax : Axes, optional
        Where to draw; by default a new figure.

    Returns
    -------
    Axes

    Examples
    --------
    >>> rows = {"method": ["lofi", "lofi"], "measured": [0.25, 0.5], "flip_rate": [0.2, 0.1]}
    >>> ax = plot_budgets(pd.DataFrame(rows), "flip_rate", ["lofi"])
    >>> ax.lines[0].get_ydata().tolist()
    [0.2, 0.1]
    >>> plt.close(ax.figure)
    """
    ax = ax or plt.figure(figsize=(7.5, 4.2)).add_subplot()
    for method, part in _in_order(table, highlight):
        part = part.sort_values(x)
        ax.plot(part[x], part[y], **_look(method, highlight))
        if method in highlight and {f"{y}_low", f"{y}_high"} <= {*part}:
            edges = part[f"{y}_low"], part[f"{y}_high"]
            ax.fill_between(part[x], *edges, color=METHOD_COLORS[method], alpha=0.15, lw=0)
    ax.set_xscale("log")
    ticks = sorted({round(v, 2) for v in table.get("budget", table[x])})
    ax.xaxis.set_major_locator(FixedLocator(ticks))
    ax.xaxis.set_minor_locator(NullLocator())
    ax.xaxis.set_major_formatter(PercentFormatter(1, decimals=0))
    ax.yaxis.set_major_formatter(PercentFormatter(1, decimals=None))
    ax.set(xlabel="visual tokens kept (measured)", ylabel=y.replace("_", " "))
    ax.legend(loc="center left", bbox_to_anchor=(1, 0.5))
    return ax


def plot_flows(table: pd.DataFrame, edge: float | None = None, ax: Axes | None = None) -> Axes:
    """Draw what accuracy adds up: right to wrong to the left, wrong to right to the right.

    The mark is their sum, the change of accuracy; the pale bar is what accuracy never counts, wrong
    answers that become other wrong ones.

    Parameters
    ----------
    table : DataFrame
        Its index names the rows; columns ``right_to_wrong``, ``wrong_to_right`` and
        ``wrong_to_other``.
    edge : float, optional
        Where the frame ends to the left; a bar that is cut off there has its number written on it.
    ax : Axes, optional
        Where to draw; by default a new figure.

    Returns
    -------
    Axes

    Examples
    --------
    >>> row = {"right_to_wrong": 0.06, "wrong_to_right": 0.05, "wrong_to_other": 0.02}
    >>> ax = plot_flows(pd.DataFrame([row], index=["lofi"]))
    >>> [round(float(bar.get_width()), 2) for bar in ax.patches]
    [-0.06, 0.05, 0.02]
    >>> plt.close(ax.figure)
    """
    ax = ax or plt.figure(figsize=(6.4, 0.9 + 0.27 * len(table))).add_subplot()
    names = [str(name) for name in table.index]
    loss, gain, other = (table[kind].to_numpy() for kind in KINDS)
    places = (-loss, gain, other), (0, 0, gain)
    for kind, width, left in zip(KINDS, *places, strict=True):
        ax.barh(names, width, left=left, color=KINDS[kind], label=kind.replace("_", " "))
    ax.plot(gain - loss, names, "D", color=INK, ms=5, label="accuracy change")
    ax.axvline(0, color=INK, lw=0.8)
    ax.set_ylim(len(names) - 0.4, -0.6)
    ax.grid(axis="y", visible=False)
    if edge is not None:
        ax.set_xlim(-edge, 1.1 * float((gain + other).max()))
        for k in np.flatnonzero(loss > edge).tolist():
            ax.text(-0.98 * edge, k, f"◀ {loss[k]:.0%}", va="center", color="white", size="small")
    ax.xaxis.set_major_formatter(lambda v, _: f"{abs(v):.0%}")
    ax.set(xlabel="share of all answers", ylabel="")
    ax.legend(loc="lower center", bbox_to_anchor=(0.5, 1), ncols=2)
    return ax


def plot_levels(table: pd.DataFrame, highlight: Sequence[str], ax: Axes | None = None) -> Axes:
    """Draw one share with its interval for each level of something, methods side by side.

    Parameters
    ----------
    table : DataFrame
        With ``method``, ``level`` (in the order to be drawn), ``value``, ``low`` and ``high``.
    highlight : sequence of str
        The methods to draw.
    ax : Axes, optional
        Where to draw; by default a new figure.

    Returns
    -------
    Axes

    Examples
    --------
    >>> row = {"method": "lofi", "level": "small", "value": 0.2, "low": 0.1, "high": 0.3}
    >>> ax = plot_levels(pd.DataFrame([row]), ["lofi"])
    >>> [label.get_text() for label in ax.get_xticklabels()]
    ['small']
    >>> plt.close(ax.figure)
    """
    ax = ax or plt.figure().add_subplot()
    names = list(dict.fromkeys(table["level"]))
    shifts = np.linspace(-0.27, 0.27, len(highlight)) if len(highlight) > 1 else [0.0]
    for method, shift in zip(highlight, shifts, strict=True):
        part = table[table.method == method]
        at = np.array([names.index(level) for level in part["level"]]) + shift
        reach = [part["value"] - part["low"], part["high"] - part["value"]]
        look = _look(method, highlight) | {"ls": "none", "ms": 5, "elinewidth": 1.2}
        ax.errorbar(at, part["value"], yerr=reach, **look)
    ax.set_xticks(range(len(names)), names, rotation=50, ha="right", rotation_mode="anchor")
    ax.grid(axis="x", visible=False)
    ax.yaxis.set_major_formatter(PercentFormatter(1, decimals=0))
    return ax


def _in_order(table: pd.DataFrame, highlight: Sequence[str]) -> list[tuple[str, pd.DataFrame]]:
    """Rows by method: the grey ones first, so that they lie underneath."""
    found = dict(list(table.groupby("method", sort=False)))
    grey = [method for method in found if method not in highlight]
    return [(method, found[method]) for method in (*grey, *(m for m in highlight if m in found))]


def _look(method: str, highlight: Sequence[str]) -> dict[str, Any]:
    if method not in highlight:
        return {"color": FAINT, "lw": 1, "marker": ".", "zorder": 1}
    look = {"ls": "-", "marker": "o"} | STYLES.get(method, {})
    return {"color": METHOD_COLORS[method], "label": method, "zorder": 2} | look
