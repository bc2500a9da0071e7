"""What an executed notebook must fulfil before it becomes a page, checked by program.

Jupyter Book publishes tracebacks, unexecuted cells and figures without a caption in silence, even
with warnings as errors. These functions do not.
"""

import re
from copy import deepcopy

from nbformat import NotebookNode

IMAGES = ("image/png", "image/jpeg", "image/svg+xml")
MOVING = re.compile(r'class="(scrubber|explorer)\b')
WIDGET = "application/vnd.jupyter.widget-view+json"


def check(notebook: NotebookNode) -> list[str]:
    """Return one line for each broken rule; an empty list means that the notebook may be shown."""
    problems = []
    names: set[str] = set()
    code = [cell for cell in notebook.cells if cell.cell_type == "code" and cell.source.strip()]
    for number, cell in enumerate(code, start=1):
        found = [*check_execution(cell), *check_outputs(cell), *check_figure(cell, names)]
        problems += [f"code cell {number} ({first_line(cell)}): {what}" for what in found]
    return problems


def first_line(cell: NotebookNode) -> str:
    """Return the beginning of a cell, by which people find it."""
    return str(cell.source).strip().splitlines()[0][:50]


def check_execution(cell: NotebookNode) -> list[str]:
    """Every code cell ran, and none ended in an error."""
    if cell.execution_count is None:
        return ["was not executed"]
    errors = [out for out in cell.outputs if out.output_type == "error"]
    return [f"ended in {out.ename}: {out.evalue}" for out in errors]


def check_outputs(cell: NotebookNode) -> list[str]:
    """Nothing goes to stderr, and every widget has something to show on a page without a kernel."""
    problems = []
    for out in cell.outputs:
        if out.output_type == "stream" and out.name == "stderr":
            problems.append(f"wrote to stderr: {out.text.strip()[:200]}")
        data = out.get("data", {})
        if WIDGET in data and "text/html" not in data:
            problems.append(
                "shows a widget that a static page can't; see book.visuals.scrub.scrubber"
            )
    return problems


def check_figure(cell: NotebookNode, names: set[str]) -> list[str]:
    """A figure has a caption, a name that no other has, and text for those who can't see it."""
    shown = [out for out in cell.outputs if out.output_type in ("display_data", "execute_result")]
    if not any(is_figure(out) for out in shown):
        return []
    mystnb = cell.metadata.get("mystnb", {})
    figure, image = mystnb.get("figure", {}), mystnb.get("image", {})
    problems = [f"figure without {key}" for key in ("caption", "name") if not figure.get(key)]
    if any(set(IMAGES) & out.data.keys() for out in shown) and not image.get("alt"):
        problems.append("figure without alt text (cell metadata mystnb.image.alt)")
    if len(shown) > 1:
        problems.append(f"shows {len(shown)} outputs under one caption; make it one figure a cell")
    name = figure.get("name", "")
    if name and not name.startswith("fig-"):
        problems.append(f"figure name {name!r} does not begin with 'fig-'")
    if name in names:
        problems.append(f"figure name {name!r} is used twice")
    names.add(name)
    return problems


def is_figure(output: NotebookNode) -> bool:
    """Tell whether an output is a picture, or one of the views that a reader moves."""
    html = output.data.get("text/html", "")
    return bool(set(IMAGES) & output.data.keys()) or bool(MOVING.search(html))


def for_static_page(notebook: NotebookNode) -> NotebookNode:
    """Return a copy without the parts that only a live kernel can use.

    Where an output has HTML beside its widget, the page shows the HTML and loads no widget scripts.
    """
    page = deepcopy(notebook)
    page.metadata.pop("widgets", None)
    for cell in page.cells:
        for out in cell.get("outputs", []):
            out.get("data", {}).pop(WIDGET, None)
    return page
