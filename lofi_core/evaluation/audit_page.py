"""An audit as a page that needs no other file or host, as JSON, and as Markdown."""

import json
import math
from base64 import b64encode
from dataclasses import is_dataclass
from html import escape
from typing import TYPE_CHECKING, Any

from lofi_core.errors import extra
from lofi_core.evaluation.statistics import Estimate

with extra("eval"):
    import pandas as pd

if TYPE_CHECKING:
    from lofi_core.evaluation.audit import Audit, Audited, Flip

__all__ = ["html", "json_text", "markdown"]

MEANING = {
    "pass": "The share of flipped answers is within the limit.",
    "warn": "Within the limit, but read the reasons.",
    "inconclusive": "These images cannot tell; the reasons say how many could.",
    "block": "Pruning flips more answers than the limit allows.",
}
STYLE = """
:root { color-scheme: light dark; --ink: #222; --paper: #fff; --faint: #767676; --line: #d8d8d8;
  --pass: #14713d; --warn: #8a5a00; --inconclusive: #4c5a78; --block: #b3261e; --bar: #1f6fb2; }
@media (prefers-color-scheme: dark) { :root { --ink: #e6e6e6; --paper: #16181c; --faint: #9a9a9a;
  --line: #3a3d44; --pass: #6fce97; --warn: #e5b25d; --inconclusive: #a9b6d6; --block: #ff8a80;
  --bar: #79b8f3; } }
* { box-sizing: border-box; }
body { margin: 0 auto; max-width: 62rem; padding: 1rem; color: var(--ink);
  background: var(--paper); font: 1rem/1.5 system-ui, sans-serif; }
.verdict { font-weight: 700; } .pass { color: var(--pass); } .warn { color: var(--warn); }
.inconclusive { color: var(--inconclusive); } .block { color: var(--block); }
.wide { overflow-x: auto; } table { border-collapse: collapse; font-variant-numeric: tabular-nums; }
th, td { text-align: left; padding: .3rem .7rem; border-bottom: 1px solid var(--line);
  white-space: nowrap; }
caption, small, dt { color: var(--faint); text-align: left; }
svg { width: 100%; max-width: 40rem; height: auto; } svg text { fill: var(--ink); font-size: 12px; }
.flips { display: grid; grid-template-columns: repeat(auto-fill, minmax(14rem, 1fr)); gap: 1rem; }
figure { margin: 0; border: 1px solid var(--line); border-radius: .4rem; padding: .6rem; }
figure img { width: 100%; image-rendering: auto; } code { overflow-wrap: anywhere; }
figcaption p { margin: .3rem 0; overflow-wrap: anywhere; }
"""


def html(audit: "Audit") -> str:
    """Render the page."""
    facts = "".join(f"<dt>{escape(k)}</dt><dd>{escape(str(v))}</dd>" for k, v in _facts(audit))
    notes = "".join(f"<li>{escape(note)}</li>" for note in _notes(audit))
    reasons = "".join(
        f"<li>{escape(_name(result))}: {_badge(result.decision.verdict)}. "
        f"{escape('; '.join(result.decision.reasons))}.</li>"
        for result in audit.results
    )
    parts = [
        f"<h1>Pruning audit: {_badge(audit.verdict)}</h1>",
        f"<p>{escape(MEANING[audit.verdict])} Limit: {audit.limit:.2%} of the answers, "
        f"bounds of error {audit.delta:g}.</p><ul>{reasons}</ul>",
        "<h2>Flips</h2>",
        _table(_summary(audit), "95 % intervals in brackets, clustered by image"),
        _plot(audit),
        f"<ul>{notes}</ul>",
        *(_section(result) for result in audit.results),
        f"<h2>How this was made</h2><p><code>{escape(audit.command)}</code></p><dl>{facts}</dl>",
    ]
    return (
        '<!doctype html><html lang="en"><head><meta charset="utf-8">'
        '<meta name="viewport" content="width=device-width, initial-scale=1">'
        f"<title>Pruning audit: {audit.verdict}</title><style>{STYLE}</style></head>"
        f"<body><main>{''.join(parts)}</main></body></html>\n"
    )


def markdown(audit: "Audit") -> str:
    """Render the summary: verdict, reasons, one table."""
    table = _summary(audit)
    lines = [
        f"# Pruning audit: {audit.verdict}",
        "",
        f"{MEANING[audit.verdict]} Limit: {audit.limit:.2%} of the answers.",
        "",
        "| " + " | ".join(table.columns) + " |",
        "|" + " --- |" * len(table.columns),
        *("| " + " | ".join(map(str, row)) + " |" for row in table.itertuples(index=False)),
        "",
        *(
            f"- {_name(result)}: **{result.decision.verdict}**. "
            f"{'; '.join(result.decision.reasons)}."
            for result in audit.results
        ),
        *(f"- {note}" for note in _notes(audit)),
        "",
        f"    {audit.command}",
        "",
        *(f"- {name}: {value}" for name, value in _facts(audit)),
    ]
    return "\n".join(lines) + "\n"


def json_text(audit: "Audit") -> str:
    """Render all numbers and flips; a number that is not finite becomes null."""
    fields = {name: value for name, value in vars(audit).items() if name != "results"}
    results = [vars(result) for result in audit.results]
    whole = {"verdict": audit.verdict, "smallest": audit.smallest, **fields, "results": results}
    return json.dumps(_plain(whole), indent=1, allow_nan=False) + "\n"


def _plain(value: Any) -> Any:
    """Reduce to what JSON knows, without pictures."""
    if isinstance(value, pd.DataFrame):
        return _plain(value.to_dict("records"))
    if is_dataclass(value) and not isinstance(value, type):
        return _plain({k: v for k, v in vars(value).items() if k != "png"})
    if isinstance(value, dict):
        return {str(k): _plain(v) for k, v in value.items()}
    if isinstance(value, list | tuple):
        return [_plain(v) for v in value]
    if isinstance(value, float):
        return float(value) if math.isfinite(value) else None
    return value


def _summary(audit: "Audit") -> pd.DataFrame:
    """One row per pruner and budget, as text."""
    rows = []
    for result in audit.results:
        d = result.decision
        a = d.accuracy
        truth = {
            "accuracy change": "" if a is None else f"{a.change.value:+.2%}",
            "TOST interval": "" if a is None else f"{a.low:+.2%} to {a.high:+.2%}",
            "equivalent": "" if a is None else ("yes" if a.equivalent else "not shown"),
            "broken": "" if a is None else f"{a.broken.value:.2%}",
            "repaired": "" if a is None else f"{a.repaired.value:.2%}",
            "changed but wrong": "" if a is None else f"{a.changed_but_wrong.value:.2%}",
        }
        rows.append(
            {
                "method": result.pruner,
                "tokens": f"{result.tokens:.1%}",
                "verdict": d.verdict,
                "flips": _percent(d.flips),
                "at most": f"{d.at_most:.2%}",
                "beyond noise": _percent(d.excess),
                **truth,
            }
        )
    return pd.DataFrame(rows)


def _notes(audit: "Audit") -> list[str]:
    """Sentences about the run as a whole."""
    d = audit.results[0].decision
    notes = [
        f"{d.questions:,} questions about {d.images:,} images.",
        f"Noise floor: the unpruned model flips {_percent(audit.noise)} of its own answers when it "
        "is asked one question at a time.",
    ]
    for name, budget in audit.smallest.items():
        words = "none of these" if budget is None else f"{budget:g} of the tokens"
        notes.append(f"Smallest budget of {name} shown to meet the limit: {words}.")
    if audit.skipped:
        notes.append(f"{len(audit.skipped)} row(s) skipped: {'; '.join(audit.skipped[:10])}.")
    if audit.ignored:
        notes.append(f"Columns that nothing reads: {', '.join(audit.ignored)}.")
    return notes


def _facts(audit: "Audit") -> list[tuple[str, Any]]:
    return [("data", audit.data), *audit.facts.items()]


def _section(result: "Audited") -> str:
    """Groups and flips of one pruner."""
    groups = result.decision.groups.copy()
    for column in ("flips", "at_least", "at_most"):
        groups[column] = groups[column].map("{:.2%}".format)
    groups.columns = [str(column).replace("_", " ") for column in groups.columns]
    shown = [flip for flip in result.flips if flip.png]
    said = f"The first {len(shown)} of {len(result.flips)} flips" if shown else "No flips to show"
    cards = "".join(map(_card, shown))
    return (
        f"<h2>{escape(_name(result))}</h2><p><code>{escape(result.parameters)}</code></p>"
        + _table(groups, "Flips by group; the bounds hold for all groups together")
        + f"<details{' open' if shown else ''}><summary>{said}</summary>"
        + f'<div class="flips">{cards}</div></details>'
    )


def _card(flip: "Flip") -> str:
    picture = b64encode(flip.png).decode()
    truth = f" (true: {escape(flip.answer)})" if flip.answer else ""
    return (
        f'<figure><img alt="{escape(flip.image)}, dropped patches faded" '
        f'src="data:image/png;base64,{picture}"><figcaption><p>{escape(flip.question)}</p>'
        f"<p>{escape(flip.unpruned)} → <b>{escape(flip.pruned)}</b>{truth}</p>"
        f"<small>{escape(flip.kind)}; {escape(flip.group)}; {escape(flip.image)}</small>"
        "</figcaption></figure>"
    )


def _plot(audit: "Audit") -> str:
    """Flips of each pruner with their interval, beside the limit and the noise floor, as SVG."""
    left, right, step = 190.0, 620.0, 26.0
    ends = [r.decision.flips.high for r in audit.results] + [
        r.decision.at_most for r in audit.results
    ]
    top = min(1.0, 1.05 * max([2 * audit.limit, audit.noise.high, *ends]))

    def x(value: float) -> float:
        return left + (right - left) * min(value, top) / top

    height = step * len(audit.results) + 56
    marks = []
    for i, result in enumerate(audit.results):
        y, d = step * (i + 0.5) + 24, result.decision
        marks.append(
            f'<text x="0" y="{y + 4:.1f}">{escape(_name(result))}</text>'
            f'<line x1="{x(d.flips.low):.1f}" x2="{x(d.flips.high):.1f}" y1="{y}" y2="{y}" '
            'stroke="var(--bar)" stroke-width="3"/>'
            f'<circle cx="{x(d.flips.value):.1f}" cy="{y}" r="5" fill="var(--bar)"/>'
            f'<path d="M{x(d.at_most):.1f} {y - 6}v12" stroke="var(--bar)" stroke-width="2"/>'
        )
    lines = "".join(
        f'<line x1="{x(v):.1f}" x2="{x(v):.1f}" y1="20" y2="{height - 30:.1f}" '
        f'stroke="var(--{color})" stroke-dasharray="{dash}"/>'
        f'<text x="{x(v):.1f}" y="{at:.1f}" text-anchor="middle">{word} {v:.2%}</text>'
        for v, color, dash, word, at in (
            (audit.limit, "block", "none", "limit", 13.0),
            (audit.noise.value, "faint", "4 3", "noise", height - 14),
        )
    )
    return (
        f'<svg viewBox="0 0 660 {height:.0f}" role="img" aria-label="Share of flipped answers of '
        f'each method, with interval and limit">{lines}{"".join(marks)}</svg>'
        "<p><small>Dot: share of flips. Line: 95 % interval clustered by image. Tick: the upper "
        "bound that the verdict is based on.</small></p>"
    )


def _table(table: pd.DataFrame, caption: str) -> str:
    head = "".join(f'<th scope="col">{escape(str(column))}</th>' for column in table.columns)
    body = "".join(
        "<tr>" + "".join(f"<td>{escape(str(cell))}</td>" for cell in row) + "</tr>"
        for row in table.itertuples(index=False)
    )
    return (
        f'<div class="wide" tabindex="0"><table><caption>{escape(caption)}</caption>'
        f"<thead><tr>{head}</tr></thead><tbody>{body}</tbody></table></div>"
    )


def _badge(verdict: str) -> str:
    return f'<span class="verdict {verdict}">{verdict}</span>'


def _name(result: "Audited") -> str:
    return result.pruner if result.budget is None else f"{result.pruner} at {result.budget:g}"


def _percent(estimate: Estimate) -> str:
    return f"{estimate.value:.2%} [{estimate.low:.2%}, {estimate.high:.2%}]"
