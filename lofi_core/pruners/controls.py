"""Controls: pruners that any method has to beat at the same number of tokens.

Random and uniform ignore the tokens' content; the norm looks at each token alone; anti-LoFi keeps
the tokens of *lowest* leverage, and should do worst if leverage measures anything.
"""

from dataclasses import dataclass

import torch
from torch import Tensor

from lofi_core.pruners.base import Pruner, ScorePruner, Selection, VisualTokens
from lofi_core.pruners.budget import check_fraction, token_count
from lofi_core.pruners.lofi import LoFi

__all__ = ["AntiLoFi", "Norm", "Random", "UniformGrid"]


@dataclass(frozen=True, kw_only=True)
class Random(ScorePruner, name="random"):
    """Keep tokens at random.

    The choice depends on ``seed`` and the number of tokens alone: two images of N tokens keep the
    same places, in whatever batch they come, so a run can be repeated and split at will. Report the
    spread over several seeds.

    Parameters
    ----------
    seed : int
        Seed of the choice.
    """

    seed: int = 0

    def scores(self, tokens: VisualTokens) -> Tensor:
        """Uniform random numbers, shape (B, N), the same for each image."""
        B, N, _ = tokens.projected.shape
        generator = torch.Generator().manual_seed(self.seed)
        return torch.rand(N, generator=generator).to(tokens.projected.device).expand(B, N)


@dataclass(frozen=True, kw_only=True)
class Norm(ScorePruner, name="norm"):
    """Keep the tokens of largest Euclidean norm."""

    def scores(self, tokens: VisualTokens) -> Tensor:
        """``||x_i||``, shape (B, N)."""
        return tokens.projected.float().norm(dim=-1)


@dataclass(frozen=True, kw_only=True)
class AntiLoFi(LoFi, name="anti-lofi"):
    """Keep the tokens of lowest leverage: LoFi upside down, with the same parameters."""

    def scores(self, tokens: VisualTokens) -> Tensor:
        """Minus the leverage, shape (B, N)."""
        return -super().scores(tokens)


@dataclass(frozen=True, kw_only=True)
class UniformGrid(Pruner, name="uniform"):
    """Keep tokens spread evenly over the image, exactly m of them.

    On one h x w grid: about ``sqrt(m h / w)`` evenly spaced rows share the m tokens as equally as
    whole numbers allow, each row spacing its own evenly. Images in several crops, and videos, are
    sampled evenly along their token order. It has no order of preference, so ``keep`` is a number.
    """

    keep: float = 0.25

    def __post_init__(self) -> None:
        """Refuse a budget that needs an order of preference."""
        check_fraction("UniformGrid", "keep", self.keep)

    def select(self, tokens: VisualTokens) -> Selection:
        """Return the same places for every image."""
        B, N, _ = tokens.projected.shape
        h, w = tokens.grids[0] if [len(grid) for grid in tokens.grids] == [2] else (1, N)
        kept = _lattice(token_count(self.keep, N), h, w).to(tokens.projected.device)
        return Selection((kept,) * B)


def _lattice(m: int, h: int, w: int) -> Tensor:
    """Place m evenly spaced cells on an h x w grid: their indices, ascending."""
    rows = min(max(round((m * h / w) ** 0.5), -(-m // w)), h, m)
    cells = []
    for i in range(rows):
        columns = (i + 1) * m // rows - i * m // rows
        y = (2 * i + 1) * h // (2 * rows)
        cells += [y * w + (2 * j + 1) * w // (2 * columns) for j in range(columns)]
    return torch.tensor(cells)
