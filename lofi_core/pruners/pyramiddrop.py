r"""PyramidDrop: drop tokens stage by stage, by attention of the prompt's last token (2410.17247).

    s_j = mean_h softmax(q_last K^T / sqrt(d))[h, j]

with queries and keys that layer l, the first of the next stage, computes from what enters it. The
``int(N ratio)`` visual tokens of highest s stay, and positions are renumbered without gaps.
"""

from dataclasses import dataclass

from torch import Tensor

from lofi_core.errors import LofiError
from lofi_core.pruners.fastv import FastV
from lofi_core.pruners.inside import InsidePruner, LayerView, Stage, solve

__all__ = ["PyramidDrop"]


@dataclass(frozen=True, kw_only=True)
class PyramidDrop(InsidePruner, name="pyramiddrop"):
    """Drop visual tokens in stages.

    Parameters
    ----------
    layers : tuple of int
        Before which layers tokens are dropped.
    ratios : tuple of float
        Share of the original N left by each.
    """

    layers: tuple[int, ...] = (8, 16, 24)
    ratios: tuple[float, ...] = (0.5, 0.25, 0.125)

    paper = "2410.17247"
    reads = "attention of the prompt's last token in the layer that follows the drop"
    follows = "code, inference"
    deviations = (
        "keep is met by ratios rho, rho^2, ... at the authors' layers, or earlier ones where those "
        "cost too much: our variant"
    )
    renumbers = True

    def __post_init__(self) -> None:
        """Refuse stages that do not go down."""
        super().__post_init__()
        falling = all(a > b for a, b in zip((1.0, *self.ratios), (*self.ratios, 0.0), strict=True))
        rising = all(a < b for a, b in zip(self.layers, self.layers[1:], strict=False))
        if not self.layers or len(self.layers) != len(self.ratios) or not (falling and rising):
            raise LofiError(
                f"PyramidDrop: layers={self.layers}, ratios={self.ratios}; expected as many of "
                "each, layers rising, ratios falling within (0, 1)"
            )

    def schedule(self, N: int, layers: int) -> list[Stage]:
        """Drop at each stage; with ``keep``, ratios of a geometric series that meet the budget."""
        if self.keep is None:
            counts = [int(N * ratio) for ratio in self.ratios]
            stages = [Stage(*pair) for pair in zip(self.layers, counts, strict=True)]
            return self.checked(stages, layers)
        S = len(self.layers)
        # As the authors space them, or closer, so that half of the tokens can stay at each stage.
        fixed = 0.5**S
        room = (self.keep - fixed) / (2 * (1 - fixed) - S * fixed)
        step = max(1, min(layers // (S + 1), int(layers * room)))
        places = [step * (s + 1) for s in range(S)]
        self.checked([Stage(places[-1], 0)], layers)
        return solve(
            lambda x: [Stage(layer, int(N * x ** (s + 1))) for s, layer in enumerate(places)],
            self.keep,
            N,
            layers,
            "PyramidDrop",
        )

    def pick(self, view: LayerView, stage: Stage) -> tuple[Tensor, None]:
        """Choose by the last token's attention in the layer that follows."""
        row = view.following(view.visual.new_tensor([len(view.hidden) - 1]))[:, 0]
        return self.choose(row, view.visual, stage.count), None

    def scores(self, row: Tensor, visual: Tensor) -> Tensor:
        """Score visual tokens by the last token's attention, see `FastV.scores`."""
        return FastV().scores(row, visual)

    def choose(self, row: Tensor, visual: Tensor, count: int) -> Tensor:
        """Choose ``count`` of the n visual tokens: indices in 0..n-1, ascending."""
        return FastV().choose(row, visual, count)
