"""Figures behind one slider, on a page with a kernel and on a page without.

A notebook's front end picks what it can show from what an output offers. `scrubber` offers two
forms of the same thing: an ipywidgets box, which needs a live kernel, and plain HTML: a range
input over inline SVG frames, some lines of script, and the first frame where scripts don't run.
"""

import hashlib
import html
import io
import json
import re
from collections.abc import Sequence
from typing import Any

import matplotlib.pyplot as plt
from matplotlib.figure import Figure

from lofi_core.errors import LofiError
from lofi_core.plots import INK

__all__ = ["Scrubber", "scrubber"]

HOLLOW = re.compile(r"fill: #ffffff(?=; stroke)")  # open markers: as the page behind them

# Runs once for each scrubber; `hidden` controls appear only here, so that none is dead without it.
_SCRIPT = """(id, values) => {
  const root = document.getElementById(id), frames = root.querySelectorAll(".scrubber-frame");
  const controls = root.querySelector(".scrubber-controls"), input = root.querySelector("input");
  const button = root.querySelector("button"), output = root.querySelector("output");
  let timer = 0;
  const show = () => {
    frames.forEach((frame, k) => { frame.hidden = k != input.value; });
    output.value = values[input.value];
    input.setAttribute("aria-valuetext", values[input.value]);
  };
  const stop = () => {
    clearInterval(timer); timer = 0;
    button.textContent = "\\u25b6"; button.setAttribute("aria-label", "play");
  };
  const step = () => { input.value = (+input.value + 1) % frames.length; show(); };
  input.addEventListener("input", () => { stop(); show(); });
  button.addEventListener("click", () => {
    if (timer) return stop();
    timer = setInterval(step, 500);
    button.textContent = "\\u23f8"; button.setAttribute("aria-label", "pause");
  });
  controls.hidden = false;
}"""


class Scrubber:
    """Frames behind one slider; see `scrubber`, which makes it."""

    def __init__(
        self, frames: Sequence[str], values: Sequence[str], label: str, alt: str, start: int = 0
    ) -> None:
        self.values, self.label, self.alt, self.start = list(values), label, alt, start
        digest = hashlib.sha256("\0".join([label, alt, *values, *frames]).encode())
        self.uid = f"scrubber-{digest.hexdigest()[:10]}"
        described = zip(frames, self.values, strict=True)
        self.frames = [
            _prepare(svg, f"{self.uid}-{k}-", f"{alt} ({label}: {value})")
            for k, (svg, value) in enumerate(described)
        ]

    def _repr_html_(self) -> str:
        """Return the static form: it needs no kernel, and without scripts it is its first frame."""
        label, first = html.escape(self.label), html.escape(self.values[self.start])
        frames = "".join(
            f'<div class="scrubber-frame"{" hidden" if k != self.start else ""}>{svg}</div>'
            for k, svg in enumerate(self.frames)
        )
        return (
            f'<div class="scrubber" id="{self.uid}" role="group" aria-label="{label}">{frames}'
            '<div class="scrubber-controls" hidden><button type="button" aria-label="play">▶'
            f'</button><label>{label} <input type="range" min="0" max="{len(self.frames) - 1}" '
            f'value="{self.start}" aria-valuetext="{first}"></label><output>{first}</output>'
            "</div></div>"
            f"<script>({_SCRIPT})({json.dumps(self.uid)}, {_json_in_html(self.values)})</script>"
        )

    def widget(self) -> Any:
        """Return the live form, an ipywidgets box, for a notebook with a kernel."""
        import ipywidgets as widgets

        last = len(self.frames) - 1
        slider = widgets.IntSlider(self.start, 0, last, description=self.label, readout=False)
        slider.style.description_width = "initial"
        play = widgets.Play(self.start, 0, last, interval=400)
        widgets.jslink((play, "value"), (slider, "value"))
        frame, value = (
            widgets.HTML(self.frames[self.start]),
            widgets.Label(self.values[self.start]),
        )

        def show(change: dict[str, int]) -> None:
            frame.value, value.value = self.frames[change["new"]], self.values[change["new"]]

        slider.observe(show, "value")
        return widgets.VBox([frame, widgets.HBox([play, slider, value])])

    def _repr_mimebundle_(self, include: Any = None, exclude: Any = None) -> dict[str, Any]:
        """Offer both forms; a front end with widgets takes the live one, others the HTML."""
        live: dict[str, Any] = self.widget()._repr_mimebundle_()
        first = f"{self.alt} ({self.label}: {self.values[self.start]})"
        return {**live, "text/html": self._repr_html_(), "text/plain": first}


def scrubber(
    frames: Sequence[Figure | str],
    label: str,
    alt: str,
    values: Sequence[object] | None = None,
    start: int = 0,
) -> Scrubber:
    """Show figures one at a time, moved by a slider, the arrow keys, or a play button.

    Parameters
    ----------
    frames : sequence of matplotlib figures or SVG strings
        At least one. Figures are rendered to SVG and closed. What is drawn in `INK`, as everything
        under `style` is, takes the page's text colour, in dark mode too.
    label : str
        What the slider changes, such as ``"tokens kept"``.
    alt : str
        What the picture shows, for readers who can't see it; each frame adds its value.
    values : sequence, optional
        What to print for each frame; by default ``1 of n``, ``2 of n``, ...
    start : int
        The frame that is shown first, and on paper: one that tells what the figure is about.

    Returns
    -------
    Scrubber
        Display it as the last line of a cell.

    Raises
    ------
    LofiError
        If there are no frames, not as many values as frames, or no frame ``start``.

    Examples
    --------
    >>> dots = [f'<svg viewBox="0 0 9 9"><circle r="{r}"/></svg>' for r in (1, 2)]
    >>> scrubber(dots, "radius", "a circle", values=[1, 2]).values
    ['1', '2']
    """
    if not frames:
        raise LofiError("scrubber: no frames; expected at least one figure or SVG string")
    texts = [f"{k} of {len(frames)}" for k in range(1, len(frames) + 1)]
    if values is not None:
        texts = [str(value) for value in values]
    if len(texts) != len(frames):
        raise LofiError(
            f"scrubber: {len(texts)} values for {len(frames)} frames; expected one for each"
        )
    if not 0 <= start < len(frames):
        raise LofiError(f"scrubber: start={start}; expected a frame, from 0 to {len(frames) - 1}")
    drawn = [f if isinstance(f, str) else _svg(f) for f in frames]
    return Scrubber(drawn, texts, label, alt, start)


def _svg(figure: Figure) -> str:
    """Render a figure to the same SVG text every time, and close it."""
    out = io.StringIO()
    with plt.rc_context({"svg.fonttype": "none", "svg.hashsalt": "lofi"}):
        figure.savefig(out, format="svg", transparent=True, metadata={"Date": None})
    plt.close(figure)
    text = out.getvalue()
    text = text[text.index("<svg") :].replace(INK, "currentColor")
    return HOLLOW.sub("fill: var(--pst-color-background, #ffffff)", text)


def _prepare(svg: str, prefix: str, alt: str) -> str:
    """Make ids unique on a page with many frames; let the picture shrink; describe it."""
    svg = re.sub(r'\bid="', f'id="{prefix}', svg)
    svg = re.sub(r'(href="#|url\(#)', rf"\g<1>{prefix}", svg)
    described = f'<svg role="img" aria-label="{html.escape(alt)}"'
    return svg.replace("<svg", f'{described} style="max-width: 100%; height: auto"', 1)


def _json_in_html(values: list[str]) -> str:
    """Return JSON that can't end the script element it stands in."""
    return json.dumps(values).replace("<", "\\u003c")
