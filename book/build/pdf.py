"""Bind the built pages into one PDF: _build/lofi-book.pdf.

    python -m book.build.pdf

A headless Chromium prints each page as book/static/custom.css lays it out for paper, folded
solutions open, things that move at their first frame. The prints become one file with a title page,
a table of contents, bookmarks, page numbers, and links that lead from chapter to chapter inside it.
"""

import html
import json
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from io import BytesIO
from typing import Any

import yaml
from PIL import Image
from playwright.sync_api import Browser, PdfMargins, sync_playwright
from pypdf import PdfReader, PdfWriter
from pypdf.generic import (
    ArrayObject,
    ByteStringObject,
    DictionaryObject,
    NameObject,
    NumberObject,
)

from book.build.execute import BUILD, ROOT
from book.build.local import chromium, serve
from book.build.site import FACTS

SITE = BUILD / "html"
TARGET = BUILD / "lofi-book.pdf"
TITLE = "LoFi: leverage scores and the silent hazards of token pruning"
MARGINS: PdfMargins = {"top": "18mm", "bottom": "20mm", "left": "20mm", "right": "20mm"}
SMALL = ("book/api", "book/figures", "book/methods", "book/models")  # to look things up in

# Open what is folded; show every picture; keep links inside a page apart from those of other pages.
PREPARE = """async (prefix) => {
  document.querySelectorAll("details").forEach((details) => { details.open = true; });
  document.querySelectorAll(".toggle-hidden").forEach((e) => e.classList.remove("toggle-hidden"));
  for (const link of document.querySelectorAll("article a[href^='#']")) {
    const target = document.getElementById(decodeURIComponent(link.hash.slice(1)));
    if (!target) continue;
    if (!target.id.startsWith(prefix)) target.id = prefix + target.id;
    link.hash = target.id;
  }
  for (const img of document.images) img.loading = "eager";
  await Promise.all([...document.images].map((img) => img.decode().catch(() => {})));
  await window.MathJax?.startup?.promise;
}"""
HEADINGS = """() => [...document.querySelectorAll("article :is(h1, h2, h3, h4)")].map((heading) => {
  const copy = heading.cloneNode(true);
  copy.querySelectorAll(".headerlink").forEach((link) => link.remove());
  return copy.textContent.trim();
})"""


def main() -> int:
    """Print, bind, and write the file."""
    program = chromium()
    if not (SITE / "index.html").exists() or not program:
        what = "a Chromium (or CHROMIUM=/path/to/one)" if program is None else "'make book' first"
        print(f"book.build.pdf needs {what}", file=sys.stderr)
        return 1
    pages = list(toc_pages())
    with serve(SITE) as base, sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=program, args=["--no-sandbox"])
        prints = [printed(browser, base, page) for page in pages]
        book = bind([contents(browser, base, prints), *prints], base)
        stamp(book, PdfReader(BytesIO(numbers(browser, len(book.pages)))))
        browser.close()
    slim(book)
    book.write(TARGET)
    print(f"{TARGET}: {len(book.pages)} pages, {TARGET.stat().st_size / 1e6:.1f} MB")
    return 0


def toc_pages() -> Iterator[str]:
    """Yield the pages of the table of contents, in its order."""
    toc = yaml.safe_load((ROOT / "_toc.yml").read_text())
    yield toc["root"]
    for part in toc["parts"]:
        yield from (chapter["file"] for chapter in part["chapters"])


@dataclass(frozen=True)
class Print:
    """One page of the site on paper, and its headings."""

    name: str
    content: PdfReader
    headings: list[str]


def printed(browser: Browser, base: str, name: str) -> Print:
    """Print one page."""
    page = browser.new_page(viewport={"width": 1000, "height": 1400}, color_scheme="light")
    page.goto(f"{base}/{name}.html", wait_until="load")
    page.evaluate(PREPARE, f"{name.rsplit('/', 1)[-1]}-")
    headings = page.evaluate(HEADINGS)
    scale = 0.6 if name in SMALL else 0.8
    content = page.pdf(
        format="A4", margin=MARGINS, print_background=True, outline=True, tagged=True, scale=scale
    )
    page.close()
    return Print(name, PdfReader(BytesIO(content)), headings)


def contents(browser: Browser, base: str, prints: list[Print]) -> Print:
    """Print a title page: what this is, what it was built from, and on which page what begins."""
    rows, number = [], 2
    for sheet in prints:
        link = f'<a href="{base}/{sheet.name}.html">{html.escape(sheet.headings[0])}</a>'
        rows.append(f"<tr><td>{link}</td><td>{number}</td></tr>")
        number += len(sheet.content.pages)
    built = "<br>".join(html.escape(line) for line in json.loads(FACTS.read_text())["foot"])
    style = (
        "body { font: 11pt/1.5 sans-serif } h1 { font-size: 22pt; line-height: 1.25 }"
        "table { width: 100%; margin: 12mm 0 } td { padding: .8mm 0 } td + td { text-align: right }"
        "a { color: inherit; text-decoration: none } p { color: #555; font-size: 9pt }"
    )
    page = browser.new_page()
    page.set_content(
        f"<style>{style}</style><h1>{TITLE}</h1><table>{''.join(rows)}</table><p>{built}</p>"
    )
    content = page.pdf(format="A4", margin=MARGINS, outline=True, tagged=True)
    page.close()
    return Print("contents", PdfReader(BytesIO(content)), [TITLE])


def bind(prints: list[Print], base: str) -> PdfWriter:
    """Join the prints, with bookmarks, and let links between them stay inside."""
    book, starts = PdfWriter(), {}
    for sheet in prints:
        start = starts[f"{base}/{sheet.name}.html"] = len(book.pages)
        book.append(sheet.content, import_outline=False)
        add_bookmarks(book, sheet, sheet.content.outline, start, None)
    for page in book.pages:
        links: Any = page.get("/Annots", ArrayObject())
        for reference in list(links):
            link = reference.get_object()
            address = link.get("/A", {}).get("/URI", "").partition("#")[0]
            if address in starts:
                place = book.pages[starts[address]].indirect_reference
                top = ArrayObject([place, NameObject("/FitH"), NumberObject(842)])
                action = {NameObject("/S"): NameObject("/GoTo"), NameObject("/D"): top}
                link[NameObject("/A")] = DictionaryObject(action)
            elif address.startswith(base):
                links.remove(reference)  # to a file that is not on paper
    book.add_metadata({"/Title": TITLE})
    book.page_mode = "/UseOutlines"
    return book


def add_bookmarks(book: PdfWriter, sheet: Print, items: list[Any], start: int, above: Any) -> None:
    """Add a print's bookmarks, and undo what Chromium does to their words.

    A heading that wraps reaches the outline without the space there; one at the edge of a page, in
    pieces, each twice. So a bookmark is told by its letters, or by every second of them.
    """
    whole = {letters(heading): heading for heading in sheet.headings}
    last = above
    for item in items:
        if isinstance(item, list):
            add_bookmarks(book, sheet, item, start, last)
            continue
        found = letters(item.title)
        title = whole.get(found) or whole.get(found[::2]) or item.title
        place = sheet.content.get_destination_page_number(item)
        last = book.add_outline_item(title=title, page_number=start + (place or 0), parent=above)


def letters(text: str) -> str:
    """Return the letters of a text in alphabetical order."""
    return "".join(sorted("".join(text.split())))


def numbers(browser: Browser, count: int) -> bytes:
    """Print as many pages as the book has, with nothing on them but their numbers."""
    place = "position: absolute; bottom: 9mm; width: 100%; text-align: center"
    sheet = "position: relative; height: 296.9mm; break-after: page; font: 9pt sans-serif"
    sheets = "".join(
        f'<div style="{sheet}"><div style="{place}">{n}</div></div>' for n in range(1, count + 1)
    )
    page = browser.new_page()
    page.set_content(f"<style>body {{ margin: 0 }}</style>{sheets}")
    content = page.pdf(format="A4")
    page.close()
    return content


def stamp(book: PdfWriter, sheets: PdfReader) -> None:
    """Put a number on every page."""
    for page, sheet in zip(book.pages, sheets.pages[: len(book.pages)], strict=True):
        page.merge_page(sheet)


def slim(book: PdfWriter) -> None:
    """Compress what can be: text, and pictures, which Chromium stores in full colour.

    Figures have few colours: 256, chosen for each picture, can stand for them.
    """
    for page in book.pages:
        page.compress_content_streams(level=9)
    seen = set()
    for page in book.pages:
        things = page.get("/Resources", {}).get("/XObject", {})
        for reference in things.values():
            picture = reference.get_object()
            if id(picture) not in seen and picture.get("/Subtype") == "/Image":
                seen.add(id(picture))
                with_palette(picture)
    book.compress_identical_objects()


def with_palette(picture: Any) -> None:
    """Store a picture of three bytes a pixel as one byte a pixel and a palette."""
    size, data = (picture["/Width"], picture["/Height"]), picture.get_data()
    if picture.get("/Filter") != "/FlateDecode" or len(data) != 3 * size[0] * size[1]:
        return
    flat = Image.frombytes("RGB", size, data).quantize(256, dither=Image.Dither.NONE)
    palette = bytes(flat.getpalette() or []).ljust(768, b"\0")
    space = (NameObject("/Indexed"), NameObject("/DeviceRGB"), NumberObject(255))
    picture.set_data(flat.tobytes())
    picture[NameObject("/ColorSpace")] = ArrayObject([*space, ByteStringObject(palette)])
    picture.pop("/DecodeParms", None)


if __name__ == "__main__":
    sys.exit(main())
