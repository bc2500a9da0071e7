"""Kept patches over pictures: every grid, also where an image comes in crops."""

import matplotlib.pyplot as plt
import numpy as np
import pytest
import torch
import transformers as hf
from PIL import Image
from test_models import setup
from tiny import FAMILIES

from lofi_core.errors import LofiError
from lofi_core.pruners import Random
from lofi_core.pruning import prune_inputs
from lofi_core.vlm.overlay import kept_masks, overlay, seen
from lofi_core.vlm.report import ImageReport


def report(kept: torch.Tensor, *grid: int) -> ImageReport:
    n = int(np.prod(grid))
    return ImageReport(0, "image", n, len(kept), kept, (grid,), [], float)


def painted(width: int, height: int) -> Image.Image:
    """A black picture with a white part that no symmetry maps onto itself."""
    pixels = np.zeros((height, width, 3), dtype=np.uint8)
    pixels[: height // 2, : width // 4] = 255
    return Image.fromarray(pixels)


def bright(pixels: torch.Tensor, side: int) -> list[ImageReport]:
    """Reports on crops (n, 3, h, w) of which the bright patches are kept."""
    patches = pixels.mean(1).unflatten(2, (side, -1)).unflatten(1, (side, -1)).mean((2, 4))
    middle = (pixels.max() + pixels.min()) / 2
    return [report((crop > middle).flatten().nonzero()[:, 0], side, side) for crop in patches]


@pytest.mark.parametrize(("width", "height"), [(96, 64), (64, 96), (128, 64), (128, 96)])
def test_crops_lie_where_the_processor_cut_them(width: int, height: int) -> None:
    """The light of a picture, followed through the real processors into crops and back."""
    picture = painted(width, height)
    size = {"size": {"longest_edge": 128}, "max_image_size": {"longest_edge": 32}}
    idefics = hf.Idefics3ImageProcessor(**size)(picture, return_row_col_info=True)
    tiles = int(idefics["rows"][0][0]), int(idefics["cols"][0][0])
    crops = torch.as_tensor(np.array(idefics["pixel_values"][0]))
    assert len(crops) == tiles[0] * tiles[1] + 1
    for given in (tiles, None):
        overview, together = kept_masks(bright(crops, 4), given, width / height)
        for mask in (overview, together):
            rows, columns = mask.shape
            light = torch.zeros(rows, columns, dtype=torch.bool)
            light[: rows // 2, : columns // 4] = True
            assert torch.equal(mask, light)
        assert together.shape == (4 * tiles[0], 4 * tiles[1])


CROPPED = ["llava_next", "llava_onevision", "idefics3", "smolvlm"]


@pytest.mark.parametrize("family", [*CROPPED, "llava", "qwen2_5_vl", "mistral3"])
def test_every_patch_of_every_grid_is_drawn(family: str) -> None:
    model, inputs = setup(family)
    reports = prune_inputs(model, inputs, Random(keep=0.5)).report.images
    masks = kept_masks(reports, aspect=2.0)
    assert len(masks) == (2 if family in CROPPED else 1)
    assert sum(int(mask.sum()) for mask in masks) == sum(len(r.kept) for r in reports)
    patches = FAMILIES[family].patches
    assert sum(m.numel() for m in masks) == sum(len(patches(r.tokens_before)) for r in reports)
    figure = overlay(painted(48, 24), reports)
    assert len(figure.axes) == len(masks)
    for ax, mask in zip(figure.axes, masks, strict=True):
        rows, columns = mask.shape
        shown = ax.images[0].get_array()[:, :, 0]
        middles = shown[24 // rows // 2 :: 24 // rows, 48 // columns // 2 :: 48 // columns]
        dark = middles[:, columns // 4 :]  # faded black is no longer black
        assert (torch.as_tensor(np.array(dark) == 0) == mask[:, columns // 4 :]).all()
    plt.close(figure)


@pytest.mark.parametrize("family", ["qwen2_5_vl", "llava_onevision"])
def test_videos_are_drawn_frame_by_frame(family: str) -> None:
    model, inputs = setup(family, "video")
    reports = prune_inputs(model, inputs, Random(keep=0.5)).report.images
    ((frames, rows, columns),) = reports[0].grids
    masks = kept_masks(reports)
    assert [mask.shape for mask in masks] == [(rows, columns)] * frames
    assert torch.equal(torch.stack(masks), reports[0].masks[0])
    figure = overlay([painted(24, 24)] * frames, reports)
    assert len(figure.axes) == frames
    plt.close(figure)
    with pytest.raises(LofiError, match=f"1 frames for {frames} grids"):
        overlay([painted(24, 24)], reports)


def test_what_does_not_fit_together() -> None:
    one = report(torch.tensor([0]), 2, 2)
    with pytest.raises(LofiError, match=r"3 crops and an overview; expected 2 x 2"):
        kept_masks([one] * 4, (2, 2))
    with pytest.raises(LofiError, match="one shape"):
        kept_masks([one, report(torch.tensor([0]), 2, 3)])
    with pytest.raises(LofiError, match="no place in a picture"):
        kept_masks([report(torch.tensor([0]), 7)])
    with pytest.raises(LofiError, match="no place in a picture"):
        kept_masks([])


def test_what_the_model_sees() -> None:
    picture = painted(96, 64)
    clip = hf.CLIPImageProcessor(size={"shortest_edge": 32}, crop_size={"height": 32, "width": 32})
    centre = seen(clip, picture)
    assert centre.size == (64, 64)
    cut = torch.as_tensor(np.array(clip(picture)["pixel_values"]))[0]
    small = np.asarray(centre.resize((32, 32)).convert("L")) > 127
    assert ((cut.mean(0) > (cut.max() + cut.min()) / 2).numpy() == small).mean() > 0.98
    siglip = hf.SiglipImageProcessor(size={"height": 32, "width": 32})
    assert seen(siglip, picture) is picture
