"""Figures: the style, the faded patches, and the spectrum."""

import numpy as np
import pytest
from PIL import Image

from lofi_core.errors import LofiError
from lofi_core.plots import METHOD_COLORS, plot_spectrum, show_kept
from lofi_core.pruners import pruner_names

pytestmark = pytest.mark.usefixtures("clean_figures")


def test_every_registered_pruner_has_a_colour() -> None:
    assert set(pruner_names()) <= set(METHOD_COLORS)


def test_show_kept_leaves_kept_patches_alone_and_fades_the_others() -> None:
    pixels = np.random.default_rng(0).integers(0, 200, (12, 8, 3), dtype=np.uint8)
    ax = show_kept(Image.fromarray(pixels), kept=[0, 5], grid=(3, 2))
    shown = ax.images[0].get_array()
    for patch in range(6):
        row, column = divmod(patch, 2)
        window = np.s_[row * 4 : row * 4 + 4, column * 4 : column * 4 + 4]
        if patch in (0, 5):
            np.testing.assert_array_equal(shown[window], pixels[window])
        else:
            assert (shown[window] > pixels[window]).all()


@pytest.mark.parametrize("kept", [[4], [-1], [0, 99]])
def test_show_kept_refuses_indices_outside_the_grid(kept: list[int]) -> None:
    with pytest.raises(LofiError, match=r"show_kept: kept indices span .* 2 x 2 grid"):
        show_kept(Image.new("RGB", (4, 4)), kept, (2, 2))


def test_plot_spectrum_colours_methods_and_drops_zeros() -> None:
    ax = plot_spectrum({"lofi": [0.5, 0.5, 0.0], "other": [1.0]})
    assert [len(drawn.get_ydata()) for drawn in ax.lines] == [2, 1]
    assert ax.lines[0].get_color() == METHOD_COLORS["lofi"]
    assert ax.get_legend() is not None
