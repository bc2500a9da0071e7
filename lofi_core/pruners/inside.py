r"""Pruners that act inside the language model, and the budget they are given.

Such a method drops tokens before one or several layers, so that layers see different numbers n_l of
visual tokens. Its budget is their mean over the L layers,

    keep = (1 / L) sum_l n_l / N,      n_l: visual tokens entering layer l,

which is what compares with a method that drops tokens before the model. With ``keep=None`` it does
what its authors' defaults say; otherwise its one free number is solved for, our variant.
"""

from abc import abstractmethod
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import ClassVar

from torch import Tensor

from lofi_core.errors import LofiError
from lofi_core.pruners.base import Pruner
from lofi_core.pruners.budget import check_fraction
from lofi_core.pruners.tokens import Selection, VisualTokens

__all__ = ["InsidePruner", "LayerView", "OneStagePruner", "Stage", "mean_tokens", "solve", "top"]


@dataclass(frozen=True)
class Stage:
    """Before ``layer``, counted from 0, visual tokens become ``count``, some of them ``merged``."""

    layer: int
    count: int
    merged: int = 0


@dataclass(frozen=True, eq=False)
class LayerView:
    """What a method may look at between two layers, for one prompt of L tokens without padding.

    Parameters
    ----------
    hidden : Tensor, shape (L, D)
        What enters the next layer.
    normed : callable
        Returns the same after the model's final norm.
    visual, after : Tensor, shape (n,) and (M,), int64
        Where the visual tokens, and the tokens after the last of them, stand.
    positions : Tensor, shape (L,)
        Position ids.
    inputs : tuple of Tensors, shape (N, D) and (M, D)
        Input embeddings, before the first layer, of all visual tokens and of those after them.
    previous, following : callable
        Maps where R tokens stand, (R,), to their attention in the layer before or after, softmaxed:
        (H, R, L), float32.
    keys : callable
        Returns the keys of the layer before, after rotary embedding: (H', L, d).
    """

    hidden: Tensor
    normed: Callable[[], Tensor]
    visual: Tensor
    after: Tensor
    positions: Tensor
    inputs: tuple[Tensor, Tensor]
    previous: Callable[[Tensor], Tensor]
    following: Callable[[Tensor], Tensor]
    keys: Callable[[], Tensor]


@dataclass(frozen=True, kw_only=True)
class InsidePruner(Pruner):
    """Base class of methods that drop tokens between layers of the language model.

    Parameters
    ----------
    keep : float in (0, 1], optional
        Share of the visual tokens that enter a layer, averaged over layers. By default, whatever
        follows from the authors' numbers.
    """

    keep: float | None = None  # type: ignore[assignment]

    acts: ClassVar[str] = "inside the language model"

    def __post_init__(self) -> None:
        """Refuse a budget that means nothing."""
        if self.keep is not None:
            check_fraction(type(self).__name__, "keep", self.keep)

    renumbers: ClassVar[bool] = False

    @abstractmethod
    def pick(self, view: LayerView, stage: Stage) -> tuple[Tensor, Tensor | None]:
        """Choose among the n visual tokens of a prompt.

        Returns
        -------
        tuple
            Indices in 0..n-1, ascending, and merged tokens (c, D) to stand behind them, or None.
        """

    @abstractmethod
    def schedule(self, N: int, layers: int) -> list[Stage]:
        """Say what happens to N visual tokens in a model of so many layers.

        Raises
        ------
        LofiError
            If the model is too shallow, or the budget cannot be met.
        """

    def select(self, tokens: VisualTokens) -> Selection:
        """Refuse: there is nothing to choose by before the language model runs."""
        raise LofiError(
            f"{type(self).__name__}: acts inside the language model, on attention or keys that do "
            "not exist before it runs; expected a pruner that acts before it: run this one as "
            "`with lofi_core.pruning(model, pruner)`"
        )

    def checked(self, stages: Sequence[Stage], layers: int) -> list[Stage]:
        """Return the stages, if the model has the layers."""
        if stages[-1].layer >= layers or stages[0].layer < 1:
            raise LofiError(
                f"{type(self).__name__}: drops tokens before layers "
                f"{[stage.layer for stage in stages]} of a model of {layers}; expected layers in "
                f"1..{layers - 1}: set them for this model"
            )
        return list(stages)


@dataclass(frozen=True, kw_only=True)
class OneStagePruner(InsidePruner):
    """Base class of methods that drop tokens once.

    Parameters
    ----------
    layer : int >= 1
        K: before which layer, counted from 0.
    ratio : float in [0, 1)
        R, the share that is dropped there; not used where ``keep`` is given.
    """

    layer: int = 2
    ratio: float = 0.5

    def __post_init__(self) -> None:
        """Refuse a share that means nothing."""
        super().__post_init__()
        if not 0 <= self.ratio < 1:
            raise LofiError(
                f"{type(self).__name__}: ratio={self.ratio}; expected a share in [0, 1)"
            )

    def schedule(self, N: int, layers: int) -> list[Stage]:
        """Drop once; with ``keep``, as many as meet the budget."""
        if self.keep is None:
            return self.checked([Stage(self.layer, round(N * (1 - self.ratio)))], layers)
        self.checked([Stage(self.layer, 0)], layers)
        caller = type(self).__name__
        return solve(lambda x: [Stage(self.layer, round(N * x))], self.keep, N, layers, caller)


def top(scores: Tensor, count: int) -> Tensor:
    """Return the places of the ``count`` highest scores, ascending; ties go to the earlier token.

    Examples
    --------
    >>> import torch
    >>> top(torch.tensor([0.2, 0.9, 0.2, 0.5]), 3)
    tensor([0, 1, 3])
    """
    return scores.argsort(descending=True, stable=True)[:count].sort().values


def mean_tokens(N: int, stages: Sequence[Stage], layers: int) -> float:
    """Visual tokens that enter a layer, averaged over the layers.

    Examples
    --------
    >>> mean_tokens(576, [Stage(8, 288), Stage(16, 144), Stage(24, 72)], 32)
    270.0
    """
    bounds = [0, *(stage.layer for stage in stages), layers]
    counts = [N, *(stage.count for stage in stages)]
    spans = [b - a for a, b in pairwise(bounds)]
    return sum(n * span for n, span in zip(counts, spans, strict=True)) / layers


def solve(
    stages: Callable[[float], list[Stage]], keep: float, N: int, layers: int, caller: str
) -> list[Stage]:
    """Find the stages of the largest x in [0, 1] whose mean is at most ``keep * N`` tokens.

    Parameters
    ----------
    stages : callable
        Counts must not decrease with x.
    keep, N, layers
        The budget.
    caller : str
        For the message.

    Raises
    ------
    LofiError
        If even x = 0 takes more.
    """
    budget = keep * N + 1e-9
    least = mean_tokens(N, stages(0.0), layers)
    if least > budget:
        raise LofiError(
            f"{caller}: keep={keep} of {N} tokens, {keep * N:.1f} averaged over {layers} layers; "
            f"expected at least {least:.1f}, which layers before the first drop cost: drop earlier"
        )
    low, high = 0.0, 1.0
    if mean_tokens(N, stages(high), layers) <= budget:
        return stages(high)
    for _ in range(40):
        middle = (low + high) / 2
        if mean_tokens(N, stages(middle), layers) <= budget:
            low = middle
        else:
            high = middle
    return stages(low)
