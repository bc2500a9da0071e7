"""The contract of all registered pruners, through tiny models; and that broken ones are caught."""

from dataclasses import dataclass
from typing import Any

import pytest
import torch
from test_inside import PRUNERS as INSIDE
from test_inside import Deep
from torch import Tensor

from lofi_core.contract import PROMISES, PROMISES_INSIDE, check_pruner
from lofi_core.errors import LofiError
from lofi_core.pruners import (
    InsidePruner,
    IPRBudget,
    LoFi,
    LoFiInside,
    Pruner,
    ScorePruner,
    Selection,
    VisualTokens,
    get_pruner,
    registered,
)

BEFORE = [kind.name for kind in registered() if not issubclass(kind, InsidePruner)]
TEXT = {"text_embeds": torch.linspace(-1, 1, 6)[None], "embed": lambda x: x[..., :6]}
PARAMETERS: dict[str, dict[str, Any]] = {"trim": TEXT, "cdpruner": TEXT}
ARMS: dict[str, Pruner] = {
    **{name: get_pruner(name, keep=0.3, **PARAMETERS.get(name, {})) for name in BEFORE},
    **INSIDE,
    "lofi-inside": LoFiInside(layer=2, keep=0.5),
    "lofi-svd": LoFi(keep=0.3, method="svd"),
    "lofi-encoder": LoFi(keep=0.3, site="encoder", center=False),
    "lofi-ridge": LoFi(keep=0.3, ridge=0.5),
    "lofi-merge": LoFi(keep=0.3, merge=True),
    "lofi-ipr": LoFi(keep=IPRBudget(eps=0.3, floor=0.1)),
    "deflated-merge": get_pruner("deflated-lofi", keep=0.3, merge=True, kernel="gram"),
}
CASES = [
    pytest.param(arm, promise, id=f"{name}-{promise.replace(' ', '_')[:24]}")
    for name, arm in ARMS.items()
    for promise in (PROMISES_INSIDE if isinstance(arm, InsidePruner) else PROMISES)
]


@pytest.fixture(scope="module")
def deep() -> tuple[Any, dict[str, Tensor]]:
    """Six layers; a row with one image, and one with two and text between, padded on the left."""
    return Deep().model(), Deep().inputs([[3, "a", 4], [2, "a", 1, "a", 2]])


def test_every_registered_pruner_is_here() -> None:
    assert {kind.name for kind in registered()} == {arm.name for arm in ARMS.values()}


@pytest.mark.parametrize(("arm", "promise"), CASES)
@torch.no_grad()
def test_contract(arm: Pruner, promise: str, deep: tuple[Any, dict[str, Tensor]]) -> None:
    promises = PROMISES_INSIDE if isinstance(arm, InsidePruner) else PROMISES
    assert promises[promise](arm, *deep)


class Counting(ScorePruner):
    """Chooses otherwise at every call."""

    calls = 0

    def scores(self, tokens: VisualTokens) -> Tensor:
        type(self).calls += 1
        generator = torch.Generator().manual_seed(self.calls)
        return torch.rand(tokens.projected.shape[:2], generator=generator)


class BatchMean(ScorePruner):
    """Looks at the other images."""

    def scores(self, tokens: VisualTokens) -> Tensor:
        return (tokens.projected - tokens.projected.mean((0, 1))).norm(dim=-1)


class Noisy(Pruner):
    """Changes tokens even if it keeps them all."""

    def select(self, tokens: VisualTokens) -> Selection:
        kept = LoFi(keep=self.keep)(tokens).kept
        new = tuple(x[k] + 1e-6 for x, k in zip(tokens.projected, kept, strict=True))
        return Selection(kept, new)


class Overflowing(Pruner):
    """Squares without leaving half precision."""

    def select(self, tokens: VisualTokens) -> Selection:
        selection = LoFi(keep=self.keep)(tokens)
        huge = (tokens.projected * 1e4) * 1e4 * 1e-8
        full = self.keep == 1.0
        new = tuple(x[k] for x, k in zip(huge, selection.kept, strict=True))
        return selection if full else Selection(selection.kept, new)


@pytest.mark.parametrize(
    ("kind", "promise"),
    [
        (Noisy, "bit for bit"),
        (BatchMean, "alone"),
        (Counting, "promise"),
        (Overflowing, "half precision"),
    ],
)
def test_broken_promises_are_named(
    kind: type[Pruner], promise: str, deep: tuple[Any, dict[str, Tensor]]
) -> None:
    made = dataclass(frozen=True, kw_only=True)(kind)
    with pytest.raises(LofiError, match=promise):
        check_pruner(made(keep=0.3), *deep)


def test_the_shipped_model_is_the_default() -> None:
    assert check_pruner(LoFi(keep=0.25)) == list(PROMISES)
    assert check_pruner(LoFiInside(keep=0.7)) == list(PROMISES_INSIDE)
