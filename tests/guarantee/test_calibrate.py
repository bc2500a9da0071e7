"""From records to a policy and to its file: what is promised, and what is refused."""

import json
from collections.abc import Callable
from typing import Any

import numpy as np
import pandas as pd
import pytest

from lofi_core import LoFi
from lofi_core.errors import LofiError
from lofi_core.guarantee import Policy, calibrate
from lofi_core.guarantee.evidence import gather
from lofi_core.guarantee.policy import describe_pruner, make_pruner
from lofi_core.guarantee.testing import THRESHOLDS
from lofi_core.leverage import EffectiveRank
from lofi_core.pruners import DeflatedLoFi, IPRBudget, Random, registered

IMAGES, QUESTIONS = 300, 4
FLIPS = {0.5: 0.05, 0.25: 0.2, 0.1: 0.5}  # chance of a flip where the margin is small


def made(
    budgets: tuple[float, ...] = (0.25,), images: int = IMAGES, sure: float = 0.7
) -> pd.DataFrame:
    """Records of a world in which no answer flips whose margin is at least 0.5."""
    rng = np.random.default_rng(0)
    image, number = (a.ravel() for a in np.indices((images, QUESTIONS)))
    rows = {
        "image": image,
        "number": number,
        "question": "?",
        "choices": [("yes", "no")] * len(image),
    }
    base = rng.choice(["yes", "no"], len(image))
    run = {"weights": "ab", "data": "made", "dtype": "float32"}
    reference = {"arm": 0, "predicted": base, "right": base == "yes", "parameters": ""}
    tables = [pd.DataFrame(rows | run | reference | {"margin": 1.0, "budget_measured": 1.0})]
    for arm, keep in enumerate(budgets, 1):
        margin = np.where(rng.random(len(image)) < sure, 0.9, 0.3)
        flip = (margin < 0.5) & (rng.random(len(image)) < FLIPS[keep])
        said = np.where(flip, np.where(base == "yes", "no", "yes"), base)
        mine = {"arm": arm, "predicted": said, "right": said == "yes", "margin": margin}
        mine |= {"parameters": repr(Random(keep=keep)), "budget_measured": keep}
        tables.append(pd.DataFrame(rows | run | mine))
    return pd.concat(tables, ignore_index=True).sample(frac=1, random_state=0)


def test_policy_of_a_world_whose_truth_is_known() -> None:
    policy = calibrate(made(), ["random"], [0.25], alpha=0.02)
    assert 0.3 < policy.threshold <= 0.9  # of all answers 0.3 * 0.2 would flip, else none
    assert policy.risk == 0 and policy.risk_upper <= policy.alpha
    assert policy.coverage == pytest.approx(0.7, abs=0.05)
    assert policy.cost == pytest.approx(0.25 + 1 - policy.coverage)
    assert (policy.images, policy.questions) == (IMAGES, IMAGES * QUESTIONS)
    assert policy.chain() == [Random(keep=0.25)]


def test_last_certified_threshold_is_taken() -> None:
    table = made()
    policy = calibrate(table, ["random"], [0.25], alpha=0.02)
    place = int(np.flatnonzero(policy.threshold == THRESHOLDS)[0])
    assert policy.threshold > 0.3 >= THRESHOLDS[place + 1]  # the next lets flips in


def test_a_limit_above_the_risk_keeps_everything_pruned() -> None:
    policy = calibrate(made(), ["random"], [0.25], alpha=0.2)
    assert policy.threshold == 0 and policy.coverage == 1 and policy.cost == 0.25


def test_the_cheapest_chain_is_taken_and_chains_share_delta() -> None:
    table = made((0.5, 0.25, 0.1))
    policy = calibrate(table, ["random"], [0.5, 0.25, (0.1, 0.5)], alpha=0.02)
    alone = [calibrate(table, ["random"], [b], 0.02, 0.05 / 3) for b in (0.5, 0.25, (0.1, 0.5))]
    assert policy.cost == min(each.cost for each in alone)
    assert policy.chains == 3 and policy.delta == 0.05


def test_cascade_counts_every_pass() -> None:
    evidence = gather(made((0.1, 0.5)), [1, 2], "changed", "margin")
    level = evidence.level(np.array([0.5]))[0]
    expected = np.choose(level, [0.1, 0.1 + 0.5, 0.1 + 0.5 + 1])
    assert evidence.cost(np.array([0.5])).mean() == pytest.approx(expected.mean())
    first, second = evidence.confidence >= 0.5
    assert (level == np.where(first, 0, np.where(second, 1, 2))).all()


def test_pre_pass_confidence_costs_one_pass() -> None:
    table = made()
    table["ipr_before"] = 0.2
    table["ipr_after"] = np.where(table["margin"] > 0.5, 0.2, 0.8)
    policy = calibrate(table, ["random"], [0.25], alpha=0.02, confidence="ipr")
    assert policy.threshold > 1 / (1 + 3)
    assert policy.cost == pytest.approx(0.25 * policy.coverage + 1 - policy.coverage)


def test_broken_answers_are_those_that_were_right() -> None:
    table = made()
    table.loc[table["arm"] == 0, "right"] = False  # then nothing can break
    changed = calibrate(table, ["random"], [0.25], alpha=0.02)
    broken = calibrate(table, ["random"], [0.25], alpha=0.02, loss="broken")
    assert broken.coverage == 1 > changed.coverage and broken.loss == "broken"


@pytest.mark.parametrize("bound", ["betting", "hoeffding-bentkus", "binomial"])
def test_every_bound_bounds(bound: Any) -> None:
    policy = calibrate(made(), ["random"], [0.25], alpha=0.05, bound=bound)
    assert policy.risk <= policy.risk_upper <= 0.05
    assert policy.questions == (IMAGES if bound == "binomial" else IMAGES * QUESTIONS)


def test_too_few_images_says_how_many() -> None:
    with pytest.raises(LofiError, match=r"20 images certify no threshold.*about 305 images"):
        calibrate(made(images=20), ["random"], [0.25], alpha=0.01)
    enough = calibrate(made(images=330), ["random"], [0.25], alpha=0.01)
    assert enough.coverage > 0.5
    table = made()
    table["margin"] = 1.0  # sure of everything, and wrong
    with pytest.raises(LofiError, match="no number of images"):
        calibrate(table, ["random"], [0.25], alpha=0.02)


def without(column: str) -> Callable[[pd.DataFrame], pd.DataFrame]:
    return lambda table: table.drop(columns=column)


def with_value(column: str, value: Any) -> Callable[[pd.DataFrame], pd.DataFrame]:
    def change(table: pd.DataFrame) -> pd.DataFrame:
        table = table.reset_index(drop=True)
        cells = table[column].astype(object)
        cells[0] = value
        return table.assign(**{column: cells})

    return change


BAD: dict[str, tuple[Callable[[pd.DataFrame], pd.DataFrame], dict[str, Any], str]] = {
    "alpha 0": (lambda t: t, {"alpha": 0.0}, "alpha=0.0"),
    "alpha 1": (lambda t: t, {"alpha": 1}, "alpha=1"),
    "delta 0": (lambda t: t, {"delta": 0.0}, "delta=0.0"),
    "delta 2": (lambda t: t, {"delta": 2.0}, "delta=2.0"),
    "alpha in words": (lambda t: t, {"alpha": "1%"}, "alpha='1%'"),
    "no budget": (lambda t: t, {"budgets": []}, "at least one of each"),
    "empty cascade": (lambda t: t, {"budgets": [()]}, "at least one of each"),
    "no such budget": (lambda t: t, {"budgets": [0.4]}, "0 arms of Random"),
    "other parameters": (lambda t: t, {"pruners": [Random(keep=0.25, seed=7)]}, "0 arms of Random"),
    "no such loss": (lambda t: t, {"loss": "any"}, "loss='any'"),
    "one image": (lambda t: t[t["image"] == 0], {}, "at least two"),
    "no margins": (without("margin"), {}, "no 'margin' for 1200 of 1200 answers"),
    "a margin missing": (with_value("margin", None), {}, "no 'margin' for 1 of 1200 answers"),
    "no IPR": (lambda t: t, {"confidence": "ipr"}, "no 'ipr_after'"),
    "no truth": (with_value("right", None), {"loss": "broken"}, "true answer of 1 questions"),
    "other weights": (with_value("weights", "cd"), {}, "records of several runs"),
    "other data": (with_value("data", "other"), {}, "records of several runs"),
    "two kinds": (with_value("choices", ()), {}, "calibrate each by itself"),
    "no unpruned arm": (lambda t: t[t["arm"] > 0], {}, "arm 0 for the unpruned"),
    "a row twice": (lambda t: pd.concat([t, t[t["arm"] == 1][:1]]), {}, "1 of them twice"),
    "a row missing": (lambda t: t.drop(t.index[t["arm"] == 1][0]), {}, "1199 questions"),
    "other questions": (with_value("question", "What?"), {}, "the same ones"),
}


@pytest.mark.parametrize("case", BAD)
def test_bad_input(case: str) -> None:
    change, options, message = BAD[case]
    # The first row, which some cases change, is of the pruned arm; truth is that of the unpruned.
    table = change(made().sort_values("arm", ascending=case == "no truth"))
    with pytest.raises(LofiError, match=message.replace("(", r"\(")):
        calibrate(table, **{"pruners": ["random"], "budgets": [0.25], "alpha": 0.05} | options)


def test_a_policy_survives_its_file(tmp_path: Any) -> None:
    policy = calibrate(made(), ["random"], [0.25], alpha=0.02)
    policy.save(tmp_path / "policy.json")
    assert Policy.load(tmp_path / "policy.json") == policy


def test_an_edited_policy_is_refused(tmp_path: Any) -> None:
    path = tmp_path / "policy.json"
    text = calibrate(made(), ["random"], [0.25], alpha=0.02).to_json()
    content = json.loads(text)
    for name in content["policy"]:
        edited = json.loads(text)
        edited["policy"][name] = "edited"
        path.write_text(json.dumps(edited))
        with pytest.raises(LofiError, match="an edited policy promises nothing"):
            Policy.load(path)
    for junk in ("", "[]", "{}", '{"policy": 3, "sha256": ""}', '{"policy": {}}'):
        with pytest.raises(LofiError, match="not a policy"):
            Policy.from_json(junk)
    with pytest.raises(LofiError, match=r"Policy\.load"):
        Policy.load(tmp_path / "missing.json")


def test_pruners_survive_a_policy() -> None:
    for kind in registered():
        pruner = kind(keep=0.5)
        described = json.loads(json.dumps(describe_pruner(pruner)))
        assert make_pruner(described) == pruner
    pruner = LoFi(keep=0.1, rank=EffectiveRank(2.0), ridge=None)
    assert make_pruner(json.loads(json.dumps(describe_pruner(pruner)))) == pruner
    with pytest.raises(LofiError, match="which a file can hold"):
        describe_pruner(LoFi(keep=IPRBudget()))

    class Mine(DeflatedLoFi):
        pass

    Mine.name = ""
    with pytest.raises(LofiError, match="not registered"):
        describe_pruner(Mine(keep=0.5))
