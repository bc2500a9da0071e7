"""Figures in one style.

`style` sets fonts, palette and ink for every figure of the book; `METHOD_COLORS` gives each pruning
method one colour throughout. `show_kept` draws which patches of an image are kept, `plot_spectrum`
the energies p_i = s_i^2 / sum s^2.
"""

from collections.abc import Iterable, Sequence

import numpy as np
from PIL import Image

from lofi_core.errors import LofiError, extra

with extra("plots"):
    import matplotlib.pyplot as plt
    import seaborn as sns
    from matplotlib.axes import Axes

__all__ = ["INK", "METHOD_COLORS", "fade_dropped", "plot_spectrum", "show_kept", "style"]

# Lines and text are drawn in this one grey, so that in SVG it can become the colour of the page's
# own text: readable in light and dark mode.
INK = "#262626"

_BLUE, _ORANGE, _GREEN, _RED, _PURPLE, _BROWN, _PINK, _GREY, _, _SKY = sns.color_palette(
    "colorblind"
).as_hex()

# One colour a method; peers that rank tokens by the same kind of evidence share one, and a plot
# with several of them tells them apart by marker.
METHOD_COLORS: dict[str, str] = {
    "full": INK,
    **dict.fromkeys(("lofi", "deflated-lofi", "lofi-inside"), _BLUE),
    "anti-lofi": _SKY,
    **dict.fromkeys(("random", "uniform", "norm", "pool", "downsample"), _GREY),
    **dict.fromkeys(
        ("fastervlm", "visionzip", "vispruner", "hired", "prumerge", "prumerge+"), _ORANGE
    ),
    **dict.fromkeys(("fastv", "pyramiddrop", "sparsevlm", "sparsevlm+"), _RED),
    **dict.fromkeys(("divprune", "dart", "cdpruner"), _GREEN),
    **dict.fromkeys(("tome",), _PURPLE),
    **dict.fromkeys(("trim",), _PINK),
    **dict.fromkeys(("lrcp",), _BROWN),
}


def style() -> None:
    """Set the book's figure style for all figures that follow.

    Examples
    --------
    >>> style()
    >>> plt.rcParams["axes.edgecolor"] == INK
    True
    """
    ink = ("text.color", "axes.edgecolor", "axes.labelcolor", "xtick.color", "ytick.color")
    sns.set_theme(
        style="ticks",
        palette="colorblind",
        rc={
            **dict.fromkeys(ink, INK),
            "axes.grid": True,
            "axes.spines.right": False,
            "axes.spines.top": False,
            "figure.figsize": (6.4, 3.6),
            "figure.constrained_layout.use": True,
            "font.family": "DejaVu Sans",  # ships with matplotlib: the same on every machine
            "grid.alpha": 0.25,
            "grid.color": "#808080",
            "legend.frameon": False,
            "lines.linewidth": 2.0,
        },
    )


def show_kept(
    image: Image.Image,
    kept: Iterable[int],
    grid: tuple[int, int],
    ax: Axes | None = None,
    dim: float = 0.82,
) -> Axes:
    """Draw an image with the patches that were dropped dimmed.

    Parameters
    ----------
    image : PIL.Image.Image
        The picture as the model's processor cropped it, so that patches tile it evenly.
    kept : iterable of int, or 1-D tensor
        Row-major indices into the patch grid, each in [0, rows * columns).
    grid : (rows, columns)
        The patch grid, such as ``(24, 24)``.
    ax : Axes, optional
        Where to draw; by default a new figure.
    dim : float in [0, 1]
        How far dropped patches fade towards white.

    Returns
    -------
    Axes

    Raises
    ------
    LofiError
        If an index lies outside the grid.

    Examples
    --------
    >>> ax = show_kept(Image.new("RGB", (8, 8)), kept=[0, 3], grid=(2, 2))
    >>> ax.images[0].get_array()[::4, ::4, 0].tolist()
    [[0, 209], [209, 0]]
    >>> plt.close(ax.figure)
    """
    faded = fade_dropped(image, kept, grid, dim)
    ax = ax or plt.figure(figsize=(3.2, 3.2)).add_subplot()
    ax.imshow(faded, interpolation="nearest")
    ax.set_axis_off()
    return ax


def fade_dropped(
    image: Image.Image, kept: Iterable[int], grid: tuple[int, int], dim: float = 0.82
) -> np.ndarray:
    """Return an image's pixels, (height, width, 3) uint8, with dropped patches faded to white.

    The parameters, and the error for an index outside the grid, are those of `show_kept`.

    Examples
    --------
    >>> fade_dropped(Image.new("RGB", (2, 1)), kept=[0], grid=(1, 2))[0, :, 0].tolist()
    [0, 209]
    """
    rows, columns = grid
    index = np.array([int(i) for i in kept], dtype=np.int64)
    if index.size and not (index.min() >= 0 and index.max() < rows * columns):
        raise LofiError(
            f"show_kept: kept indices span {index.min()}..{index.max()}; expected 0.."
            f"{rows * columns - 1} for a {rows} x {columns} grid: pass indices of patches, "
            "without CLS or text tokens"
        )
    mask = np.zeros(rows * columns, dtype=bool)
    mask[index] = True
    pixels = np.asarray(image.convert("RGB"))
    height, width = pixels.shape[:2]
    row_of, column_of = np.arange(height) * rows // height, np.arange(width) * columns // width
    dropped = ~mask.reshape(grid)[np.ix_(row_of, column_of)]
    faded = pixels + (dropped[..., None] * dim * (255 - pixels.astype(np.float64)))
    return faded.astype(np.uint8)


def plot_spectrum(
    energies: dict[str, Sequence[float]], ax: Axes | None = None, first: int | None = None
) -> Axes:
    """Draw energies p_i over their rank i, on a logarithmic scale, one line an entry.

    Parameters
    ----------
    energies : dict of str to sequence of float
        Label to energies in descending order, summing to 1. Labels that are names in
        `METHOD_COLORS` get that colour. Zeros are left out: they have no logarithm.
    ax : Axes, optional
        Where to draw; by default a new figure.
    first : int, optional
        Draw only so many energies of each.

    Returns
    -------
    Axes

    Examples
    --------
    >>> ax = plot_spectrum({"full": [0.75, 0.25, 0.0]})
    >>> ax.lines[0].get_ydata().tolist()
    [0.75, 0.25]
    >>> plt.close(ax.figure)
    """
    ax = ax or plt.figure().add_subplot()
    for label, values in energies.items():
        p = np.asarray(values, dtype=np.float64)[:first]
        p = p[p > 0]
        ax.plot(np.arange(1, len(p) + 1), p, label=label, color=METHOD_COLORS.get(label))
    ax.set(yscale="log", xlabel="rank i", ylabel="energy $p_i$")
    if len(energies) > 1:
        ax.legend()
    return ax
