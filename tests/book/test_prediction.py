"""Predicting flips: against SciPy, scikit-learn, brute force, and data whose truth is known."""

from itertools import product

import numpy as np
import pandas as pd
import pytest
from scipy import stats
from sklearn.metrics import roc_auc_score

from book.ledger.midranks import SortedColumn
from book.ledger.prediction import arm_correlation, flip_auc, rank_correlation, shuffled
from lofi_core.errors import LofiError

IMAGES, BUDGETS, QUESTIONS = 120, 4, 6
FEW = {"draws": 200, "seed": 1}


def rows(seed: int = 0, through_budget: float = 1.0, own: float = 0.0) -> pd.DataFrame:
    """Questions x budgets: a predictor and flips, tied through the budget, by themselves, or not.

    Each image has a difficulty, so that its questions are not independent.
    """
    rng = np.random.default_rng(seed)
    shape = (IMAGES, BUDGETS, QUESTIONS)
    image, budget, _ = (axis.ravel() for axis in np.indices(shape))
    noise = rng.normal(size=image.size)
    x = through_budget * budget + noise
    risk = -2 + through_budget * budget + own * noise + rng.normal(size=IMAGES)[image]
    flip = rng.random(image.size) < 1 / (1 + np.exp(-risk))
    rounded = x.round(1)  # with ties
    return pd.DataFrame({"image": image, "budget": budget, "x": rounded, "flip": flip})


def brute_auc(x, f, stratum) -> float:
    won = pairs = 0.0
    for i, j in product(np.flatnonzero(f), np.flatnonzero(~f)):
        if stratum[i] == stratum[j]:
            won += (x[i] > x[j]) + (x[i] == x[j]) / 2
            pairs += 1
    return won / pairs


def test_auc_is_scikit_learns_and_the_count_of_pairs() -> None:
    table = rows()[:600]
    x, f, b = (table[c].to_numpy() for c in ("x", "flip", "budget"))
    pooled = flip_auc(table[["x"]], f, table.image, **FEW).loc["x"]
    assert pooled.value == pytest.approx(roc_auc_score(f, x), abs=1e-12)
    inside = flip_auc(table[["x"]], f, table.image, within=b, **FEW).loc["x"]
    assert inside.value == pytest.approx(brute_auc(x, f, b), abs=1e-12)
    assert (inside.n, inside.groups) == (600, table.image.nunique())


def test_a_draw_is_the_statistic_of_the_resampled_rows() -> None:
    """Weights are repeated rows, in every statistic, pooled and within."""
    table = rows()[:480]
    rng = np.random.default_rng(3)
    C = table.image.nunique()
    drawn = rng.integers(0, C, C)
    again = pd.concat([table[table.image == c].assign(image=k) for k, c in enumerate(drawn)])
    x, f, b = (table[c].to_numpy(float) for c in ("x", "flip", "budget"))
    times = np.bincount(drawn, minlength=C)[None].astype(float)
    column = SortedColumn(x, b.astype(int), table.image.to_numpy())
    expected = flip_auc(again[["x"]], again.flip, again.image, within=again.budget, draws=1)
    assert column.auc(times, f)[0] == pytest.approx(expected.value.item(), abs=1e-12)
    fractions = again.groupby("budget").x.transform(lambda v: (v.rank() - 0.5) / len(v) - 0.5)
    ours = np.concatenate([column.ranks(times)[0][table.image == c] for c in drawn])
    np.testing.assert_allclose(ours, fractions, atol=1e-12)


def test_intervals_are_as_wide_as_the_images_demand() -> None:
    """Six copies of one row an image say no more than that row: the interval must not shrink."""
    rng = np.random.default_rng(0)
    x, f = rng.normal(size=300), rng.random(300) < 0.4
    one = flip_auc(pd.DataFrame({"x": x}), f, range(300), draws=1000).loc["x"]
    six = flip_auc(
        pd.DataFrame({"x": x.repeat(6)}), f.repeat(6), np.arange(300).repeat(6), draws=1000
    ).loc["x"]
    assert six.value == pytest.approx(one.value, abs=1e-12)
    assert (six.low, six.high) == pytest.approx((one.low, one.high), abs=1e-12)
    # Hanley and McNeil's standard error for AUC = 1/2; a bootstrap's width varies by some per cent
    m, n = f.sum(), (~f).sum()
    expected = 2 * 1.96 * np.sqrt((m + n + 1) / (12 * m * n))
    assert one.high - one.low == pytest.approx(expected, rel=0.15)


def test_nine_of_ten_intervals_hold_the_truth() -> None:
    """Clustered data with AUC 1/2 by symmetry: at 95 %, 40 intervals miss it more than 6 times
    with probability 0.003."""
    missed = 0
    for seed in range(40):
        table = rows(seed, through_budget=0.0)
        interval = flip_auc(table[["x"]], table.flip, table.image, draws=200, seed=seed).loc["x"]
        missed += not interval.low <= 0.5 <= interval.high
    assert missed <= 6


def test_related_through_the_budget_only() -> None:
    """Pooled statistics are high, and nothing is left within budgets, or of a shuffled control."""
    table = rows(through_budget=1.5)
    x, given = table[["x"]], (table.flip, table.image)
    pooled = flip_auc(x, *given, **FEW).loc["x"]
    inside = flip_auc(x, *given, within=table.budget, **FEW).loc["x"]
    assert pooled.low > 0.7
    assert inside.low < 0.5 < inside.high
    control = flip_auc(shuffled(x, table.budget), *given, **FEW).loc["x"]
    assert control.value == pytest.approx(pooled.value, abs=0.03)  # the pooled one was automatic
    correlation = rank_correlation(x, *given, **FEW).loc["x"]
    partial = rank_correlation(x, *given, within=table.budget, **FEW).loc["x"]
    assert correlation.low > 0.4
    assert partial.low < 0 < partial.high


def test_related_by_itself() -> None:
    table = rows(through_budget=0.0, own=1.5)
    x, given = table[["x"]], (table.flip, table.image)
    inside = flip_auc(x, *given, within=table.budget, **FEW).loc["x"]
    assert inside.low > 0.6
    both = table[["budget", "image"]]
    control = flip_auc(shuffled(x, both), *given, within=both, **FEW).loc["x"]
    assert control.low < 0.5 < control.high


def test_rivals_are_compared_over_the_same_draws() -> None:
    table = rows(own=1.5)
    rivals = pd.DataFrame({"x": table.x, "same": 2 * table.x, "worse": -table.x})
    found = flip_auc(rivals, table.flip, table.image, against="x", **FEW)
    assert found.loc["same", ["difference", "difference_low", "difference_high"]].eq(0).all()
    assert found.loc["worse", "difference"] == pytest.approx(1 - 2 * found.loc["x", "value"])
    assert found.loc["worse", "difference_high"] < 0


def test_spearman_and_partial_correlation_are_scipys() -> None:
    rng = np.random.default_rng(0)
    z = rng.normal(size=(200, 2))
    x, y = z @ [1, 0.5] + rng.normal(size=200), z @ [0.5, 1] + rng.normal(size=200)
    X, Z = pd.DataFrame({"x": x}), pd.DataFrame(z)
    plain = rank_correlation(X, y, range(200), **FEW).loc["x"]
    assert plain.value == pytest.approx(stats.spearmanr(x, y).statistic, abs=1e-12)
    partial = rank_correlation(X, y, range(200), given=Z, **FEW).loc["x"]
    ranks = np.column_stack([np.ones(200), *(stats.rankdata(c) for c in z.T)])
    rest = [
        v - ranks @ np.linalg.lstsq(ranks, v, rcond=None)[0]
        for v in (stats.rankdata(x), stats.rankdata(y))
    ]
    assert partial.value == pytest.approx(np.corrcoef(rest)[0, 1], abs=1e-9)
    assert abs(partial.value) < abs(plain.value)


def test_a_covariate_explains_itself_away() -> None:
    table = rows(own=1.0)
    result = rank_correlation(
        table[["x"]], table.flip, table.image, given=table[["x"]].copy(), **FEW
    ).loc["x"]
    assert result[["value", "low", "high"]].isna().all()


def test_within_two_strata_is_the_mean_of_their_correlations() -> None:
    table = rows(own=1.0)
    rng = np.random.default_rng(0)
    table["y"] = table.x + rng.normal(size=len(table))  # no ties: both have the same spread
    table["x"] += 1e-3 * rng.random(len(table))
    inside = rank_correlation(table[["x"]], table.y, table.image, within=table.budget, **FEW)
    each = [stats.spearmanr(part.x, part.y).statistic for _, part in table.groupby("budget")]
    assert inside.value.item() == pytest.approx(np.mean(each), abs=1e-9)


def test_over_arms_it_is_scipys_of_the_means() -> None:
    table = rows(own=1.0)
    rng = np.random.default_rng(0)
    table["arm"] = table.budget * 10 + rng.integers(0, 4, len(table))
    found = arm_correlation(table, ["x"], "flip", "arm", "image", **FEW).loc["x"]
    means = table.groupby("arm")[["x", "flip"]].mean()
    expected = stats.spearmanr(means.x, means.flip).statistic
    assert found.value == pytest.approx(expected, abs=1e-12)
    assert (found.n, found.groups) == (16, IMAGES)
    assert found.low <= found.value <= found.high


def test_over_arms_the_budget_can_be_held_fixed() -> None:
    """Methods differ in nothing; their means follow the budget alone."""
    table = rows(through_budget=1.5)
    table["arm"] = table.budget * 10 + np.random.default_rng(0).integers(0, 8, len(table))
    given = {"arm": "arm", "groups": "image", **FEW}
    pooled = arm_correlation(table, ["x"], "flip", **given).loc["x"]
    inside = arm_correlation(table, ["x"], "flip", within="budget", **given).loc["x"]
    assert pooled.low > 0.5
    assert inside.low < 0 < inside.high


def test_shuffling_keeps_each_stratum() -> None:
    table = rows()
    moved = shuffled(table[["x"]], table.budget, seed=4)
    assert moved.index.equals(table.index)
    assert not moved.x.equals(table.x)
    for budget in range(BUDGETS):
        own = table.budget == budget
        assert sorted(moved.x[own]) == sorted(table.x[own])
    assert moved.equals(shuffled(table[["x"]], table.budget, seed=4))


def test_no_flips_has_no_auc() -> None:
    result = flip_auc(pd.DataFrame({"x": [1, 2]}), [0, 0], [0, 1], **FEW).loc["x"]
    assert result[["value", "low", "high"]].isna().all()


X = pd.DataFrame({"x": [1.0, 2.0, 3.0]})


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: flip_auc(X, [0, 1], [0, 1, 2]), "2 outcomes"),
        (lambda: flip_auc(X, [0, 1, 2], [0, 1, 2]), "other than 0 and 1"),
        (lambda: flip_auc(X, [0, 1, 1], [0, 0, 0]), "one image"),
        (lambda: flip_auc(X, [0, 1, 1], [0, 1]), "2 labels"),
        (lambda: flip_auc(X, [0, 1, 1], [0, 1, 2], against="y"), "against='y'"),
        (lambda: flip_auc(X.replace(3, np.inf), [0, 1, 1], [0, 1, 2]), r"\['x'\]"),
        (lambda: rank_correlation(X, [0, 1, np.nan], [0, 1, 2]), "the outcome"),
        (
            lambda: arm_correlation(
                X.assign(y=0, a=0, g=range(3), b=range(3)), ["x"], "y", "a", "g", within="b"
            ),
            "varies",
        ),
    ],
)
def test_what_has_no_answer_says_so(call, message: str) -> None:
    with pytest.raises(LofiError, match=message):
        call()
