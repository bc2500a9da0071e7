r"""Downsampling: a smaller image instead of fewer of its tokens. A control.

Shrink the image to h x w patches, h w <= m, and encode that: as many tokens for the language model
at a cheaper encoder. Position embeddings are interpolated, to sizes that the encoder may never have
seen. A method that selects should do better than this.
"""

from dataclasses import dataclass
from math import log

import torch
from torch import Tensor
from torch.nn.functional import interpolate

from lofi_core.errors import LofiError
from lofi_core.pruners.base import FixedPruner
from lofi_core.pruners.budget import token_count
from lofi_core.pruners.tokens import Selection, VisualTokens

__all__ = ["Downsample", "smaller_grid"]


@dataclass(frozen=True, kw_only=True)
class Downsample(FixedPruner, name="downsample"):
    """Encode the image again, smaller, so that at most m tokens come out.

    The new tokens take the places of the old ones in whose patch their centres lie. Not every m is
    the size of a grid: 36 of 144 are 6 x 6, but for 14 the nearest is 3 x 4. For models that take
    images of any size, shrink the image before the processor instead.
    """

    reads = "the image"
    follows = "ours"

    @property
    def needs(self) -> tuple[str, ...]:
        """The image, and the encoder with its projector."""
        return ("pixels", "encode")

    def select(self, tokens: VisualTokens) -> Selection:
        """Shrink, encode, and put the new tokens in their places; ``keep=1`` changes nothing."""
        X = tokens.projected
        B, N, _ = X.shape
        if len(tokens.grids) != 1 or len(tokens.grids[0]) != 2:
            raise LofiError(
                f"Downsample: tokens on grids {tokens.grids}; expected one grid of rows and "
                "columns: shrink videos, and images in crops, before the processor"
            )
        h, w = tokens.grids[0]
        rows, columns = smaller_grid(h, w, token_count(self.keep, N))
        if (rows, columns) == (h, w):
            return Selection((torch.arange(N, device=X.device),) * B)
        pixels = tokens.require("pixels", "Downsample")
        size = (pixels.shape[-2] // h * rows, pixels.shape[-1] // w * columns)
        small = interpolate(pixels.float(), size, mode="bicubic", antialias=True)
        new = tokens.require("encode", "Downsample")(small.to(pixels.dtype)).to(X.dtype)
        y, x = (_middles(n, of, X.device) for n, of in ((rows, h), (columns, w)))
        return Selection(((y[:, None] * w + x).flatten(),) * B, tuple(new))


def smaller_grid(h: int, w: int, m: int) -> tuple[int, int]:
    """Find the grid of at most m cells that is nearest to m and to the shape h x w.

    Of all grids within h x w, the one of largest ``log(cells / m) - |log(distortion)|``, and of
    equals the one of most rows.

    Examples
    --------
    >>> smaller_grid(12, 12, 36), smaller_grid(12, 12, 72), smaller_grid(12, 12, 14)
    ((6, 6), (9, 8), (4, 3))
    """

    def worth(grid: tuple[int, int]) -> tuple[float, int]:
        rows, columns = grid
        sides = sorted((rows * w, columns * h))  # whole numbers: equals are equal to the last bit
        return log(rows * columns / m) - log(sides[1] / sides[0]), rows

    return max(((i, min(w, m // i)) for i in range(1, min(h, m) + 1)), key=worth)


def _middles(n: int, of: int, device: torch.device) -> Tensor:
    """Cells, of ``of`` in a row, in which the centres of n equal parts lie."""
    return (2 * torch.arange(n, device=device) + 1) * of // (2 * n)
