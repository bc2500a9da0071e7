"""The base classes that make a pruner short to write, and the registry of all.

A pruner is a frozen dataclass: its fields are its hyper-parameters. Most need one method,
``scores`` (see `ScorePruner`); the others turn `VisualTokens` into a `Selection` themselves. A
pruner never sees the model, so the same one serves every model family.
"""

from abc import ABC, abstractmethod
from dataclasses import dataclass, fields
from typing import Any, ClassVar

from torch import Tensor

from lofi_core.errors import LofiError
from lofi_core.pruners.budget import IPRBudget, OutlierBudget, check_fraction, token_count
from lofi_core.pruners.tokens import (
    Selection,
    VisualTokens,
    check_scores,
    check_selection,
    check_visual,
)

__all__ = [
    "FixedPruner",
    "Pruner",
    "ScorePruner",
    "get_pruner",
    "pruner_names",
    "registered",
]


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
            If tokens, or facts in ``needs``, are missing, not finite or of the wrong shape; if
            `select` returns indices that don't ascend, or scores or merged tokens that are not
            finite or not one per token.
        """
        caller = type(self).__name__
        check_visual(tokens, self.needs, caller)
        selection = self.select(tokens)
        check_selection(selection, tokens.projected, caller)
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
        check_scores(scores, tokens.projected, type(self).__name__)
        order = scores.argsort(dim=-1, descending=True, stable=True)
        return Selection.first(order, self.budget(tokens, order, scores), scores)


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
