"""Look at flipped answers one after the other: image, question, answers before and after.

`flip_browser` shows what an average can't. As with `book.visuals.scrub`, it is plain HTML on a page
without a kernel, whose first view is complete without scripts, and a widget with one.
"""

import base64
import hashlib
import html
import io
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from PIL import Image

from lofi_core.errors import LofiError
from lofi_core.plots import fade_dropped

__all__ = ["KINDS", "Flip", "flip_browser", "spoken", "swatch"]

# One colour a kind of flip, from seaborn's colour-blind palette.
KINDS = {"right_to_wrong": "#d55e00", "wrong_to_right": "#0173b2", "wrong_to_other": "#949494"}


@dataclass(frozen=True)
class Flip:
    """One answer that changed; what `flip_browser` shows of it.

    Parameters
    ----------
    image : PIL.Image.Image
        The picture as the model's processor cropped it.
    kept : sequence of int
        Row-major indices of the patches that were kept.
    grid : (rows, columns)
        The patch grid.
    question : str
        What was asked.
    truth : str
        The right answer.
    before, after : str
        The answer unpruned (before) and pruned (after).
    setting : str
        Method and budget, for people, such as ``"LoFi, 25 % of the tokens"``.
    sure : (float, float), optional
        Probability of ``before`` unpruned and of ``after`` pruned.
    """

    image: Image.Image
    kept: Sequence[int]
    grid: tuple[int, int]
    question: str
    truth: str
    before: str
    after: str
    setting: str
    sure: tuple[float, float] | None = None

    @property
    def kind(self) -> str:
        """Return one of ``right_to_wrong``, ``wrong_to_right``, ``wrong_to_other``."""
        if self.before == self.truth:
            return "right_to_wrong"
        return "wrong_to_right" if self.after == self.truth else "wrong_to_other"


_SCRIPT = """(id) => {
  const root = document.getElementById(id), cards = [...root.querySelectorAll(".flip-card")];
  const [previous, next] = root.querySelectorAll("button"), select = root.querySelector("select");
  const output = root.querySelector("output");
  let place = 0;
  const show = (k) => {
    const listed = cards.filter((c) => !select.value || c.dataset.kind === select.value);
    place = (k + listed.length) % listed.length;
    cards.forEach((card) => { card.hidden = card !== listed[place]; });
    output.value = `${place + 1} of ${listed.length}`;
  };
  previous.addEventListener("click", () => show(place - 1));
  next.addEventListener("click", () => show(place + 1));
  select.addEventListener("change", () => show(0));
  root.addEventListener("keydown", (event) => {
    const step = { ArrowLeft: -1, ArrowRight: 1 }[event.key];
    if (!step || event.target === select) return;
    event.preventDefault(); show(place + step);
  });
  root.querySelector(".flip-controls").hidden = false;
}"""


class FlipBrowser:
    """Flipped answers, one at a time; see `flip_browser`, which makes it."""

    def __init__(self, flips: Sequence[Flip]) -> None:
        self.kinds = [flip.kind for flip in flips]
        self.cards = [_card(flip) for flip in flips]
        digest = hashlib.sha256("\0".join(self.cards).encode())
        self.uid = f"flips-{digest.hexdigest()[:10]}"

    def choices(self) -> list[tuple[str, str]]:
        """Return what the filter offers: text and kind, "" being all."""
        counts = Counter(self.kinds)
        every = (f"all flips ({len(self.kinds)})", "")
        return [every, *((f"{spoken(k)} ({counts[k]})", k) for k in KINDS if counts[k])]

    def _repr_html_(self) -> str:
        """Return the static form; without scripts it shows the first flip."""
        cards = "".join(
            f'<div class="flip-card" data-kind="{kind}"{" hidden" if k else ""}>{card}</div>'
            for k, (kind, card) in enumerate(zip(self.kinds, self.cards, strict=True))
        )
        options = "".join(
            f'<option value="{kind}">{text}</option>' for text, kind in self.choices()
        )
        return (
            f'<div class="scrubber flips" id="{self.uid}" role="group" aria-label="flips">'
            f'<div class="flip-controls" hidden><button type="button">◀ Previous</button>'
            '<button type="button">Next ▶</button>'
            f'<output aria-live="polite">1 of {len(self.cards)}</output>'
            f"<label>show <select>{options}</select></label></div>{cards}</div>"
            f'<script>({_SCRIPT})("{self.uid}")</script>'
        )

    def widget(self) -> Any:
        """Return the live form, an ipywidgets box, for a notebook with a kernel."""
        import ipywidgets as widgets

        card, place = widgets.HTML(self.cards[0]), widgets.Label()
        select = widgets.Dropdown(options=self.choices(), value="", description="show")
        previous, after = (widgets.Button(description=d) for d in ("◀ Previous", "Next ▶"))
        state = {"place": 0}

        def show(k: int) -> None:
            pairs = zip(self.cards, self.kinds, strict=True)
            listed = [c for c, kind in pairs if select.value in ("", kind)]
            state["place"] = k % len(listed)
            card.value = listed[state["place"]]
            place.value = f"{state['place'] + 1} of {len(listed)}"

        previous.on_click(lambda _: show(state["place"] - 1))
        after.on_click(lambda _: show(state["place"] + 1))
        select.observe(lambda _: show(0), "value")
        show(0)
        return widgets.VBox([widgets.HBox([previous, after, place, select]), card])

    def _repr_mimebundle_(self, include: Any = None, exclude: Any = None) -> dict[str, Any]:
        """Offer both forms, as `Scrubber` does."""
        live: dict[str, Any] = self.widget()._repr_mimebundle_()
        first = f"{len(self.cards)} flipped answers"
        return {**live, "text/html": self._repr_html_(), "text/plain": first}


def flip_browser(flips: Sequence[Flip]) -> FlipBrowser:
    """Show flipped answers one at a time, with Previous, Next, arrow keys and a filter by kind.

    Parameters
    ----------
    flips : sequence of Flip
        At least one. Each adds a few kilobytes to the page, most of them its picture.

    Returns
    -------
    FlipBrowser
        Display it as the last line of a cell.

    Raises
    ------
    LofiError
        If there are none, or if one is no flip: before and after are equal.

    Examples
    --------
    >>> picture = Image.new("RGB", (4, 4))
    >>> flip = Flip(picture, [0], (2, 2), "How many?", "two", "two", "three", "LoFi, a quarter")
    >>> flip_browser([flip]).choices()
    [('all flips (1)', ''), ('right to wrong (1)', 'right_to_wrong')]
    """
    if not flips:
        raise LofiError("flip_browser: no flips; expected at least one `Flip`")
    for k, flip in enumerate(flips):
        if flip.before == flip.after:
            raise LofiError(
                f"flip_browser: flips[{k}] has the answer {flip.before!r} before and after; "
                "expected two different answers: select the rows that changed"
            )
    return FlipBrowser(flips)


def spoken(kind: str) -> str:
    """Return a kind of flip in words.

    >>> spoken("right_to_wrong")
    'right to wrong'
    """
    return kind.replace("_", " ")


def swatch(kind: str) -> str:
    """Return a small square of HTML in the colour of a kind of flip."""
    size = "display: inline-block; width: 0.9em; height: 0.9em"
    return f'<span style="{size}; background: {KINDS[kind]}"></span>'


def _card(flip: Flip) -> str:
    """Return the HTML of one flip; styled here, because a notebook has no style sheet of ours."""
    kept = fade_dropped(flip.image, flip.kept, flip.grid)
    n, total = len(set(map(int, flip.kept))), flip.grid[0] * flip.grid[1]
    pictures = [
        (flip.image, "all patches", f"The scene, all {total} patches"),
        (Image.fromarray(kept), f"{n} of {total} kept", f"The scene, {n} of {total} patches kept"),
    ]
    figures = "".join(
        f'<div style="flex: 1 1 0; text-align: center"><img alt="{alt}" '
        f'src="{_address(image)}" style="width: 100%; image-rendering: pixelated"><br>'
        f"<small>{label}</small></div>"
        for image, label, alt in pictures
    )
    sure = ["" if flip.sure is None else f" ({p:.0%})" for p in flip.sure or (0.0, 0.0)]
    answers = ((flip.before, "all tokens", sure[0]), (flip.after, flip.setting, sure[1]))
    lines = "".join(
        f"<div>{html.escape(where)}: <b>{html.escape(answer)}</b>{p} "
        f"{'✓' if answer == flip.truth else '✗'}</div>"
        for answer, where, p in answers
    )
    return (
        '<div style="display: flex; flex-wrap: wrap; gap: 1rem; align-items: center">'
        '<div style="flex: 2 1 18rem; max-width: 32rem; display: flex; gap: 0.75rem">'
        f'{figures}</div><div style="flex: 1 1 13rem; text-align: left">'
        f"<div>{swatch(flip.kind)} {spoken(flip.kind)}</div>"
        f"<div><b>{html.escape(flip.question)}</b></div>"
        f"{lines}<div>right answer: {html.escape(flip.truth)}</div></div></div>"
    )


def _address(image: Image.Image) -> str:
    """Return a picture as a data address; JPEG, because noise makes PNGs ten times as large."""
    out = io.BytesIO()
    image.convert("RGB").save(out, "JPEG", quality=85)
    return f"data:image/jpeg;base64,{base64.b64encode(out.getvalue()).decode()}"
