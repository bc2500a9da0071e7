r"""One method against all others, on the same questions, with the price of asking often.

For two columns of a per-question quantity, the difference d_i = x_i - y_i is averaged over all
questions, with an interval clustered by image (`lofi_core.statistics`). Its p-value is the larger
of two: the t-test of the ratio estimator, t = d / se with C - 1 degrees of freedom, which knows
about images; and, where the quantity is true or false, the exact McNemar test, which holds for any
number of questions. Holm's correction then runs over all comparisons of the table. `plot_leads` and
`plot_cells` draw such tables.
"""

from collections.abc import Sequence
from typing import Any

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
import seaborn as sns
from matplotlib.axes import Axes
from scipy import stats

from lofi_core.errors import LofiError
from lofi_core.plots import METHOD_COLORS
from lofi_core.scrub import INK
from lofi_core.statistics import Estimate, clustered_means, holm, mcnemar

__all__ = ["means_table", "paired_tests", "plot_cells", "plot_leads"]


def means_table(
    values: pd.DataFrame,
    groups: Sequence[Any] | np.ndarray | pd.Series,
    bounds: tuple[float, float] = (0.0, 1.0),
    draws: int = 1000,
    seed: int = 0,
) -> pd.DataFrame:
    """Mean of each column with its interval, one row a column.

    Parameters
    ----------
    values : DataFrame, n rows
        One row a question, one column an arm; NaN where an arm was not asked.
    groups : sequence of n labels
        The image of each question.
    bounds : (float, float)
        What a single value can be.
    draws, seed
        Of the bootstrap, see `lofi_core.statistics.clustered_means`.

    Returns
    -------
    DataFrame
        Columns ``value``, ``low``, ``high``; index the columns of ``values``.

    Examples
    --------
    >>> flips = pd.DataFrame({"lofi": [1, 0, 0, 0], "random": [1, 1, 0, 0]})
    >>> means_table(flips, [0, 1, 2, 3])["value"].tolist()
    [0.25, 0.5]
    """
    found = _estimates(values, groups, bounds, draws, seed)
    rows = [(e.value, e.low, e.high) for e, _ in found]
    return pd.DataFrame(rows, index=values.columns, columns=["value", "low", "high"])


def paired_tests(
    values: pd.DataFrame,
    pairs: Sequence[tuple[Any, Any]],
    groups: Sequence[Any] | np.ndarray | pd.Series,
    draws: int = 1000,
    seed: int = 0,
) -> pd.DataFrame:
    """Paired differences of columns, with tests corrected over all pairs given.

    Parameters
    ----------
    values : DataFrame, n rows
        One row a question, one column an arm; NaN where an arm was not asked, and a pair is
        compared over the questions of both. McNemar's test enters where all values are 0 or 1.
    pairs : sequence of (column, column)
        The second is subtracted from the first.
    groups : sequence of n labels
        The image of each question.
    draws, seed
        Of the bootstrap, see `lofi_core.statistics.clustered_means`.

    Returns
    -------
    DataFrame
        One row a pair: ``first``, ``second``, ``difference``, ``low``, ``high``, ``p`` and
        ``p_holm``. Two equal columns have p = 1.

    Raises
    ------
    LofiError
        If there are no pairs, or a pair names no column.

    Examples
    --------
    >>> same = pd.DataFrame({"a": [True, False, True], "b": [True, False, True]})
    >>> paired_tests(same, [("a", "b")], [0, 1, 2])[["difference", "p_holm"]].values.tolist()
    [[0.0, 1.0]]
    """
    missing = [name for pair in pairs for name in pair if name not in values]
    if missing or not pairs:
        raise LofiError(
            f"paired_tests: {len(pairs)} pairs, of unknown columns {missing}; expected at least "
            f"one pair of columns, among {list(values)}"
        )
    apart = [values[a].astype(float) - values[b].astype(float) for a, b in pairs]
    found = _estimates(pd.concat(apart, axis=1), groups, None, draws, seed)
    rows = []
    for (a, b), (e, clusters) in zip(pairs, found, strict=True):
        ratio = abs(e.value) / e.standard_error if e.standard_error > 0 else np.inf
        p = float(2 * stats.t.sf(ratio, clusters - 1)) if e.value else 1.0
        both = pd.DataFrame({"a": values[a], "b": values[b]}).dropna()
        if both.isin((0, 1)).all(axis=None):
            p = max(p, mcnemar(both["a"], both["b"]))
        rows.append((a, b, e.value, e.low, e.high, p))
    names = ["first", "second", "difference", "low", "high", "p"]
    table = pd.DataFrame(rows, columns=names)
    return table.assign(p_holm=holm(table["p"].to_numpy()))


def _estimates(
    values: pd.DataFrame, groups: Any, bounds: tuple[float, float] | None, draws: int, seed: int
) -> list[tuple[Estimate, int]]:
    """Estimate and number of clusters of each column; columns of the same questions go together."""
    x, labels = values.to_numpy(float), np.asarray(groups)
    asked = ~np.isnan(x)
    found: dict[int, tuple[Estimate, int]] = {}
    for pattern in np.unique(asked.T, axis=0):
        columns = np.flatnonzero((pattern == asked.T).all(1))
        part = pd.DataFrame(x[np.ix_(pattern, columns)], columns=columns.astype(str))
        limits = None if bounds is None else dict.fromkeys(part, bounds)
        means = clustered_means(part, labels[pattern], limits, draws=draws, seed=seed)
        clusters = len(np.unique(labels[pattern]))
        found |= {int(name): (mean, clusters) for name, mean in means.items()}
    return [found[j] for j in range(x.shape[1])]


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
    ['+3.1', '-0.2']
    >>> plt.close(ax.figure)
    """
    ax = ax or plt.figure(figsize=(7, 0.9 + 0.28 * len(values))).add_subplot()
    numbers = scale * values.to_numpy(float)
    most = float(np.nanquantile(np.abs(numbers), 0.85)) or 1.0  # a few huge ones may saturate
    told = np.where(sure.to_numpy(bool), numbers, np.nan)
    ax.imshow(told, cmap=sns.color_palette("vlag_r", as_cmap=True), vmin=-most, vmax=most)
    for i, j in np.argwhere(np.isfinite(numbers)):
        color = "#6e6e6e" if np.isnan(told[i, j]) else INK
        color = "white" if abs(told[i, j]) > 0.7 * most else color
        ax.text(j, i, format(numbers[i, j], form), ha="center", va="center", color=color)
    ax.set_xticks(range(values.shape[1]), [str(column) for column in values.columns])
    ax.set_yticks(range(len(values)), [str(name) for name in values.index])
    ax.tick_params(length=0)
    ax.set(xlabel=label, ylabel="", aspect="auto")
    ax.grid(visible=False)
    return ax


def plot_leads(found: pd.DataFrame, ax: Axes | None = None) -> Axes:
    """Draw paired differences with their intervals in points, one row a rival.

    Filled points are told from zero after correction, open ones are not.

    Parameters
    ----------
    found : DataFrame
        Rows of `paired_tests`, with a column ``rival``: a label that begins with a method's name
        and maybe a comma.
    ax : Axes, optional
        Where to draw; by default a new figure.

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
    ax = ax or plt.figure(figsize=(6.4, 0.9 + 0.24 * len(found))).add_subplot()
    for k, row in enumerate(found.itertuples()):
        color = METHOD_COLORS.get(str(row.rival).split(",")[0], INK)
        face = color if row.p_holm < 0.05 else "white"
        ax.plot([100 * row.low, 100 * row.high], [k, k], color=color, lw=1.2)
        ax.plot(100 * row.difference, k, "o", color=color, mfc=face, ms=6)
    ax.axvline(0, color=INK, lw=0.8)
    ax.set_yticks(range(len(found)), found["rival"])
    ax.set_ylim(len(found) - 0.4, -0.6)
    return ax
