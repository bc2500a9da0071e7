"""Quantities that claims are judged by: what one is, and the register of what computes them.

A key names a quantity, such as ``lofi.lead.random``. ``@22`` means 22 % of the visual tokens; a key
without a budget is a mean over `book.ledger.means.BUDGETS`.
"""

from collections.abc import Callable, Iterable
from dataclasses import asdict, dataclass
from typing import Any

__all__ = ["METRICS", "NoData", "Quantity", "compute", "metric"]


class NoData(Exception):
    """The results hold nothing that the quantity could be computed from."""


@dataclass(frozen=True)
class Quantity:
    """A number with its 95 % interval, and what it rests on.

    ``n`` counts what was counted (answers, arms, cases), ``images`` what was resampled. Without
    sampling error, both limits are the value.
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


METRICS: dict[str, Callable[[Any], Quantity]] = {}


def metric(key: str, *arguments: Any) -> Callable[[Callable[..., Quantity]], Any]:
    """Register a function of the evidence, with further arguments, under a key."""

    def register(function: Callable[..., Quantity]) -> Callable[..., Quantity]:
        METRICS[key] = lambda evidence: function(evidence, *arguments)
        return function

    return register


def compute(evidence: Any, keys: Iterable[str] | None = None) -> dict[str, Any]:
    """Compute quantities; where there are no data, the reason stands under ``missing``."""
    found: dict[str, Any] = {}
    for key in METRICS if keys is None else keys:
        try:
            found[key] = asdict(METRICS[key](evidence))
        except NoData as reason:
            found[key] = {"missing": str(reason)}
    return found
