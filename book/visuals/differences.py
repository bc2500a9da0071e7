"""Figures of differences between arms: cells in two colours, and points with their intervals.

They draw tables of `lofi_core.evaluation.contrasts`, in points. What is told from zero is in
colour, or filled; what is not stays grey, or open.
"""

from collections.abc import Sequence

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.colors import FuncNorm, LinearSegmentedColormap

from lofi_core.plots import INK, METHOD_COLORS

__all__ = ["plot_cells", "plot_leads"]

RED_WHITE_BLUE = LinearSegmentedColormap.from_list("lead", ["#a9373b", "#ffffff", "#2369bd"])


def plot_cells(
    values: pd.DataFrame,
    sure: pd.DataFrame,
    label: str,
    scale: float = 100,
    form: str = "+.1f",
    ax: Axes | None = None,
) -> Axes:
    """Draw a table of numbers as cells, blue above zero and red below.

    Parameters
    ----------
    values : DataFrame
        For example differences of shares, a row a method, a column a budget.
    sure : DataFrame of bool
        The same cells: whether they are told from zero. Those that are not have grey digits on
        white.
    label : str
        What the columns are.
    scale, form : float, str
        What values are multiplied by and how they are written; by default as points.
    ax : Axes, optional
        Where to draw; by default a new figure.

    Returns
    -------
    Axes

    Examples
    --------
    >>> values = pd.DataFrame({"50 %": [0.031, -0.002]}, index=["random", "divprune"])
    >>> ax = plot_cells(values, values.abs() > 0.01, "budget")
    >>> [text.get_text() for text in ax.texts]
    ['+3.1', '−0.2']
    >>> plt.close(ax.figure)
    """
    ax = ax or plt.figure(figsize=(7, 0.9 + 0.28 * len(values))).add_subplot()
    numbers = scale * values.to_numpy(float)
    most = float(np.nanquantile(np.abs(numbers), 0.85)) or 1.0  # a few huge ones may saturate
    told = np.where(sure.to_numpy(bool), numbers, np.nan)
    roots = FuncNorm((_root, _square), vmin=-most, vmax=most)  # so that small ones are seen, too
    ax.imshow(told, cmap=RED_WHITE_BLUE, norm=roots)
    for i, j in np.argwhere(np.isfinite(numbers)):
        color = "#6e6e6e" if np.isnan(told[i, j]) else INK
        color = "white" if abs(told[i, j]) > 0.6 * most else color
        text = format(numbers[i, j], form).replace("-", "−")
        ax.text(j, i, text, ha="center", va="center", color=color)
    ax.set_xticks(range(values.shape[1]), [str(column) for column in values.columns])
    ax.set_yticks(range(len(values)), [str(name) for name in values.index])
    ax.tick_params(length=0)
    ax.set(xlabel=label, ylabel="", aspect="auto")
    ax.grid(visible=False)
    return ax


def _root(x: np.ndarray) -> np.ndarray:
    return np.sign(x) * np.sqrt(np.abs(x))


def _square(x: np.ndarray) -> np.ndarray:
    return np.sign(x) * np.square(x)


def plot_leads(
    found: pd.DataFrame,
    ax: Axes | None = None,
    order: Sequence[str] | None = None,
    marker: str = "o",
    shift: float = 0.0,
) -> Axes:
    """Draw paired differences with their intervals in points, one row a rival.

    Filled points are told from zero after correction, open ones are not.

    Parameters
    ----------
    found : DataFrame
        Rows of `lofi_core.evaluation.contrasts.paired_tests`, with a column ``rival``: a label that
        begins with a method's name and maybe a comma.
    ax : Axes, optional
        Where to draw; by default a new figure.
    order : sequence of str, optional
        All rows of the figure, from the top; by default those of ``found``.
    marker, shift : str, float
        Of the points, and by how much of a row they are lowered: to draw two methods in one figure.

    Returns
    -------
    Axes

    Examples
    --------
    >>> row = {"rival": "random", "difference": 0.02, "low": 0.01, "high": 0.03, "p_holm": 0.01}
    >>> ax = plot_leads(pd.DataFrame([row]))
    >>> [label.get_text() for label in ax.get_yticklabels()]
    ['random']
    >>> plt.close(ax.figure)
    """
    order = list(found["rival"] if order is None else order)
    ax = ax or plt.figure(figsize=(6.4, 0.9 + 0.24 * len(order))).add_subplot()
    for row in found.itertuples():
        y = order.index(row.rival) + shift
        color = METHOD_COLORS.get(str(row.rival).split(",")[0], INK)
        face = color if row.p_holm < 0.05 else "white"
        ax.plot([100 * row.low, 100 * row.high], [y, y], color=color, lw=1.2)
        ax.plot(100 * row.difference, y, marker, color=color, mfc=face, ms=6)
    ax.axvline(0, color=INK, lw=0.8)
    ax.set_yticks(range(len(order)), order)
    ax.set_ylim(len(order) - 0.4, -0.6)
    return ax
