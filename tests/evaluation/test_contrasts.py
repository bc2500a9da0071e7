"""One method against all others: intervals, paired tests and their correction."""

import numpy as np
import pandas as pd
import pytest
from scipy import stats

from lofi_core.errors import LofiError
from lofi_core.evaluation.consistency import compare, difference
from lofi_core.evaluation.contrasts import paired_tests
from lofi_core.evaluation.statistics import clustered_means


@pytest.fixture()
def answers() -> tuple[pd.DataFrame, np.ndarray]:
    rng = np.random.default_rng(0)
    images = np.repeat(np.arange(60), 7)
    shift = rng.normal(size=60)[images]
    columns = {
        name: rng.normal(size=len(images)) + shift < edge
        for name, edge in (("a", 0.0), ("b", 0.1), ("c", 1.0))
    }
    return pd.DataFrame(columns), images


def test_differences_equal_those_of_comparisons(answers) -> None:
    values, images = answers
    keys = pd.DataFrame({"scene": images, "family": np.tile(np.arange(7), 60), "question": "?"})
    reference = keys.assign(predicted=1, right=True)
    tables = {n: keys.assign(predicted=values[n].astype(int), right=values[n]) for n in values}
    first, second = (compare(reference, tables[n], draws=1000) for n in "ac")
    expected = difference(first, second, "agreement")
    row = paired_tests(values, [("a", "c")], images).iloc[0]
    assert (row.difference, row.low, row.high) == pytest.approx(
        (expected.value, expected.low, expected.high)
    )
    freedom = 59
    p = 2 * stats.t.sf(abs(expected.value) / expected.standard_error, freedom)
    only_a, only_c = (values["a"] > values["c"]).sum(), (values["a"] < values["c"]).sum()
    sign_test = stats.binomtest(int(only_a), int(only_a + only_c)).pvalue  # McNemar's, exactly
    assert row.p == pytest.approx(max(p, sign_test))


def test_correction_runs_over_all_pairs(answers) -> None:
    values, images = answers
    table = paired_tests(values, [("a", "b"), ("a", "c"), ("b", "c")], images)
    smallest, middle, largest = sorted(table["p"])
    steps = [min(1, 3 * smallest), min(1, 2 * middle), largest]
    assert sorted(table["p_holm"]) == pytest.approx(np.maximum.accumulate(steps))
    assert (table["p_holm"] >= table["p"]).all() and table["p_holm"].iloc[1] < 0.05


def test_images_count_and_not_questions(answers) -> None:
    values, images = answers
    copies = pd.concat([values] * 9, ignore_index=True)  # nine times the questions, no more images
    once = paired_tests(values.astype(float), [("a", "c")], images).iloc[0]
    often = paired_tests(copies.astype(float), [("a", "c")], np.tile(images, 9)).iloc[0]
    assert often.p == pytest.approx(once.p)


def test_constant_differences() -> None:
    values = pd.DataFrame({"x": [1.0] * 6, "y": [0.5] * 6})
    table = paired_tests(values, [("x", "x"), ("x", "y")], range(6))
    assert table["p"].tolist() == [1.0, 0.0]


def test_means_take_any_column_labels(answers) -> None:
    values, images = answers
    values.columns = pd.MultiIndex.from_tuples([("a", 1), ("b", 1), ("c", 2)])
    table = clustered_means(values, images, draws=100)
    np.testing.assert_allclose(table["value"], values.mean())
    assert ((table["low"] < table["value"]) & (table["value"] < table["high"])).all()


def test_pairs_are_compared_over_the_questions_of_both(answers) -> None:
    values, images = answers
    few = values.astype(float)
    few.loc[images >= 20, "a"] = np.nan
    row = paired_tests(few, [("c", "b"), ("a", "c")], images).iloc[1]
    first = images < 20
    alone = paired_tests(values[first], [("a", "c")], images[first]).iloc[0]
    pd.testing.assert_series_equal(row.drop("p_holm"), alone.drop("p_holm"), check_names=False)


@pytest.mark.parametrize("pairs", [[], [("a", "nobody")]])
def test_unknown_columns_are_refused(answers, pairs) -> None:
    values, images = answers
    with pytest.raises(LofiError, match=r"paired_tests: .* expected at least"):
        paired_tests(values, pairs, images)
