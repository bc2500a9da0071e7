"""The scrubber in its static and its live form."""

import re
from html.parser import HTMLParser

import matplotlib.pyplot as plt
import pytest
from matplotlib.figure import Figure

from book.visuals.scrub import scrubber
from lofi_core.errors import LofiError
from lofi_core.plots import INK

pytestmark = pytest.mark.usefixtures("clean_figures")


def line(k: int) -> Figure:
    figure, ax = plt.subplots()
    ax.plot([0, 1], [0, k])
    ax.set_xlabel("x")
    return figure


class Page(HTMLParser):
    """Collects ids, references to them, and the attributes of each element."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.elements: list[tuple[str, dict[str, str | None]]] = []
        self.feed(text)
        self.ids = [a["id"] for _, a in self.elements if "id" in a]

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.elements.append((tag, dict(attrs)))

    def all(self, tag: str) -> list[dict[str, str | None]]:
        return [attributes for name, attributes in self.elements if name == tag]


def test_scrubber_html_is_complete_without_scripts() -> None:
    text = scrubber([line(1), line(2), line(3)], "slope", "A line.", [1, 2, 3])._repr_html_()
    page = Page(text)
    frames = [a for a in page.all("div") if a.get("class") == "scrubber-frame"]
    assert ["hidden" in frame for frame in frames] == [False, True, True]
    (slider,) = page.all("input")
    assert (slider["type"], slider["max"], slider["aria-valuetext"]) == ("range", "2", "1")
    controls = next(a for a in page.all("div") if a.get("class") == "scrubber-controls")
    assert "hidden" in controls, "controls that need a script must not show without it"
    assert "http" not in re.sub(
        r'xmlns(:\w+)?="[^"]*"|<metadata>.*?</metadata>', "", text, flags=re.S
    )


def test_scrubber_frames_are_described_and_take_the_page_colour() -> None:
    page = Page(scrubber([line(1), line(2)], "slope", "A line.", [1, 2])._repr_html_())
    pictures = page.all("svg")
    assert [p["aria-label"] for p in pictures] == ["A line. (slope: 1)", "A line. (slope: 2)"]
    text = scrubber([line(1)], "slope", "A line.")._repr_html_()
    assert "currentColor" in text and INK not in text


def test_scrubber_ids_are_unique_and_references_resolve() -> None:
    text = scrubber([line(1), line(2)], "slope", "A line.")._repr_html_()
    ids = Page(text).ids
    assert len(ids) == len(set(ids))
    references = re.findall(r'href="#([^"]+)"|url\(#([^)]+)\)', text)
    assert references and {a or b for a, b in references} <= set(ids)


def test_scrubber_is_deterministic() -> None:
    first, second = (scrubber([line(1), line(2)], "s", "A line.")._repr_html_() for _ in range(2))
    assert first == second
    assert plt.get_fignums() == [], "frames must be closed"


def test_scrubber_text_cannot_break_out_of_the_page() -> None:
    nasty = '</script><b>&"'
    text = scrubber(["<svg/>"], nasty, nasty, [nasty])._repr_html_()
    assert text.count("</script>") == 1 and "<b>" not in text


def test_scrubber_offers_a_widget_and_html() -> None:
    shown = scrubber([line(1), line(2)], "slope", "A line.", ["one", "two"])
    bundle = shown._repr_mimebundle_()
    assert bundle["text/html"] == shown._repr_html_()
    assert "application/vnd.jupyter.widget-view+json" in bundle
    frame, controls = shown.widget().children
    _, slider, value = controls.children
    slider.value = 1
    assert (frame.value, value.value) == (shown.frames[1], "two")


def test_scrubber_starts_where_it_is_told_to() -> None:
    shown = scrubber([line(1), line(2), line(3)], "slope", "A line.", "abc", start=1)
    page = Page(shown._repr_html_())
    frames = [a for a in page.all("div") if a.get("class") == "scrubber-frame"]
    assert ["hidden" in attributes for attributes in frames] == [True, False, True]
    assert page.all("input")[0]["value"] == "1" and page.all("input")[0]["aria-valuetext"] == "b"
    frame, controls = shown.widget().children
    assert (frame.value, controls.children[2].value) == (shown.frames[1], "b")
    with pytest.raises(LofiError, match="start=3"):
        scrubber([line(1), line(2), line(3)], "slope", "A line.", start=3)


def test_open_markers_have_the_colour_of_the_page() -> None:
    figure, ax = plt.subplots()
    ax.plot([0], [0], "o", mfc="white")
    ax.text(0, 0, "white on a cell", color="white")
    (svg,) = scrubber([figure], "one", "A point.").frames
    assert svg.count("var(--pst-color-background") == 1 and "#ffffff" in svg.partition("<text")[2]


@pytest.mark.parametrize(
    ("frames", "values", "message"),
    [([], None, "no frames"), (["<svg/>"], [1, 2], "2 values for 1 frames")],
)
def test_scrubber_refuses_what_it_cannot_show(frames: list, values: list, message: str) -> None:
    with pytest.raises(LofiError, match=f"scrubber: {message}"):
        scrubber(frames, "label", "alt", values)
