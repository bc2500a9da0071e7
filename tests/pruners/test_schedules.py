"""Methods that act inside the language model: budgets over layers, and their authors' schedules."""

from itertools import pairwise
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from lofi_core.errors import LofiError
from lofi_core.pruners import (
    InsidePruner,
    VisualTokens,
    get_pruner,
    registered,
)
from lofi_core.pruners.inside import mean_tokens
from lofi_core.pruners.sparsevlm import position_prior

INSIDE = [kind for kind in registered() if issubclass(kind, InsidePruner)]


@pytest.mark.parametrize("kind", INSIDE, ids=lambda kind: kind.name)
@given(keep=st.floats(0.15, 1), N=st.sampled_from([144, 576]))
@settings(deadline=None, max_examples=30)
def test_layer_averaged_budgets_are_met(kind: type[InsidePruner], keep: float, N: int) -> None:
    stages = kind(keep=keep).schedule(N, 32)
    mean = mean_tokens(N, stages, 32)
    assert mean <= keep * N + 1e-6
    # From below, to what one step of the free number makes: one token, or DART's eight.
    slack = {"dart": 8.0, "pyramiddrop": 3.0, "sparsevlm": 4.0, "sparsevlm+": 4.0}
    assert mean > min(keep * N, N - 9) - slack.get(kind.name, 1.0) - 1e-6
    counts = [N, *(stage.count for stage in stages)]
    assert all(a >= b for a, b in pairwise(counts))


def test_authors_schedules() -> None:
    def mean(name: str, **parameters: Any) -> float:
        pruner = get_pruner(name, **parameters)
        assert isinstance(pruner, InsidePruner)
        return mean_tokens(576, pruner.schedule(576, 32), 32)

    assert mean("pyramiddrop") == 270
    assert mean("fastv", ratio=1 - 166 / 576) == pytest.approx(192, abs=0.5)
    # Counted as they enter a layer, recycled tokens included.
    averages = {192: 206.5, 128: 145.4, 96: 114.1, 64: 82.3}
    for retain, average in averages.items():
        assert mean("sparsevlm", retain=retain) == pytest.approx(average, abs=0.1)
    assert mean("dart") == (2 * 576 + 30 * 132) / 32


@pytest.mark.parametrize("kind", INSIDE, ids=lambda kind: kind.name)
def test_inside_pruners_say_so(kind: type[InsidePruner]) -> None:
    with pytest.raises(LofiError, match="inside the language model"):
        kind()(VisualTokens(torch.ones(1, 576, 4)))
    with pytest.raises(LofiError, match="layers"):
        kind().schedule(576, 2)
    with pytest.raises(LofiError, match="at least"):
        kind(keep=0.001).schedule(576, 32)


def test_position_prior_is_the_rotated_product() -> None:
    d, m, n = 16, 7, 3
    theta = 10000.0 ** (-torch.arange(0, d, 2).double() / d)
    rotated = [torch.cat((a.cos() - a.sin(), a.cos() + a.sin())) for a in (m * theta, n * theta)]
    expected = (rotated[0] @ rotated[1]) / d**0.5
    assert position_prior(torch.tensor(m - n), d).item() == pytest.approx(expected.item(), rel=1e-6)
