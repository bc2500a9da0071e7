"""All methods at one budget: how many answers flip, and how little of it accuracy shows.

For each method `explorer` draws the share of answers that flip, split by kind, beside the change of
accuracy, which is only a difference of two of these: accuracy change = wrong to right - right to
wrong. A slider moves the budget. Like `book.visuals.scrub`, of which it is made, it is plain HTML
on a page without a kernel and a widget with one.
"""

import html
from typing import Any

import pandas as pd

from book.visuals.browse import KINDS, spoken, swatch
from book.visuals.scrub import Scrubber
from lofi_core.errors import LofiError

__all__ = ["explorer"]

_COLUMNS = ("method", "budget", *KINDS)

# The explorer's slider is a scrubber's; this adds the choice of a method.
_CHOOSE = """(id) => {
  const root = document.getElementById(id), select = root.querySelector("select");
  const said = root.querySelector(".explorer-said"), input = root.querySelector("input");
  const show = () => {
    said.textContent = "";
    root.querySelectorAll("tr[data-said]").forEach((row) => {
      const chosen = row.dataset.method === select.value;
      row.style.fontWeight = chosen ? "bold" : "";
      if (chosen && !row.closest(".scrubber-frame").hidden) said.textContent = row.dataset.said;
    });
  };
  select.addEventListener("change", show);
  new MutationObserver(show).observe(root.querySelector("output"), { childList: true });
  root.querySelector(".explorer-choice").hidden = false;
  show();
}"""


class Explorer:
    """Flips of all methods at one budget at a time; see `explorer`, which makes it."""

    def __init__(self, table: pd.DataFrame) -> None:
        rows = table.assign(flipped=table[list(KINDS)].sum(axis=1))
        self.methods = sorted(rows.method.unique(), key=lambda name: (name != "lofi", name))
        self.budgets = sorted(rows.budget.unique(), reverse=True)
        ends = rows[["flipped", "high"]] if "high" in rows else rows[["flipped"]]
        full = float(ends.max(axis=None)) or 1.0
        parts = [rows[rows.budget == b].sort_values(["flipped", "method"]) for b in self.budgets]
        self.frames = [_bars(part, full) for part in parts]
        self.sentences = [{r.method: _sentence(r) for r in part.itertuples()} for part in parts]
        values = [f"{budget:.0%}" for budget in self.budgets]
        # The middle says more than an end, where nearly nothing flips, or nearly everything.
        self.start = (len(values) - 1) // 2
        self.slider = Scrubber(self.frames, values, "tokens kept", "Flips by method", self.start)

    def _repr_html_(self) -> str:
        """Return the static form; without scripts it shows the budget in the middle."""
        uid = self.slider.uid.replace("scrubber", "explorer")
        options = "".join(f"<option>{html.escape(name)}</option>" for name in self.methods)
        return (
            f'<div class="explorer" id="{uid}">{self.slider._repr_html_()}'
            '<div class="explorer-choice" hidden><label>method '
            f'<select>{options}</select></label><p class="explorer-said" style="text-align: left" '
            'aria-live="polite"></p>'
            f'</div></div><script>({_CHOOSE})("{uid}")</script>'
        )

    def widget(self) -> Any:
        """Return the live form, an ipywidgets box, for a notebook with a kernel."""
        import ipywidgets as widgets

        options = [(value, k) for k, value in enumerate(self.slider.values)]
        slider = widgets.SelectionSlider(
            options=options, value=self.start, description="tokens kept"
        )
        slider.style.description_width = "initial"
        select = widgets.Dropdown(options=self.methods, description="method")
        view, said = widgets.HTML(), widgets.HTML()

        def show(_: Any = None) -> None:
            view.value = self.frames[slider.value]
            said.value = html.escape(self.sentences[slider.value].get(select.value, ""))

        slider.observe(show, "value")
        select.observe(show, "value")
        show()
        return widgets.VBox([view, slider, select, said])

    def _repr_mimebundle_(self, include: Any = None, exclude: Any = None) -> dict[str, Any]:
        """Offer both forms, as `Scrubber` does."""
        live: dict[str, Any] = self.widget()._repr_mimebundle_()
        first = f"flips of {len(self.methods)} methods at {len(self.budgets)} budgets"
        return {**live, "text/html": self._repr_html_(), "text/plain": first}


def explorer(table: pd.DataFrame) -> Explorer:
    """Show the flips of every method at a budget set by a slider, and one method in words.

    Parameters
    ----------
    table : DataFrame
        One row a method and budget: ``method``, ``budget`` (a share in (0, 1]), and the shares of
        all questions ``right_to_wrong``, ``wrong_to_right`` and ``wrong_to_other``, as `compare` of
        `lofi_core.evaluation.consistency` measures them. ``low`` and ``high``, if there, are an
        interval of their sum, the flip rate. A method may lack a budget.

    Returns
    -------
    Explorer
        Display it as the last line of a cell.

    Raises
    ------
    LofiError
        If a column is missing, a pair of method and budget occurs twice, a share is not in
        [0, 1], or there are no rows.

    Examples
    --------
    >>> row = {"right_to_wrong": 0.1, "wrong_to_right": 0.08, "wrong_to_other": 0.02}
    >>> shown = explorer(pd.DataFrame([{"method": "lofi", "budget": 0.5, **row}]))
    >>> shown.sentences[0]["lofi"]
    'lofi, 50% of the tokens: 20.0% of the answers flip. Accuracy changes by −2.0 points.'
    """
    missing = [name for name in _COLUMNS if name not in table]
    if missing or table.empty:
        raise LofiError(
            f"explorer: {len(table)} rows, columns missing: {missing}; expected at least one row "
            f"and {', '.join(_COLUMNS)}"
        )
    twice = table[table.duplicated(["method", "budget"])]
    if len(twice):
        raise LofiError(
            f"explorer: {twice.method.iloc[0]!r} at budget {twice.budget.iloc[0]} occurs twice; "
            "expected one row a method and budget: average over seeds first"
        )
    shares = table[list(KINDS)].to_numpy(float)
    if not ((shares >= 0) & (shares <= 1)).all():
        raise LofiError(
            f"explorer: shares of flips from {shares.min()} to {shares.max()}; expected numbers "
            "in [0, 1]: pass shares of all questions, not counts or percentages"
        )
    return Explorer(table)


def _sentence(row: Any) -> str:
    """Say one result in words."""
    return (
        f"{row.method}, {row.budget:.0%} of the tokens: {row.flipped:.1%} of the answers flip. "
        f"Accuracy changes by {_points(row)} points."
    )


def _points(row: Any) -> str:
    """Change of accuracy in points, with a proper minus sign."""
    change = 100 * (row.wrong_to_right - row.right_to_wrong)
    return f"{change:+.1f}".replace("-", "−")


def _bars(rows: pd.DataFrame, full: float) -> str:
    """Return a table of methods with a stacked bar each; a bar of length `full` fills its cell."""
    lines = []
    for row in rows.itertuples():
        parts = "".join(
            f'<span style="width: {100 * getattr(row, kind) / full:.2f}%; background: {color}; '
            'height: 0.9em"></span>'
            for kind, color in KINDS.items()
        )
        ends = (
            f'<span style="position: absolute; top: 0.4em; height: 2px; background: currentColor; '
            f'left: {100 * row.low / full:.2f}%; width: {100 * (row.high - row.low) / full:.2f}%">'
            "</span>"
            if "low" in rows and "high" in rows
            else ""
        )
        name = html.escape(row.method)
        lines.append(
            f'<tr data-method="{name}" data-said="{html.escape(_sentence(row))}">'
            f'<th scope="row" style="text-align: left; font-weight: inherit">{name}</th>'
            f'<td style="width: 99%"><div style="position: relative; display: flex">{parts}{ends}'
            f"</div></td><td>{row.flipped:.1%}</td><td>{_points(row)}</td></tr>"
        )
    # On a narrow page the key has no room in the head of a column.
    key = " ".join(
        f'<span style="white-space: nowrap">{swatch(kind)} {spoken(kind)}&ensp;</span>'
        for kind in KINDS
    )
    return (
        f'<div style="text-align: left">{key}</div>'
        '<table style="width: 100%; text-align: right"><thead><tr>'
        '<th scope="col" style="text-align: left">method</th><th scope="col"></th>'
        '<th scope="col">flips</th><th scope="col">accuracy</th></tr></thead>'
        f"<tbody>{''.join(lines)}</tbody></table>"
    )
