"""p-values and bounds: exact where there is an oracle, and MAPIE's where it has the same."""

from math import comb

import numpy as np
import pytest
from mapie.risk_control import control_fwer
from mapie.risk_control.methods import compute_hoeffding_bentkus_p_value

from lofi_core.errors import LofiError
from lofi_core.guarantee.bounds import betting, binomial, hoeffding_bentkus, p_value, upper
from lofi_core.guarantee.samples import images_needed, images_to_certify
from lofi_core.guarantee.testing import fixed_sequence


def test_binomial_is_the_sum_of_its_terms() -> None:
    n, alpha = 40, 0.07
    for bad in (0, 1, 5, 40):
        terms = [comb(n, k) * alpha**k * (1 - alpha) ** (n - k) for k in range(bad + 1)]
        assert float(binomial(bad, n, alpha)) == pytest.approx(sum(terms), rel=1e-12)


@pytest.mark.parametrize("alpha", [0.01, 0.05, 0.3])
def test_hoeffding_bentkus_is_mapies(alpha: float) -> None:
    n = 512  # a power of two: n * (k / n) is k, so that MAPIE's rounding is right
    bad = np.zeros((60, n), dtype=int)
    for k, row in enumerate(bad):
        row[:k] = 1
    theirs = compute_hoeffding_bentkus_p_value(np.arange(60) / n, n, alpha)[:, 0]
    ours = hoeffding_bentkus(bad, np.ones(n, dtype=int), alpha)
    np.testing.assert_allclose(ours, theirs, rtol=1e-9)


def test_hoeffding_bentkus_counts_in_integers() -> None:
    # The mean of these losses, rounded to a float, times n is a little more than 3.
    n = next(n for n in range(10, 1000) if np.ceil(n * (3 / n)) == 4)
    bad = np.array([1] * 3 + [0] * (n - 3))
    ours = float(hoeffding_bentkus(bad, np.ones(n, dtype=int), 0.5))
    exact = np.e * float(binomial(3, n, 0.5))
    misrounded = np.e * float(binomial(4, n, 0.5))
    assert ours <= exact * (1 + 1e-9) < misrounded


def test_hoeffding_bentkus_of_unequal_images_adds_fractions() -> None:
    asked = np.array([3, 3, 3, 7, 11, 13] * 20)
    bad = np.array([1, 1, 1, 0, 0, 0] * 20)  # 20 in all, though thirds do not add up in floats
    whole = np.array([1, 0, 0, 0, 0, 0] * 20)
    np.testing.assert_array_equal(
        hoeffding_bentkus(bad, asked, 0.3), hoeffding_bentkus(whole, np.ones_like(asked), 0.3)
    )
    many = np.arange(1, 101)  # their common denominator has more than 64 bits
    p = hoeffding_bentkus(np.zeros(100, dtype=int), many, 0.05)
    assert float(p) == pytest.approx(0.95**100, rel=1e-9)


def test_betting_is_the_wealth_of_a_bettor() -> None:
    x, alpha, delta = np.array([0.0, 0.5, 0.0, 1.0, 0.0]), 0.4, 0.1
    wealth, best, seen = 1.0, 1.0, [0.5]
    squares = 0.25
    for i, loss in enumerate(x):
        bet = min(np.sqrt(2 * np.log(1 / delta) / (len(x) * squares / (i + 1))), 0.99)
        wealth *= 1 - bet * (loss - alpha)
        best = max(best, wealth)
        seen.append(loss)
        squares += (loss - np.mean(seen)) ** 2
    assert float(betting(x[None], alpha, delta)[0]) == pytest.approx(1 / best)


def test_a_bet_knows_nothing_of_its_own_image() -> None:
    rng = np.random.default_rng(0)
    x = rng.random((1, 50))
    last = x.copy()
    last[0, -1] = 1 - last[0, -1]
    # A different last loss must not change the wealth before it, which this p-value shows.
    p, q = (betting(losses[:, :49], 0.9, 0.05) for losses in (x, last))
    assert p == q


def test_upper_bounds_meet_their_p_values() -> None:
    for bad in (0, 3, 20):
        high = upper(lambda alpha, bad=bad: float(binomial(bad, 100, alpha)), 0.05)  # type: ignore[misc]
        assert float(binomial(bad, 100, high)) <= 0.05 < float(binomial(bad, 100, high - 1e-6))
    assert upper(lambda alpha: 1.0, 0.05) == 1.0


def test_fixed_sequence_is_mapies() -> None:
    rng = np.random.default_rng(0)
    for _ in range(200):
        p = rng.random(8) ** 4
        theirs = control_fwer(p, 0.1, "fixed_sequence")
        assert list(theirs) == list(range(int(fixed_sequence(p, 0.1))))


@pytest.mark.parametrize(("alpha", "risk"), [(0.05, 0.0), (0.05, 0.025), (0.1, 0.05), (0.2, 0.1)])
def test_images_needed_by_trying_every_number(alpha: float, risk: float) -> None:
    for n in range(1, 2000):
        most = -1
        while float(binomial(most + 1, n, alpha)) <= 0.05:
            most += 1
        if most >= 0 and float(binomial(most, n, risk)) >= 0.9:
            break
    assert images_needed(alpha, risk) == n


def test_images_to_certify_suffice_as_often_as_promised() -> None:
    rng = np.random.default_rng(0)
    pilot = rng.binomial(7, 0.01, 4000) / 7
    n = images_to_certify(pilot, alpha=0.03)
    assert n is not None
    fresh = rng.binomial(7, 0.01, (1000, n)) / 7
    power = float((betting(fresh, 0.03, 0.05) <= 0.05).mean())
    assert (
        0.8 < power < 0.99
    )  # asked for: 0.9; an estimate, of another bettor than the one that bets


def test_refusals() -> None:
    with pytest.raises(LofiError, match="'binomial' with up to 7 questions per image"):
        p_value("binomial", np.zeros(9, dtype=int), np.full(9, 7), 0.05, 0.05)
    with pytest.raises(LofiError, match="bound='normal'"):
        p_value("normal", np.zeros(9, dtype=int), np.ones(9, dtype=int), 0.05, 0.05)  # type: ignore[arg-type]
    with pytest.raises(LofiError, match=r"risk=0\.05, alpha=0\.05"):
        images_needed(0.05, 0.05)
    with pytest.raises(LofiError, match="power=1"):
        images_needed(0.05, 0.01, power=1)
    with pytest.raises(LofiError, match="more than 1000000000 images"):
        images_needed(1e-9, 0.0, delta=1e-9)
