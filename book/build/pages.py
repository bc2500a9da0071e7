"""Pages that are made from the notebooks: the map of chapters, and the index of figures.

What a chapter is called, what it asks and how long it takes to read stand in its first cell and
nowhere else; how long it runs was measured.
"""

import re
from collections.abc import Collection, Mapping
from dataclasses import dataclass
from pathlib import Path

from nbformat import NotebookNode

from book.build.execute import Record

HERE = "% chapters"  # a comment in index.md, where the map goes
TIME = re.compile(r"\{time ([\d ]+)\}")  # such as {time 01 02}: the reading time of these chapters
LINK = re.compile(r"\[([^]]*)\]\((?:\.\./)?notebooks/([\w-]+)\.ipynb\)")


@dataclass(frozen=True)
class Chapter:
    """What the first cell of a notebook says of it."""

    stem: str
    title: str
    question: str
    minutes: int

    @classmethod
    def read(cls, path: Path, notebook: NotebookNode) -> "Chapter":
        """Read the first cell; the tests hold every chapter to its form."""
        text = notebook.cells[0].source
        parts = {
            "title": re.search(r"^# (.+)$", text, re.M),
            "question": re.search(r"^\*\*(.+\?)\*\*$", text, re.M),
            "minutes": re.search(r"\*\*Time to read:\*\* (\d+) minutes", text),
        }
        missing = [name for name, match in parts.items() if not match]
        if missing:
            raise SystemExit(f"{path.name}: the first cell does not state its {', '.join(missing)}")
        title, question, minutes = (match[1] for match in parts.values() if match)
        return cls(path.stem, title, " ".join(question.split()), int(minutes))


def with_chapters(index: str, notebooks: Mapping[Path, NotebookNode], records: list[Record]) -> str:
    """Fill the first page: the table of chapters, and reading times of paths through them."""
    chapters = {path.stem: Chapter.read(path, nb) for path, nb in notebooks.items()}
    runs = {record.path.stem: record.seconds for record in records}
    rows = [
        f"* - {int(c.stem[:2])}\n  - [{c.title}](notebooks/{c.stem}.ipynb)\n\n    {c.question}\n"
        f"  - {c.minutes}\N{NO-BREAK SPACE}min\n  - {runs[c.stem]:.0f}\N{NO-BREAK SPACE}s"
        for c in chapters.values()
    ]
    table = [
        "```{list-table}",
        ":header-rows: 1",
        ":class: chapters",
        "* -",
        "  - Chapter and question",
        "  - To read",
        "  - To run",
        *rows,
        "```",
    ]
    minutes = {stem[:2]: chapter.minutes for stem, chapter in chapters.items()}

    def reading_time(match: re.Match[str]) -> str:
        return spoken(sum(minutes.get(number, 0) for number in match[1].split()))

    return TIME.sub(reading_time, index).replace(HERE, "\n".join(table))


def without_dead_links(page: str, stems: Collection[str]) -> str:
    """Leave the words of links to chapters that this build does not have."""
    return LINK.sub(lambda match: match[0] if match[2] in stems else match[1], page)


def spoken(minutes: int) -> str:
    """Return a time as people say it.

    >>> spoken(45), spoken(150)
    ('45 minutes', '2½ hours')
    """
    if minutes < 60:
        return f"{minutes} minutes"
    halves = round(minutes / 30)
    hours = f"{halves // 2}{'½' if halves % 2 else ''}"
    return f"{hours} hour{'' if halves == 2 else 's'}"


def figures_page(notebooks: Mapping[Path, NotebookNode]) -> str:
    """Return the index of figures: number, caption, and a link to each."""
    lines = [
        "# Figures",
        "",
        "Every figure of the book, in order; in its chapter, the code above each makes it.",
        "",
    ]
    for path, notebook in notebooks.items():
        named = [c.metadata.get("mystnb", {}).get("figure", {}) for c in notebook.cells]
        title = Chapter.read(path, notebook).title
        lines += [f"## [{title}](../notebooks/{path.name})", ""] if any(named) else []
        lines += [f"{{numref}}`{f['name']}`\n: {f['caption']}\n" for f in named if f.get("name")]
    return "\n".join(lines)
