"""Controls: pruners that any method has to beat at the same number of tokens.

Random and uniform ignore the tokens' content; the norm looks at each token alone; anti-LoFi keeps
the tokens of *lowest* leverage, and should do worst if leverage measures anything. Pooling keeps a
little of everything.
"""

from dataclasses import dataclass

import torch
from torch import Tensor

from lofi_core.pruners.base import FixedPruner, ScorePruner
from lofi_core.pruners.budget import token_count
from lofi_core.pruners.lofi import LoFi
from lofi_core.pruners.tokens import Selection, VisualTokens

__all__ = ["AntiLoFi", "AveragePool", "Norm", "Random", "UniformGrid", "boxes"]


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

    reads = "the number of tokens"
    follows = "ours"

    def scores(self, tokens: VisualTokens) -> Tensor:
        """Uniform random numbers, shape (B, N), the same for each image."""
        B, N, _ = tokens.projected.shape
        generator = torch.Generator().manual_seed(self.seed)
        return torch.rand(N, generator=generator).to(tokens.projected.device).expand(B, N)


@dataclass(frozen=True, kw_only=True)
class Norm(ScorePruner, name="norm"):
    """Keep the tokens of largest Euclidean norm."""

    follows = "ours"

    def scores(self, tokens: VisualTokens) -> Tensor:
        """``||x_i||``, shape (B, N)."""
        return tokens.projected.float().norm(dim=-1)


@dataclass(frozen=True, kw_only=True)
class AntiLoFi(LoFi, name="anti-lofi"):
    """Keep the tokens of lowest leverage: LoFi upside down, with the same parameters."""

    paper = ""
    follows = "ours"

    def scores(self, tokens: VisualTokens) -> Tensor:
        """Minus the leverage, shape (B, N)."""
        return -super().scores(tokens)


@dataclass(frozen=True, kw_only=True)
class UniformGrid(FixedPruner, name="uniform"):
    """Keep tokens spread evenly over the image, exactly m of them.

    On one h x w grid: about ``sqrt(m h / w)`` evenly spaced rows share the m tokens as equally as
    whole numbers allow, each row spacing its own evenly. Images in several crops, and videos, are
    sampled evenly along their token order. It has no order of preference, so ``keep`` is a number.
    """

    reads = "the number of tokens"
    follows = "ours"

    def select(self, tokens: VisualTokens) -> Selection:
        """Return the same places for every image."""
        B = len(tokens.projected)
        _, places = boxes(tokens, self.keep)
        return Selection((places,) * B)


@dataclass(frozen=True, kw_only=True)
class AveragePool(FixedPruner, name="pool"):
    """Average the tokens in each of m boxes that tile the image.

    The boxes are those around the places of `UniformGrid`: at ``keep=1/4`` on an even grid, blocks
    of 2 x 2. A box's mean takes the place of the token in its middle.
    """

    follows = "ours"

    def select(self, tokens: VisualTokens) -> Selection:
        """Return the same places for every image, and the means."""
        X = tokens.projected
        box, places = boxes(tokens, self.keep)
        sums = X.new_zeros(len(X), len(places), X.shape[-1], dtype=torch.float32)
        sums.index_add_(1, box, X.float())
        means = (sums / box.bincount()[:, None]).to(X.dtype)
        return Selection((places,) * len(X), means.unbind())


def boxes(tokens: VisualTokens, keep: float) -> tuple[Tensor, Tensor]:
    """Tile the image with m boxes, rows of them as equal in number as whole numbers allow.

    Returns
    -------
    tuple of Tensors, int64
        Each token's box, (N,), and the token in the middle of each box, (m,), ascending.
    """
    N = tokens.projected.shape[-2]
    h, w = tokens.grids[0] if [len(grid) for grid in tokens.grids] == [2] else (1, N)
    m = token_count(keep, N)
    rows = min(max(round((m * h / w) ** 0.5), -(-m // w)), h, m)
    box, places = torch.empty(h, w, dtype=torch.int64), list[int]()
    for i in range(rows):
        columns = (i + 1) * m // rows - i * m // rows
        top, bottom = i * h // rows, (i + 1) * h // rows
        y = (2 * i + 1) * h // (2 * rows)
        for j in range(columns):
            box[top:bottom, j * w // columns : (j + 1) * w // columns] = len(places)
            places.append(y * w + (2 * j + 1) * w // (2 * columns))
    device = tokens.projected.device
    return box.flatten().to(device), torch.tensor(places, device=device)
