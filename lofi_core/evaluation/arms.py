"""Arms: ways of asking that are compared with each other."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from lofi_core.errors import LofiError
from lofi_core.pruners import Pruner, Random, get_pruner

__all__ = ["AS_IS", "UNPRUNED", "Arm", "Condition", "arms", "as_arm"]

UNPRUNED = Random(keep=1.0)
"""The arm that keeps every visual token."""


@dataclass(frozen=True, kw_only=True)
class Condition:
    """Numerical circumstances, which should not matter, and whose flips are the noise floor.

    Parameters
    ----------
    packed : bool
        Pack the questions about an image behind it, where the decoder allows it.
    questions_per_batch, images_per_batch : int, optional
        Ask in smaller batches than the block.
    padding : int
        Columns of padding on the left of every row; implies ``packed=False``.
    dtype : str, optional
        "float64", "bfloat16" or "float16", where it differs from the model's.
    attention : str, optional
        Attention back-end, where it differs from the model's.
    """

    packed: bool = True
    questions_per_batch: int | None = None
    images_per_batch: int | None = None
    padding: int = 0
    dtype: str | None = None
    attention: str | None = None


AS_IS = Condition()
"""The model as it was loaded, asked in the fastest way."""


@dataclass(frozen=True, kw_only=True)
class Arm:
    """A way of asking.

    Parameters
    ----------
    pruner : Pruner
        Of either kind; by default it keeps everything.
    condition : Condition
    measured : int
        Of the first so many images of the data, compare the representations with those of the
        unpruned model, see `lofi_core.evaluation.states`.
    """

    pruner: Pruner = UNPRUNED
    condition: Condition = AS_IS
    measured: int = 0

    @property
    def unpruned(self) -> bool:
        """Whether it is the model as it is."""
        return self.pruner == UNPRUNED and self.condition == AS_IS


def arms(
    names: Sequence[str], budgets: Sequence[float], seeds: Sequence[int] = (0,), **parameters: Any
) -> list[Pruner]:
    """Every named pruner at every budget, and with every seed if it has one.

    Parameters
    ----------
    names : sequence of str
        Registered pruners.
    budgets : sequence of float in (0, 1]
        Their ``keep``.
    seeds : sequence of int
        For the pruners that have a seed.
    parameters
        What else all of them are given.

    Raises
    ------
    LofiError
        As `lofi_core.pruners.get_pruner`.

    Examples
    --------
    >>> arms(["random", "norm"], [0.5], seeds=[0, 1])
    [Random(keep=0.5, seed=0), Random(keep=0.5, seed=1), Norm(keep=0.5)]
    """
    made = []
    for name in names:
        for keep in budgets:
            pruner = get_pruner(name, keep=keep, **parameters)
            if hasattr(pruner, "seed") and "seed" not in parameters:
                made += [get_pruner(name, keep=keep, seed=s, **parameters) for s in seeds]
            else:
                made.append(pruner)
    return made


def as_arm(pruner: Any) -> Arm:
    """Let a pruner stand for itself under the model's own conditions."""
    if isinstance(pruner, Arm):
        return pruner
    if not isinstance(pruner, Pruner):
        raise LofiError(
            f"ask: pruner={pruner!r}; expected a Pruner, an Arm or None: make one with "
            "get_pruner('lofi', keep=0.25)"
        )
    return Arm(pruner=pruner)
