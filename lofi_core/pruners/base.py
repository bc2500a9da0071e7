"""What a pruner may look at, what it returns, and the base classes that make one short to write.

A pruner is a frozen dataclass: its fields are its hyper-parameters. Most need one method,
``scores`` (see `ScorePruner`); the others turn `VisualTokens` into a `Selection` themselves. A
pruner never sees the model, so the same one serves every model family.
"""

from abc import ABC, abstractmethod
from collections.abc import Callable
from dataclasses import dataclass, fields
from typing import Any, ClassVar

import torch
from torch import Tensor

from lofi_core.errors import LofiError, check_tokens
from lofi_core.pruners.budget import IPRBudget, OutlierBudget, check_fraction, token_count

__all__ = [
    "FixedPruner",
    "Pruner",
    "ScorePruner",
    "Selection",
    "VisualTokens",
    "get_pruner",
    "pruner_names",
    "registered",
]

Grid = tuple[int, ...]


@dataclass(frozen=True, eq=False)
class VisualTokens:
    """The visual tokens of B images of N tokens each, and what the encoder knows about them.

    Parameters
    ----------
    projected : Tensor, shape (B, N, D)
        Tokens as the language model would receive them.
    encoded : Tensor, shape (B, N, C), optional
        The same tokens as the projector received them.
    cls_attention : Tensor, shape (B, H, N), optional
        Attention of the CLS token to the patches, by head, in the encoder layer that gives the
        features. The CLS token's attention to itself is left out, so rows sum to less than 1.
    first_cls_attention : Tensor, shape (B, H, N), optional
        The same in the encoder's first layer.
    last_cls_attention : Tensor, shape (B, N), optional
        The same in the encoder's last layer, with all heads taken as one wide head.
    keys : Tensor, shape (B, N, d), optional
        Keys of the layer that gives the features, averaged over heads.
    last_keys : Tensor, shape (B, N, C), optional
        Keys of the encoder's last layer, all heads side by side.
    cls_encoded : Tensor, shape (B, N, C), optional
        For each token the CLS token of its crop, in the layer that gives the features.
    crops : Tensor, shape (B, N), int64, optional
        Which of the image's crops each token is from; 0 is the overview.
    project : callable, optional
        The projector: tokens (..., C) as ``encoded`` to tokens (..., D) as ``projected``.
    grids : tuple of tuples of int
        Shapes whose sizes add up to N: ``((24, 24),)`` for one image in one piece, several for an
        image in crops, ``((T, h, w),)`` for a video; ``((N,),)`` where tokens have no grid.
    """

    projected: Tensor
    encoded: Tensor | None = None
    cls_attention: Tensor | None = None
    first_cls_attention: Tensor | None = None
    last_cls_attention: Tensor | None = None
    keys: Tensor | None = None
    last_keys: Tensor | None = None
    cls_encoded: Tensor | None = None
    crops: Tensor | None = None
    project: Callable[[Tensor], Tensor] | None = None
    grids: tuple[Grid, ...] = ()

    def require(self, name: str, caller: str) -> Any:
        """Return the optional field ``name``.

        Raises
        ------
        LofiError
            If the encoder did not provide it.
        """
        value = getattr(self, name)
        if value is None:
            raise LofiError(
                f"{caller}: needs VisualTokens.{name}, which was not given; expected it: "
                "through a model, declare the field in the pruner's `needs`"
            )
        return value


@dataclass(frozen=True, eq=False)
class Selection:
    """Which tokens stay, image by image.

    Parameters
    ----------
    kept : tuple of B Tensors, shape (m_b,), int64
        Indices in 0..N-1, strictly ascending: tokens stay in their original order.
    tokens : tuple of B Tensors, shape (m_b, D), optional
        What takes the kept tokens' places, for methods that merge; by default the tokens
        themselves.
    scores : Tensor, shape (B, N), optional
        What the choice was based on; higher is kept.
    """

    kept: tuple[Tensor, ...]
    tokens: tuple[Tensor, ...] | None = None
    scores: Tensor | None = None

    @classmethod
    def first(
        cls, order: Tensor, counts: int | Tensor, scores: Tensor | None = None
    ) -> "Selection":
        """Keep the first ``counts`` tokens of each image's order of preference, shape (B, N).

        Examples
        --------
        >>> import torch
        >>> Selection.first(torch.tensor([[3, 0, 2, 1]]), 2).kept
        (tensor([0, 3]),)
        """
        if isinstance(counts, int):
            return cls(order[:, :counts].sort(-1).values.unbind(), scores=scores)
        lengths = counts.tolist()
        kept = tuple(row[:m].sort().values for row, m in zip(order, lengths, strict=True))
        return cls(kept, scores=scores)


@dataclass(frozen=True, kw_only=True)
class Pruner(ABC):
    """Base class of all pruners. Call it on `VisualTokens` to get a `Selection`.

    A subclass is a frozen dataclass with a registry name, ``class Mine(Pruner, name="mine")``, and
    a method `select`. ``needs`` names the fields of `VisualTokens` that it reads beyond
    ``projected``.

    Parameters
    ----------
    keep : float in (0, 1] or a rule
        Fraction of an image's tokens to keep, ``m = max(1, round(keep N))``, or a rule that
        chooses m image by image: `IPRBudget`, or `OutlierBudget` where there are scores.
    """

    keep: float | IPRBudget | OutlierBudget = 0.25

    name: ClassVar[str] = ""
    paper: ClassVar[str] = ""
    acts: ClassVar[str] = "before the language model"
    reads: ClassVar[str] = "projected tokens"
    follows: ClassVar[str] = ""
    deviations: ClassVar[str] = "none"

    def __init_subclass__(cls, name: str = "", **kwargs: Any) -> None:
        """Enter named subclasses into the registry."""
        super().__init_subclass__(**kwargs)
        if name:
            cls.name = name
            _REGISTRY[name] = cls

    def __post_init__(self) -> None:
        """Refuse a budget that means nothing."""
        if not isinstance(self.keep, IPRBudget | OutlierBudget):
            check_fraction(type(self).__name__, "keep", self.keep)

    @property
    def needs(self) -> tuple[str, ...]:
        """Fields of `VisualTokens`, beyond ``projected``, that `select` reads."""
        return ()

    @abstractmethod
    def select(self, tokens: VisualTokens) -> Selection:
        """Choose what stays of each image; called through the pruner itself, which checks."""

    def __call__(self, tokens: VisualTokens) -> Selection:
        """Choose what stays of each image.

        Raises
        ------
        LofiError
            If tokens are not finite, if a field in ``needs`` is missing, or if `select` broke its
            promise about the indices.
        """
        caller = type(self).__name__
        check_tokens(tokens.projected, caller)
        for name in self.needs:
            tokens.require(name, caller)
        selection = self.select(tokens)
        _check(selection, tokens.projected, caller)
        return selection

    def budget(
        self, tokens: VisualTokens, order: Tensor, scores: Tensor | None = None
    ) -> int | Tensor:
        """Tokens to keep: one number, or one an image, given each image's order of preference."""
        if isinstance(self.keep, IPRBudget):
            return self.keep.counts(tokens.projected, order)
        if isinstance(self.keep, OutlierBudget):
            if scores is None:
                raise LofiError(
                    f"{type(self).__name__}: keep={self.keep}, but this method gives tokens no "
                    "scores to find outliers among; expected a fraction or an IPRBudget"
                )
            return self.keep.counts(scores)
        return token_count(self.keep, order.shape[-1])


@dataclass(frozen=True, kw_only=True)
class FixedPruner(Pruner):
    """A pruner whose choice depends on m from the start, so that ``keep`` has to be a number."""

    keep: float = 0.25

    def __post_init__(self) -> None:
        """Refuse a budget that needs an order of preference."""
        check_fraction(type(self).__name__, "keep", self.keep)
        super().__post_init__()


@dataclass(frozen=True, kw_only=True)
class ScorePruner(Pruner):
    """A pruner that keeps the tokens with the highest scores; ties go to the earlier token."""

    @abstractmethod
    def scores(self, tokens: VisualTokens) -> Tensor:
        """Score each token, shape (B, N); higher is kept."""

    def select(self, tokens: VisualTokens) -> Selection:
        """Keep the m highest scores of each image."""
        scores = self.scores(tokens)
        order = scores.argsort(dim=-1, descending=True, stable=True)
        return Selection.first(order, self.budget(tokens, order, scores), scores)


def _check(selection: Selection, X: Tensor, caller: str) -> None:
    """Refuse a selection that breaks its promise; waits for the device once."""
    B, N, D = X.shape
    lengths = [len(kept) for kept in selection.kept]
    if len(lengths) != B or 0 in lengths:
        raise LofiError(
            f"{caller}: kept {lengths} tokens; expected at least one of each of {B} images"
        )
    flat = torch.cat(selection.kept)
    image = torch.repeat_interleave(torch.tensor(lengths)).to(flat.device)
    if ((flat < 0) | (flat >= N)).any() or ((flat + image * N).diff() < 1).any():
        raise LofiError(
            f"{caller}: kept indices {[kept.tolist() for kept in selection.kept]}; expected them "
            f"strictly ascending, in 0..{N - 1}: sort them before returning"
        )
    for kept, tokens in zip(selection.kept, selection.tokens or (), strict=bool(selection.tokens)):
        if tokens.shape != (len(kept), D):
            raise LofiError(
                f"{caller}: tokens of shape {tuple(tokens.shape)} for {len(kept)} kept indices; "
                f"expected ({len(kept)}, {D})"
            )


_REGISTRY: dict[str, type[Pruner]] = {}


def pruner_names() -> list[str]:
    """Names of all registered pruners, sorted."""
    return sorted(_REGISTRY)


def registered() -> list[type[Pruner]]:
    """Classes of all registered pruners, by name."""
    return [_REGISTRY[name] for name in pruner_names()]


def get_pruner(name: str, **parameters: Any) -> Pruner:
    """Make a pruner from its registered name and its parameters.

    Raises
    ------
    LofiError
        If there is no such pruner, or it has no such parameter.

    Examples
    --------
    >>> from lofi_core.pruners import get_pruner
    >>> get_pruner("random", keep=0.5, seed=1)
    Random(keep=0.5, seed=1)
    """
    if name not in _REGISTRY:
        raise LofiError(f"get_pruner: no pruner {name!r}; expected one of {pruner_names()}")
    known = [field.name for field in fields(_REGISTRY[name])]
    if unknown := sorted(set(parameters) - set(known)):
        raise LofiError(f"get_pruner: {name!r} has no parameter {unknown}; expected among {known}")
    return _REGISTRY[name](**parameters)
