"""The monitor: false alarms and intervals at any time, drifts seen, and restarts."""

import json
from typing import Any

import numpy as np
import pytest
from scipy import stats

from lofi_core.errors import LofiError
from lofi_core.guarantee import Monitor

ALPHA, DELTA, RUNS, LENGTH = 0.1, 0.1, 300, 800
# Honest processes exceed it once in ten thousand; fixed before any run.
ALLOWED = float(stats.binom.ppf(1 - 1e-4, RUNS, DELTA)) / RUNS


def fed(losses: np.ndarray, monitor: Monitor | None = None) -> Monitor:
    monitor = Monitor(ALPHA, DELTA, share=0.5) if monitor is None else monitor
    for x in losses:
        monitor.update([float(x)], [0])
    return monitor


def traffic(kind: str, rate: float, length: int = LENGTH) -> np.ndarray:
    rng = np.random.default_rng(0)
    if kind == "flips":
        return np.asarray(rng.random((RUNS, length)) < rate)
    return rng.binomial(4, rate, (RUNS, length)) / 4  # units of four answers


@pytest.mark.parametrize("kind", ["flips", "units"])
def test_false_alarms_at_any_time(kind: str) -> None:
    alarms = sum(fed(losses).alarm for losses in traffic(kind, ALPHA))
    assert alarms / RUNS <= ALLOWED


def test_control_looking_often_at_a_fixed_test_gives_false_alarms() -> None:
    losses = traffic("flips", ALPHA)
    seen = np.arange(1, LENGTH + 1)
    p = stats.binom.sf(losses.cumsum(1) - 1, seen, ALPHA)
    assert (p.min(1) <= DELTA).mean() > ALLOWED


@pytest.mark.parametrize("kind", ["flips", "units"])
def test_intervals_hold_at_all_times_together(kind: str) -> None:
    rate, missed = 0.05, 0
    for losses in traffic(kind, rate, 300):
        monitor, inside = Monitor(ALPHA, DELTA, share=0.5), True
        for start in range(0, 300, 10):
            low, high = fed(losses[start : start + 10], monitor).interval()
            inside &= low <= rate <= high
        missed += not inside
    assert missed / RUNS <= ALLOWED


def test_interval_is_where_the_wealth_is_small() -> None:
    monitor = fed(np.array([1.0] * 7 + [0.0] * 33))
    low, high = monitor.interval()
    p = (np.arange(200_000) + 0.5) / 200_000
    prior = p**-0.5 * (1 - p) ** -0.5 / np.pi
    for edge in (low, high):
        wealth = (prior * (p / edge) ** 7 * ((1 - p) / (1 - edge)) ** 33).mean()
        assert wealth == pytest.approx(1 / DELTA, rel=1e-3)
    assert low < 7 / 40 < high
    assert Monitor(ALPHA).interval() == (0.0, 1.0)
    low, high = fed(np.ones(40)).interval()
    assert low > 0.8 and high == 1.0


@pytest.mark.parametrize("good", [0, 1000])
def test_a_drift_is_seen_as_soon_as_predicted(good: int) -> None:
    rng, waits = np.random.default_rng(0), []
    for _ in range(100):
        monitor = fed(rng.random(good) < ALPHA / 2)
        if monitor.alarm:
            continue
        before = monitor.drawn
        while not monitor.alarm:
            fed(rng.random(1) < 2 * ALPHA, monitor)
        waits.append(monitor.drawn - before)
    predicted = Monitor(ALPHA, DELTA, share=0.5).units_to_see(2 * ALPHA, after=2 * good) * 0.5
    # Wald's bound on the mean; the same, less what 100 runs leave open, must not be empty.
    assert predicted / 4 < np.mean(waits) < predicted + 3 * np.std(waits) / np.sqrt(len(waits))


def test_state_survives_a_restart(tmp_path: Any) -> None:
    losses = np.random.default_rng(1).random(60) < 0.3
    whole, first = Monitor(ALPHA, seed=3), Monitor(ALPHA, seed=3)
    picks = [whole.pick(range(40)), whole.pick(range(40))]
    assert first.pick(range(40)) == picks[0]
    fed(losses, whole)
    fed(losses[:30], first).save(tmp_path / "state.json")
    second = Monitor.load(tmp_path / "state.json")
    assert second.pick(range(40)) == picks[1]
    assert vars(fed(losses[30:], second)) == vars(whole)
    assert [path.name for path in tmp_path.iterdir()] == ["state.json"]


def test_the_draw_is_random_and_takes_whole_units() -> None:
    monitor = Monitor(ALPHA, share=0.2, seed=0)
    picked = monitor.pick(range(5000))
    assert 0.17 < len(picked) / 5000 < 0.23
    assert monitor.units == 5000
    monitor.pick(["a", "a", "b"])
    assert monitor.units == 5002
    monitor.update([1.0, 0.0, 1.0], ["a", "a", "b"])
    assert monitor.drawn == 2 and monitor.total == 1.5


def test_an_alarm_stays() -> None:
    monitor = fed(np.ones(20))
    seen = monitor.first_alarm
    assert monitor.alarm
    assert fed(np.zeros(500), monitor).alarm and monitor.first_alarm == seen
    assert monitor.wealth < 1 / DELTA


def test_refusals() -> None:
    for name in ("alpha", "delta", "share"):
        with pytest.raises(LofiError, match=f"{name}=0"):
            Monitor(**({"alpha": 0.1} | {name: 0}))
    with pytest.raises(LofiError, match="numbers in"):
        Monitor(0.1).update([1.5], [0])
    with pytest.raises(LofiError, match="of 2 units"):
        Monitor(0.1).update([1.0], [0, 1])
    with pytest.raises(LofiError, match="expected alpha < rate < 1"):
        Monitor(0.1).units_to_see(0.1)
    state = json.loads(Monitor(0.1).to_json())
    for junk in ("", "[]", "{}", json.dumps(state | {"version": 2}), json.dumps(state | {"x": 1})):
        with pytest.raises(LofiError, match="not a state"):
            Monitor.from_json(junk)
