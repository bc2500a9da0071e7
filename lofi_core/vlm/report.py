"""What pruning did: tokens before and after, image by image, as they reached the language model."""

import math
import threading
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any

from torch import Tensor

from lofi_core.pruners.tokens import Grid
from lofi_core.spectrum import ipr

__all__ = ["ImageReport", "Report"]


@dataclass(frozen=True, eq=False)
class ImageReport:
    """What became of one image or video.

    What costs a product or makes the host wait for the device is worked out when it is first read:
    IPR, time, and the indices on the CPU. Until its IPR is read, or `release` is called, a report
    holds the picture's visual tokens, N x D numbers that otherwise the encoder's output would take
    along when it goes; afterwards it holds indices and numbers only.

    Parameters
    ----------
    row : int
        Its row in the batch.
    modality : {"image", "video"}
        What it is.
    tokens_before, tokens_after : int
        Tokens in the language model's input, separators included.
    chosen : Tensor, shape (m,), int64
        Indices among its N visual tokens, ascending, where the tokens are.
    grids : tuple of tuples of int
        Shapes of its visual tokens, see `lofi_core.pruners.VisualTokens`.
    held : list of Tensor
        Its visual tokens, (N, D), and if they aren't simply the chosen ones of these, what took the
        places of those kept, (m, D).
    took : callable
        Returns its share of the time of selection, in seconds.
    """

    row: int
    modality: str
    tokens_before: int
    tokens_after: int
    chosen: Tensor
    grids: tuple[Grid, ...]
    held: list[Tensor]
    took: Callable[[], float]

    @cached_property
    def kept(self) -> Tensor:
        """``chosen``, on the CPU."""
        return self.chosen.cpu()

    @cached_property
    def seconds(self) -> float:
        """Its share of the time of selection."""
        return self.took()

    @property
    def ipr_before(self) -> float:
        """IPR of its visual tokens."""
        return self._iprs[0].item()

    @property
    def ipr_after(self) -> float:
        """IPR of what was kept of them."""
        return self._iprs[1].item()

    @cached_property
    def _iprs(self) -> tuple[Tensor, Tensor]:
        before, *new = self.held
        found = ipr(before), ipr(new[0] if new else before[self.chosen])
        self.held.clear()
        return found

    def release(self) -> None:
        """Let go of the tokens: reduce them to their IPR, without waiting for the device."""
        _ = self._iprs

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
    """What became of all images of a call, or of all calls inside ``with pruning(...)``.

    Parameters
    ----------
    images : list of ImageReport
        In the order of the calls.
    """

    images: list[ImageReport] = field(default_factory=list)
    lock: Any = field(default_factory=threading.Lock, repr=False)

    def add(self, images: Iterable[ImageReport]) -> None:
        """Enter the images of another call; those entered before let go of their tokens."""
        with self.lock:
            for image in self.images:
                image.release()
            self.images.extend(images)

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
        """Time of selection, which is choosing, not encoding."""
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
