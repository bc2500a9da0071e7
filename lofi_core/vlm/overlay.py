"""Which patches of a picture were kept, drawn over it: in one piece, in crops, or frame by frame.

A report knows grids of patches. Here every grid becomes a mask over the *whole* picture: families
that join an image's crops (LLaVA-NeXT, LLaVA-OneVision) report an overview and one grid of all
crops; where each crop is an image of its own (Idefics3, SmolVLM, InternVL, Aya Vision), R x C of
them, row by row, and then the overview, are put together here.
"""

import math
from collections.abc import Sequence
from typing import Any

import torch
from PIL import Image
from torch import Tensor

from lofi_core.errors import LofiError, extra
from lofi_core.plots import show_kept
from lofi_core.vlm.report import ImageReport

with extra("plots"):
    import matplotlib.pyplot as plt
    from matplotlib.figure import Figure

__all__ = ["kept_masks", "overlay", "seen"]


def kept_masks(
    reports: Sequence[ImageReport], tiles: tuple[int, int] | None = None, aspect: float = 1.0
) -> list[Tensor]:
    """True where a patch was kept, over the whole picture: one mask a grid or frame.

    Parameters
    ----------
    reports : sequence of ImageReport
        All reports on one picture or video: one, or one a crop with the overview last.
    tiles : (rows, columns), optional
        How the crops lie; by default the rectangle of that many whose shape is nearest to the
        picture's, which is what the families' processors aim at.
    aspect : float
        Width over height of the picture, for that default.

    Returns
    -------
    list of Tensor, shape (h, w), bool
        For a picture in crops the overview, then the crops together.

    Raises
    ------
    LofiError
        If the patches have no grid, or the crops do not fit together.

    Examples
    --------
    >>> import torch
    >>> def crop(*kept):
    ...     return ImageReport(0, "image", 4, 2, torch.tensor(kept), ((2, 2),), [], float)
    >>> overview, crops = kept_masks([crop(0, 1), crop(2, 3), crop(0, 3)], aspect=2.0)
    >>> crops.int()
    tensor([[1, 1, 0, 0],
            [0, 0, 1, 1]], dtype=torch.int32)
    """
    masks = [mask for report in reports for mask in report.masks]
    if not masks or any(mask.ndim < 2 for mask in masks):
        raise LofiError(
            f"kept_masks: grids {[report.grids for report in reports]}; expected at least one, "
            "each of two or three dimensions: these patches have no place in a picture"
        )
    if len(reports) == 1:
        return [plane for mask in masks for plane in mask.view(-1, *mask.shape[-2:])]
    if len({(mask.ndim, mask.shape) for mask in masks}) > 1 or len(masks) != len(reports):
        raise LofiError(
            f"kept_masks: grids {[report.grids for report in reports]}; expected crops of one "
            "shape: pass the reports on one picture at a time"
        )
    *crops, overview = masks
    rows, columns = tiles or _nearest_tiling(len(crops), aspect * len(overview) / overview.shape[1])
    if rows * columns != len(crops):
        raise LofiError(
            f"kept_masks: {len(crops)} crops and an overview; expected {rows} x {columns} crops: "
            "pass the reports on one picture, and its tiles"
        )
    h, w = overview.shape
    together = torch.stack(crops).view(rows, columns, h, w).transpose(1, 2)
    return [overview, together.reshape(rows * h, columns * w)]


def overlay(
    picture: Image.Image | Sequence[Image.Image],
    reports: Sequence[ImageReport],
    tiles: tuple[int, int] | None = None,
    dim: float = 0.82,
) -> Figure:
    """Draw a picture once for each of its grids, with dropped patches faded.

    Parameters
    ----------
    picture : PIL image, or sequence of PIL images
        What the model saw of a picture, see `seen`; or a video's frames, as many as it has grids.
    reports, tiles
        As `kept_masks` takes them.
    dim : float in [0, 1]
        How far dropped patches fade towards white.

    Returns
    -------
    Figure
        One panel a grid, with its shape below.

    Raises
    ------
    LofiError
        As `kept_masks`; or if there are not as many frames as grids.
    """
    frames = [picture] if isinstance(picture, Image.Image) else list(picture)
    masks = kept_masks(reports, tiles, frames[0].width / frames[0].height if frames else 1.0)
    if isinstance(picture, Image.Image):
        frames = frames * len(masks)
    if len(frames) != len(masks):
        raise LofiError(
            f"overlay: {len(frames)} frames for {len(masks)} grids; expected as many: pass the "
            "frames that the encoder merged, one of each group"
        )
    figure, axes = plt.subplots(1, len(masks), figsize=(3.4 * len(masks), 3.4), squeeze=False)
    for ax, frame, mask in zip(axes[0], frames, masks, strict=True):
        rows, columns = mask.shape
        show_kept(frame, mask.flatten().nonzero()[:, 0], (rows, columns), ax=ax, dim=dim)
        words = f"{int(mask.sum())} of {rows} × {columns} patches"
        ax.text(0.5, -0.06, words, ha="center", va="top", transform=ax.transAxes)
    return figure


def seen(processor: Any, picture: Image.Image) -> Image.Image:
    """Cut a picture to what the model sees of it: its centre, where the processor crops to that.

    CLIP's processor, LLaVA's, scales the shorter side and cuts the longer one; patches then cover
    the central part only. Others scale the whole picture.
    """
    images = getattr(processor, "image_processor", processor)
    if not getattr(images, "do_center_crop", False) or hasattr(images, "image_grid_pinpoints"):
        return picture
    size = images.crop_size
    width, height = (getattr(size, name, None) or size[name] for name in ("width", "height"))
    scale = min(picture.width / width, picture.height / height)
    w, h = round(width * scale), round(height * scale)
    left, top = (picture.width - w) // 2, (picture.height - h) // 2
    return picture.crop((left, top, left + w, top + h))


def _nearest_tiling(count: int, aspect: float) -> tuple[int, int]:
    """Rows and columns of ``count`` crops whose rectangle is nearest to a shape, in logarithm."""
    pairs = [(rows, count // rows) for rows in range(1, count + 1) if count % rows == 0]
    return min(pairs, key=lambda pair: abs(math.log(pair[1] / pair[0] / aspect)))
