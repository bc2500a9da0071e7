"""The ledger as readers see it: claims that can be chosen without a kernel, and a plot."""

import html
import textwrap
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import matplotlib.pyplot as plt
import pandas as pd
import seaborn as sns
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from book.ledger.claims import Claim
from book.ledger.verdicts import VERDICTS
from book.ledger.wording import criterion, limits, show, typeset
from lofi_core.plots import INK

__all__ = ["Table", "counts", "forest", "tests_table", "wrapped"]

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
.ledger .claim { border-left: .3rem solid #8a8a8a; padding: .1rem 0 .1rem .8rem; margin: 1.2rem 0; }
.ledger .claim[data-verdict="replicated"] { border-color: #029e73; }
.ledger .claim[data-verdict="not-replicated"] { border-color: #d55e00; }
.ledger .claim :is(p, ul) { margin: 0 0 .25rem; padding: 0; }
.ledger q { font-style: italic; }
.ledger .test { display: grid; grid-template-columns: 1.4em 16.5em 1fr; line-height: 1.45; }
.ledger .test > :nth-child(4) { grid-column: 2 / -1; font-size: .85em; opacity: .85; }
@media (max-width: 576px) {
  .ledger .test { grid-template-columns: 1.4em 1fr; }
  .ledger .test > :nth-child(n + 3) { grid-column: 2; }
}
"""


class Table:
    """All claims with their verdicts; claims can be chosen by verdict and by source."""

    def __init__(self, claims: list[Claim], record: Mapping[str, Any]) -> None:
        self.claims, self.record = claims, record

    def __repr__(self) -> str:
        """Return one line per claim."""
        verdicts = self.record["verdicts"]
        return "\n".join(f"{verdicts[c['id']]['verdict']:15} {c['id']}" for c in self.claims)

    def _repr_html_(self) -> str:
        """Return the claims; the choice is made by style sheets, so it needs no script."""
        verdicts = self.record["verdicts"]
        of_verdict = {v: v for v in VERDICTS}
        counts = [
            pd.Series([verdicts[c["id"]]["verdict"] for c in self.claims]).value_counts(),
            pd.Series([c["source"] for c in self.claims]).value_counts(),
        ]
        controls = _choice("verdict", of_verdict, counts[0]) + _choice("by", SOURCES, counts[1])
        rules = [
            f".ledger:has(#ledger-{name}-{_slug(key)}:checked) .claim"
            f":not([data-{name}='{_slug(key)}']) {{ display: none; }}"
            for name, keys in (("verdict", of_verdict), ("by", SOURCES))
            for key in keys
        ]
        claims = "".join(self._claim(claim) for claim in self.claims)
        return (
            f'<div class="ledger"><style>{STYLE}{" ".join(rules)}</style>{controls}{claims}</div>'
        )

    def _claim(self, claim: Claim) -> str:
        found = self.record["verdicts"][claim["id"]]
        stem = Path(claim["notebook"]).stem
        head = (
            f"<strong>{html.escape(found['verdict'])}</strong>: {claim['id']} "
            f"({SOURCES[claim['source']]}, {html.escape(claim['from'])}; tested in "
            f'<a href="{stem}.html">chapter {int(stem[:2])}</a>)'
        )
        quote = f"<p><q>{_text(claim['quote'])}</q></p>" if claim["quote"] else ""
        body = f"<p>{_text(found['says'])}</p>"
        if claim["tests"]:
            tests = zip(claim["tests"], found["tests"], strict=True)
            where = found["says"].partition(" Tested on ")
            reason = f"{claim['why']} {where[1].strip()} {where[2]}"
            body = (
                f"<ul>{''.join(self._test(test, outcome) for test, outcome in tests)}</ul>"
                f"<details><summary>why this criterion, and on what</summary>{_text(reason)}"
                "</details>"
            )
        return (
            f'<div class="claim" id="claim-{claim["id"]}" data-verdict="{_slug(found["verdict"])}" '
            f'data-by="{claim["source"]}"><p>{head}</p>{quote}<p>{_text(claim["statement"])}</p>'
            f"{body}</div>"
        )

    def _test(self, test: Mapping[str, Any], outcome: str) -> str:
        """One test: its sign, quantity and criterion, and below, what was counted and how often."""
        quantity = self.record["metrics"][test["metric"]]
        sign = f'<span role="img" aria-label="{WORDS[outcome]}">{SIGNS[outcome]}</span>'
        if "missing" in quantity:
            return f'<li class="test">{sign}<span>{_text(quantity["missing"])}</span></li>'
        images = f" of {quantity['images']:,} images" if quantity["images"] else ""
        model = "" if quantity["model"] == "none" else f"; {quantity['model']}"
        parts = (
            f"{show(quantity)}",
            f"asked for: {criterion(test, quantity['unit'])}",
            f"{quantity['what']} (n = {quantity['n']:,}{images}{model})",
        )
        cells = "".join(f"<span>{_text(part)}</span>" for part in parts)
        return f'<li class="test">{sign}{cells}</li>'


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
    return html.escape(typeset(" ".join(text.split())))


def wrapped(fields: Mapping[str, Any], width: int = 78) -> str:
    """Render fields for print, one line each, in lines that fit the page.

    >>> print(wrapped({"dtype": "float32", "scenes": {"test": 1000, "validation": 400}}))
    dtype         float32
    scenes        test 1000, validation 400
    """
    lines = []
    for name, value in fields.items():
        if isinstance(value, Mapping):
            value = ", ".join(f"{key} {content}" for key, content in value.items())
        text = f"{name:13} {' '.join(str(value).split())}"
        lines.append(textwrap.fill(text, width, subsequent_indent=" " * 14))
    return "\n".join(lines)


def counts(claims: list[Claim], record: Mapping[str, Any]) -> pd.DataFrame:
    """Count the verdicts, one row for each who makes claims."""
    rows = [(SOURCES[c["source"]], record["verdicts"][c["id"]]["verdict"]) for c in claims]
    source, verdict = zip(*rows, strict=True)
    table = pd.crosstab(pd.Index(source, name=None), pd.Index(verdict, name=None))
    table = table.reindex(SOURCES.values(), columns=VERDICTS, fill_value=0)
    return table.rename_axis(index=None, columns=None)


def tests_table(claims: list[Claim], record: Mapping[str, Any]) -> pd.DataFrame:
    """One row per test that has data: claim, key, outcome, quantity and the claimed range."""
    rows = []
    for claim in claims:
        outcomes = record["verdicts"][claim["id"]]["tests"]
        for test, outcome in zip(claim["tests"], outcomes, strict=True):
            quantity = record["metrics"][test["metric"]]
            if outcome != "no data":
                least, most = limits(test)
                facts = {"claim": claim["id"], "kind": claim["kind"], "source": claim["source"]}
                facts |= {"outcome": outcome, "least": least, "most": most}
                rows.append({**facts, "metric": test["metric"], **quantity})
    return pd.DataFrame(rows)


def forest(claims: list[Claim], record: Mapping[str, Any]) -> Figure:
    """Draw each test's quantity with its interval over the range that is claimed.

    Exact claims are left out: they have no interval.
    """
    table = tests_table(claims, record)
    table = table[table["kind"] != "exact"]
    panels = {name: table[table["unit"].isin(units)] for name, (units, _, _) in PANELS.items()}
    panels = {name: rows for name, rows in panels.items() if len(rows)}
    heights = [len(rows) + 1.6 for rows in panels.values()]
    fig, axes = plt.subplots(
        len(panels), figsize=(6.4, 0.27 * sum(heights)), height_ratios=heights, squeeze=False
    )
    for ax, (name, rows) in zip(axes[:, 0], panels.items(), strict=True):
        _, scale, label = PANELS[name]
        _panel(ax, rows, scale)
        ax.set(xlabel=label)
    marks = [
        plt.Line2D([], [], color=color, marker=_MARKS[outcome], label=f"test {WORDS[outcome]}")
        for outcome, color in COLORS.items()
    ]
    band = plt.Rectangle((0, 0), 1, 1, color=INK, alpha=0.12, label="asked for")
    fig.legend(handles=[band, *marks], loc="outside upper center", ncols=4, columnspacing=1)
    return fig


_MARKS = {"holds": "o", "open": "D", "fails": "X"}


def _panel(ax: Axes, rows: pd.DataFrame, scale: float) -> None:
    """Draw one test per line; ranges without an end reach the edge of the panel."""
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
    names = [f"{row.claim}: {row.metric.rpartition('.')[2]}" for row in rows.itertuples()]
    ax.set_yticks(range(len(rows)), names, size=9)
    ax.set(xlim=(left, right), ylim=(len(rows) - 0.4, -0.6))
    ax.grid(axis="y", visible=False)
