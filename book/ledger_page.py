"""The ledger as readers see it: a table that can be filtered without a kernel, and a figure."""

import html
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import matplotlib.pyplot as plt
import pandas as pd
import seaborn as sns
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from book import ledger
from lofi_core.plots import INK

__all__ = ["Table", "forest", "tests_table"]

SOURCES = {"lofi2025": "the paper", "instability2025": "its later version", "ours": "this book"}
SIGNS = {"holds": "✓", "fails": "✗", "open": "?", "no data": "–"}
WORDS = {"holds": "holds", "fails": "fails", "open": "is open", "no data": "has no data"}
_GREEN, _RED, _GREY = (sns.color_palette("colorblind").as_hex()[i] for i in (2, 3, 7))
COLORS = {"holds": _GREEN, "open": _GREY, "fails": _RED}
PANELS = {
    "points": (("points",), 100, "points of agreement or accuracy"),
    "share": (("share",), 100, "% of all answers"),
    "ratio": (("ratio",), 100, "% of the unpruned"),
    "rank": (("correlation", "AUC", "AUC lead"), 1, "rank correlation, or AUC"),
}

STYLE = """
.ledger fieldset { border: 0; padding: 0; margin: 0 0 .4rem; }
.ledger legend { float: left; margin: 0 .6rem 0 0; font-size: 1em; width: auto; }
.ledger label { margin-right: .8rem; white-space: nowrap; display: inline-block; }
.ledger table { width: 100%; text-align: left; font-size: .9em; }
.ledger table :is(th, td) { text-align: left; vertical-align: top; white-space: normal; }
.ledger td:first-child { white-space: nowrap; font-weight: bold; }
.ledger ul { margin: 0; padding: 0; list-style: none; }
.ledger q { font-style: italic; }
"""


class Table:
    """All claims with their verdicts; rows can be chosen by verdict and by source."""

    def __init__(self, claims: list[ledger.Claim], record: Mapping[str, Any]) -> None:
        self.claims, self.record = claims, record

    def __repr__(self) -> str:
        """Return one line a claim."""
        verdicts = self.record["verdicts"]
        return "\n".join(f"{verdicts[c['id']]['verdict']:15} {c['id']}" for c in self.claims)

    def _repr_html_(self) -> str:
        """Return the table; the choice is made by style sheets, so it needs no script."""
        verdicts = self.record["verdicts"]
        of_verdict = {v: v for v in ledger.VERDICTS}
        counts = [
            pd.Series([verdicts[c["id"]]["verdict"] for c in self.claims]).value_counts(),
            pd.Series([c["source"] for c in self.claims]).value_counts(),
        ]
        controls = _choice("verdict", of_verdict, counts[0]) + _choice("by", SOURCES, counts[1])
        rules = [
            f".ledger:has(#ledger-{name}-{_slug(key)}:checked) tr[data-{name}]"
            f":not([data-{name}='{_slug(key)}']) {{ display: none; }}"
            for name, keys in (("verdict", of_verdict), ("by", SOURCES))
            for key in keys
        ]
        rows = "".join(self._row(claim) for claim in self.claims)
        head = "".join(f"<th>{word}</th>" for word in ("verdict", "claim", "found", "chapter"))
        return (
            f'<div class="ledger"><style>{STYLE}{" ".join(rules)}</style>{controls}'
            f'<table class="dataframe"><thead><tr>{head}</tr></thead><tbody>{rows}</tbody></table>'
            "</div>"
        )

    def _row(self, claim: ledger.Claim) -> str:
        found = self.record["verdicts"][claim["id"]]
        quote = f"<q>{_text(claim['quote'])}</q> ({claim['from']})<br>" if claim["quote"] else ""
        why = f"<details><summary>why so</summary>{_text(claim.get('why', ''))}</details>"
        reason = why if claim["tests"] else ""
        stem = Path(claim["notebook"]).stem
        cells = (
            html.escape(found["verdict"]),
            f"{quote}{_text(claim['statement'])}{reason}",
            self._found(claim, found),
            f'<a href="{stem}.html">{int(stem[:2])}</a>',
        )
        return (
            f'<tr id="claim-{claim["id"]}" data-verdict="{_slug(found["verdict"])}" '
            f'data-by="{claim["source"]}">{"".join(f"<td>{cell}</td>" for cell in cells)}</tr>'
        )

    def _found(self, claim: ledger.Claim, found: Mapping[str, Any]) -> str:
        lines = []
        for test, outcome in zip(claim["tests"], found["tests"], strict=True):
            figure = self.record["metrics"][test["metric"]]
            said, what = figure.get("missing"), ""
            if said is None:
                claimed = ledger.criterion(test, figure["unit"])
                said, what = f"{ledger.show(figure)}, claimed {claimed}", figure["what"]
            sign = f'<span role="img" aria-label="{WORDS[outcome]}">{SIGNS[outcome]}</span>'
            lines.append(f'<li title="{_text(what)}">{sign} {_text(said)}</li>')
        says = f"<details><summary>in words</summary>{_text(found['says'])}</details>"
        return f"<ul>{''.join(lines)}</ul>{says}" if lines else _text(found["says"])


def _choice(name: str, keys: Mapping[str, str], counts: pd.Series) -> str:
    """Radio buttons: all, or one of the keys."""
    options = [("all", f"all ({counts.sum()})", " checked")]
    options += [(_slug(k), f"{word} ({counts.get(k, 0)})", "") for k, word in keys.items()]
    buttons = "".join(
        f'<label><input type="radio" name="ledger-{name}" id="ledger-{name}-{slug}"{checked}> '
        f"{html.escape(word)}</label>"
        for slug, word, checked in options
    )
    return f"<fieldset><legend>{name}:</legend>{buttons}</fieldset>"


def _slug(text: str) -> str:
    return text.replace(" ", "-")


def _text(text: str) -> str:
    return html.escape(" ".join(text.split()))


def tests_table(claims: list[ledger.Claim], record: Mapping[str, Any]) -> pd.DataFrame:
    """One row a test that has a figure: claim, key, outcome, figure and the claimed range."""
    rows = []
    for claim in claims:
        outcomes = record["verdicts"][claim["id"]]["tests"]
        for test, outcome in zip(claim["tests"], outcomes, strict=True):
            figure = record["metrics"][test["metric"]]
            if outcome != "no data":
                least, most = ledger.limits(test)
                facts = {"claim": claim["id"], "kind": claim["kind"], "source": claim["source"]}
                facts |= {"outcome": outcome, "least": least, "most": most}
                rows.append({**facts, "metric": test["metric"], **figure})
    return pd.DataFrame(rows)


def forest(claims: list[ledger.Claim], record: Mapping[str, Any]) -> Figure:
    """Draw each test's figure with its interval over the range that is claimed.

    Exact claims are left out: they have no interval.
    """
    table = tests_table(claims, record)
    table = table[table["kind"] != "exact"]
    panels = {name: table[table["unit"].isin(units)] for name, (units, _, _) in PANELS.items()}
    panels = {name: rows for name, rows in panels.items() if len(rows)}
    heights = [len(rows) + 1.6 for rows in panels.values()]
    fig, axes = plt.subplots(
        len(panels), figsize=(8, 0.27 * sum(heights)), height_ratios=heights, squeeze=False
    )
    for ax, (name, rows) in zip(axes[:, 0], panels.items(), strict=True):
        _, scale, label = PANELS[name]
        _panel(ax, rows, scale)
        ax.set(xlabel=label)
    marks = [
        plt.Line2D([], [], color=color, marker=_MARKS[outcome], label=f"test {WORDS[outcome]}")
        for outcome, color in COLORS.items()
    ]
    band = plt.Rectangle((0, 0), 1, 1, color=INK, alpha=0.12, label="claimed")
    fig.legend(handles=[band, *marks], loc="outside upper center", ncols=4)
    return fig


_MARKS = {"holds": "o", "open": "D", "fails": "X"}


def _panel(ax: Axes, rows: pd.DataFrame, scale: float) -> None:
    """Draw one test a line; ranges without an end reach the edge of the panel."""
    finite = rows[["least", "most"]].where(lambda x: x.abs() < float("inf"))
    ends = pd.concat([rows["low"], rows["high"], finite["least"], finite["most"]]).dropna() * scale
    margin = 0.06 * (ends.max() - ends.min())
    left, right = ends.min() - margin, ends.max() + margin
    for y, row in enumerate(rows.itertuples()):
        start, end = max(row.least * scale, left), min(row.most * scale, right)
        ax.barh(y, end - start, left=start, height=0.8, color=INK, alpha=0.12, linewidth=0)
        color, marker = COLORS[row.outcome], _MARKS[row.outcome]
        ax.plot([row.low * scale, row.high * scale], [y, y], color=color)
        ax.plot(row.value * scale, y, marker, color=color)
    ax.set_yticks(range(len(rows)), [f"{r.claim}: {r.metric}" for r in rows.itertuples()], size=8)
    ax.set(xlim=(left, right), ylim=(len(rows) - 0.4, -0.6))
    ax.grid(axis="y", visible=False)
