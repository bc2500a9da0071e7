"""Quantities that claims are judged by: what one is, and the register of what computes them.

A key names a quantity, such as ``lofi.lead.random``. ``@22`` means 22 % of the visual tokens; a key
without a budget is a mean over `book.ledger.means.BUDGETS`. After a ``~`` stands the world in which
it is computed, see `book.ledger.worlds`.
"""

from collections.abc import Callable, Iterable
from dataclasses import asdict, dataclass
from typing import Any

__all__ = ["METRICS", "NoData", "Quantity", "compute", "metric", "views_of"]


class NoData(Exception):
    """The results hold nothing that the quantity could be computed from."""


@dataclass(frozen=True)
class Quantity:
    """A number with its 95 % interval, and what it rests on.

    ``n`` counts what was counted (answers, arms, cases); ``images`` and ``methods`` what was
    resampled. Without sampling error, both limits are the value. Of a mean over methods,
    ``least_without`` and ``most_without`` are its range without any one of them, and ``without``
    names the two.
    """

    value: float
    low: float
    high: float
    n: int
    images: int
    unit: str
    what: str
    model: str
    dtype: str
    device: str
    methods: int = 0
    least_without: float | None = None
    most_without: float | None = None
    without: str = ""


METRICS: dict[str, Callable[[Any], Quantity]] = {}
_VIEWS: dict[str, tuple[str, ...]] = {}


def metric(
    key: str, *arguments: Any, views: tuple[str, ...] = ()
) -> Callable[[Callable[..., Quantity]], Any]:
    """Register a function of the evidence, with further arguments, under a key.

    ``views`` are worlds in which readers want to see it too.
    """

    def register(function: Callable[..., Quantity]) -> Callable[..., Quantity]:
        METRICS[key] = lambda evidence: function(evidence, *arguments)
        _VIEWS[key] = views
        return function

    return register


def views_of(key: str) -> tuple[str, ...]:
    """Worlds in which readers want to see a quantity, beside the one that was recorded."""
    return _VIEWS.get(key, ())


def compute(evidence: Any, keys: Iterable[str] | None = None) -> dict[str, Any]:
    """Compute quantities, in their worlds; where there are no data, say so under ``missing``."""
    if keys is None:
        keys = [
            key if not view else f"{key}~{view}" for key in METRICS for view in ("", *_VIEWS[key])
        ]
    found: dict[str, Any] = {}
    for key in keys:
        name, _, world = key.partition("~")
        try:
            found[key] = asdict(METRICS[name](evidence.in_world(world) if world else evidence))
        except NoData as reason:
            found[key] = {"missing": str(reason)}
    return found
