"""Tables that the README and pages of the book show, made from data.

    python -m book.build.tables    rewrite every table on every page that has a place for it

A page has a place for a table between the comments ``<!-- NAME: begin -->`` and
``<!-- NAME: end -->``.
"""

import json
import re
import sys
from collections.abc import Callable
from pathlib import Path

from book.build import capabilities, methods

__all__ = ["TABLES", "fill", "pages"]

ROOT = Path(__file__).resolve().parents[2]
TABLES: dict[str, Callable[[], str]] = {
    "capabilities": lambda: capabilities.render(json.loads(capabilities.RESULTS.read_text())),
    "methods": methods.lines,
    "pruners": methods.details,
}


def pages() -> list[Path]:
    """Find the pages that have a place for a table."""
    found = [ROOT / "README.md", *sorted((ROOT / "book").glob("*.md"))]
    return [page for page in found if re.search(r"<!-- \w+: begin -->", page.read_text())]


def fill(text: str, tables: dict[str, Callable[[], str]]) -> str:
    """Put each table in its place in a page's text."""
    for name, make in tables.items():
        begin, end = f"<!-- {name}: begin -->", f"<!-- {name}: end -->"
        if begin in text:
            before, _, rest = text.partition(begin)
            text = f"{before}{begin}\n{make()}\n{end}{rest.partition(end)[2]}"
    return text


def main() -> int:
    """Fill every page."""
    for page in pages():
        page.write_text(fill(page.read_text(), TABLES))
        print(page.relative_to(ROOT))
    return 0


if __name__ == "__main__":
    sys.exit(main())
