"""One picture many times over, each time with other patches kept: a light SVG for pages.

The picture is stored once; what a method drops is drawn over it as one translucent path. So a sheet
of twenty methods weighs little more than the picture, and stays sharp at any size.
"""

import base64
import html
import io
from collections.abc import Iterable, Mapping

from PIL import Image

from lofi_core.errors import LofiError

__all__ = ["contact_sheet"]

CELL, GAP, LABEL = 100, 8, 17  # labels that a phone can show


def contact_sheet(
    image: Image.Image,
    kept: Mapping[str, Iterable[int]],
    grid: tuple[int, int],
    columns: int = 5,
    dim: float = 0.85,
) -> str:
    """Draw an image once for each name, with the patches faded that are not kept.

    Parameters
    ----------
    image : PIL.Image.Image
        The picture as the model's processor cropped it, so that patches tile it evenly.
    kept : dict of str to iterable of int
        Label to row-major indices into the patch grid.
    grid : (rows, columns)
        The patch grid.
    columns : int
        Pictures in a row.
    dim : float in [0, 1]
        How far dropped patches fade towards white.

    Returns
    -------
    str
        SVG, for `book.visuals.scrub.scrubber` or a page. Text has the colour of the page's.

    Raises
    ------
    LofiError
        If there is nothing to draw, or an index lies outside the grid.

    Examples
    --------
    >>> svg = contact_sheet(Image.new("RGB", (8, 8)), {"half": [0, 3], "all": range(4)}, (2, 2))
    >>> svg.count("<use"), svg.count("data:image/png"), svg.count("<path")
    (2, 1, 1)
    """
    if not kept or columns < 1:
        raise LofiError(
            f"contact_sheet: {len(kept)} pictures, {columns} columns; expected at least one of each"
        )
    rows = -(-len(kept) // columns)
    width, height = columns * (CELL + GAP), rows * (CELL + GAP + LABEL)
    cells = []
    for i, (label, index) in enumerate(kept.items()):
        x, y = i % columns * (CELL + GAP) + GAP / 2, i // columns * (CELL + GAP + LABEL) + GAP / 2
        cells.append(
            f'<g transform="translate({x:g} {y:g})"><use href="#picture"/>'
            f"{_veil([int(k) for k in index], grid, dim)}"
            f'<text x="{CELL / 2:g}" y="{CELL + 13}" font-size="13" text-anchor="middle" '
            f'font-family="sans-serif" fill="currentColor">{html.escape(label)}</text></g>'
        )
    return (
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {width} {height}" '
        f'width="{1.4 * width:g}"><defs><image id="picture" width="{CELL}" height="{CELL}" '
        f'preserveAspectRatio="none" href="{_png(image)}"/></defs>{"".join(cells)}</svg>'
    )


def _veil(kept: list[int], grid: tuple[int, int], dim: float) -> str:
    """One path over all patches that are not kept, runs of neighbours in a row as one box."""
    rows, columns = grid
    if kept and not (min(kept) >= 0 and max(kept) < rows * columns):
        raise LofiError(
            f"contact_sheet: kept indices span {min(kept)}..{max(kept)}; expected 0.."
            f"{rows * columns - 1} for a {rows} x {columns} grid"
        )
    shown, w, h, path = set(kept), CELL / columns, CELL / rows, []
    for i in range(rows):
        start = 0
        for j in range(columns + 1):
            if j == columns or i * columns + j in shown:
                if j > start:
                    x = f"{start * w:.4g}"
                    path.append(f"M{x} {i * h:.4g}h{(j - start) * w:.4g}v{h:.4g}H{x}z")
                start = j + 1
    return f'<path fill="#fff" fill-opacity="{dim}" d="{"".join(path)}"/>' if path else ""


def _png(image: Image.Image) -> str:
    """Return a data address of the image in 256 colours."""
    out = io.BytesIO()
    image.convert("RGB").quantize(256).save(out, "PNG", optimize=True)
    return "data:image/png;base64," + base64.b64encode(out.getvalue()).decode()
