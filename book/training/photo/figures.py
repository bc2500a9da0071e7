"""The acceptance table: what records say about right and wrong photos, beside the bars set for it.

The bars were fixed before PhotoVLM was trained, and a test compares the figures with them.
"""

from dataclasses import dataclass
from typing import Any

import pandas as pd

from book.training.photo.records import FOUR
from lofi_core.evaluation.statistics import clustered_means

__all__ = ["BARS", "Bar", "acceptance", "figures_of", "table_of"]


@dataclass(frozen=True)
class Bar:
    """The least that a figure may be: ``low`` of its interval must exceed 0 where ``sure``."""

    part: str
    column: str
    least: float
    sure: bool = False


BARS = (
    Bar("pope-random", "looks", 0.10, sure=True),
    Bar("pope-popular", "looks", 0.10, sure=True),
    Bar("pope-adversarial", "looks", 0.10, sure=True),
    Bar("coco-boxes-exist", "looks", 0.10, sure=True),
    Bar("vqa2-yesno", "looks", 0.05, sure=True),
    Bar("pope-random", "right", 0.70),
    Bar("vqa2-yesno", "right", 0.60),
    Bar("four-captions", "right", 0.70),
)
SETTINGS = ("random", "popular", "adversarial")


def parts_of(records: pd.DataFrame) -> dict[str, pd.DataFrame]:
    """Split records by source, POPE by its balanced settings, SugarCrepe by kind of change."""
    source, settings = records["source"], records["settings"].str.split()
    parts = {}
    for name in SETTINGS:
        member = settings.map(lambda held, name=name: f"pope-{name}" in held)
        parts[f"pope-{name}"] = records[(source == "pope") & member]
    for name in ("coco-boxes-exist", "vqa2-yesno", "vsr", FOUR, f"{FOUR}-ranked"):
        parts[name] = records[source == name]
    for change in ("replace", "swap", "add"):
        parts[f"sugarcrepe-{change}"] = records[source.str.startswith(f"sugarcrepe-{change}")]
    return {name: part for name, part in parts.items() if part["image"].nunique() > 1}


def figures_of(records: pd.DataFrame) -> dict[str, dict[str, Any]]:
    """Accuracy with the right photo, with a wrong one, and their difference, by part.

    Parameters
    ----------
    records : DataFrame
        As `book.training.photo.records.ask_twice` returns them.

    Returns
    -------
    dict
        Part to ``questions``, ``photos``, and [value, low, high] of ``right``, ``wrong`` and
        ``looks`` = right - wrong, whose 95 % intervals cluster questions by photo.
    """
    figures = {}
    for name, part in parts_of(records).items():
        wide = part.pivot(index=["image", "question"], columns="shown", values="right").astype(
            float
        )
        wide["looks"] = wide["right"] - wide["wrong"]
        images = wide.index.get_level_values("image")
        bounds = {"right": (0.0, 1.0), "wrong": (0.0, 1.0), "looks": (-1.0, 1.0)}
        means = clustered_means(wide, images, bounds)
        figures[name] = {"questions": len(wide), "photos": int(images.nunique())} | {
            column: [round(float(x), 4) for x in means.loc[column, ["value", "low", "high"]]]
            for column in bounds
        }
    return figures


def acceptance(figures: dict[str, dict[str, Any]]) -> list[tuple[Bar, bool]]:
    """Say of each bar whether the figures reach it; a part that was not asked does not."""
    reached = []
    for bar in BARS:
        value, low, _ = figures.get(bar.part, {}).get(bar.column, (float("-inf"),) * 3)
        reached.append((bar, value >= bar.least and (low > 0 or not bar.sure)))
    return reached


def table_of(figures: dict[str, dict[str, Any]]) -> str:
    """Render the figures, and the bars, as two Markdown tables."""
    lines = ["| part | questions | photos | right photo | wrong photo | difference |"]
    lines += ["|---|---:|---:|---|---|---|"]
    for name, row in figures.items():
        cells = [_percent(row[column]) for column in ("right", "wrong", "looks")]
        lines.append(f"| {name} | {row['questions']} | {row['photos']} | {' | '.join(cells)} |")
    lines += ["", "| bar | at least | reached |", "|---|---:|---|"]
    for bar, met in acceptance(figures):
        what = {"looks": "right minus wrong photo", "right": "right photo"}[bar.column]
        sure = ", interval above 0" if bar.sure else ""
        verdict = "yes" if met else "**no**"
        lines.append(f"| {bar.part}, {what} | {100 * bar.least:.0f}{sure} | {verdict} |")
    return "\n".join(lines)


def _percent(numbers: list[float]) -> str:
    value, low, high = (100 * number for number in numbers)
    return f"{value:.1f} [{low:.1f}, {high:.1f}]"
