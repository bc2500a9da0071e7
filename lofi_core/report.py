"""What pruning did: tokens before and after, image by image, as they reached the language model."""

import math
from dataclasses import dataclass, field

from torch import Tensor

from lofi_core.pruners.tokens import Grid

__all__ = ["ImageReport", "Report"]


@dataclass(frozen=True, eq=False)
class ImageReport:
    """What became of one image or video.

    Parameters
    ----------
    row : int
        Its row in the batch.
    modality : {"image", "video"}
        What it is.
    tokens_before, tokens_after : int
        Tokens in the language model's input, separators included.
    kept : Tensor, shape (m,), int64, on the CPU
        Indices among its N visual tokens, ascending.
    grids : tuple of tuples of int
        Shapes of its visual tokens, see `lofi_core.pruners.VisualTokens`.
    ipr_before, ipr_after : float
        IPR of its visual tokens and of what was kept of them.
    seconds : float
        Its share of the time of selection.
    """

    row: int
    modality: str
    tokens_before: int
    tokens_after: int
    kept: Tensor
    grids: tuple[Grid, ...]
    ipr_before: float
    ipr_after: float
    seconds: float

    @property
    def masks(self) -> list[Tensor]:
        """True where a patch was kept, one boolean tensor a grid, for overlays."""
        sizes = [math.prod(grid) for grid in self.grids]
        flat = self.kept.new_zeros(sum(sizes)).bool()
        flat[self.kept] = True
        parts = flat.split(sizes)
        return [part.view(grid) for part, grid in zip(parts, self.grids, strict=True)]


@dataclass(eq=False)
class Report:
    """What became of all images of a call, or of all calls inside ``with pruning(...)``."""

    images: list[ImageReport] = field(default_factory=list)

    @property
    def tokens_before(self) -> int:
        """Visual tokens, separators included, before pruning."""
        return sum(image.tokens_before for image in self.images)

    @property
    def tokens_after(self) -> int:
        """Visual tokens, separators included, that reached the language model."""
        return sum(image.tokens_after for image in self.images)

    @property
    def seconds(self) -> float:
        """Time of selection: choosing, not encoding."""
        return sum(image.seconds for image in self.images)

    def __str__(self) -> str:
        """Render one line an image, and a sum."""
        lines = [f"{'row':>4} {'what':6} {'before':>7} {'after':>6} {'kept':>6}  IPR"]
        lines += [
            f"{i.row:4} {i.modality:6} {i.tokens_before:7} {i.tokens_after:6} "
            f"{i.tokens_after / i.tokens_before:6.1%}  {i.ipr_before:.4f} -> {i.ipr_after:.4f}"
            for i in self.images
        ]
        ratio = self.tokens_after / max(1, self.tokens_before)
        lines.append(
            f"{'all':>4} {len(self.images):<6} {self.tokens_before:7} {self.tokens_after:6} "
            f"{ratio:6.1%}  selected in {1e3 * self.seconds:.1f} ms"
        )
        return "\n".join(lines)
