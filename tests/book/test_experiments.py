"""The experiments: runs that are killed and resumed, tables that load, results that still hold."""

import json
import os
import shutil
import signal
import subprocess
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch

from book.experiments import load
from book.experiments import run as runs
from book.experiments.check import check, commit_seed
from book.experiments.compact import probability_matrix, shorter, split_probabilities
from book.experiments.export import write_results
from book.experiments.plan import BUDGETS, CHOSEN, SCENES, SEEDS, SITE_SCENES, Planned, plan
from book.experiments.results import FOLDER, Results, best_variants
from book.experiments.run import run
from book.experiments.tables import NONE_OF_THEM
from book.experiments.trainings import FACTS as FACTS_OF_TRAININGS
from book.experiments.trainings import trainings, write_trainings
from book.experiments.variants import Compensated
from lofi_core.errors import LofiError
from lofi_core.evaluation import parts
from lofi_core.evaluation.arms import UNPRUNED, Condition
from lofi_core.evaluation.asking import ask
from lofi_core.pruners import (
    AveragePool,
    IPRBudget,
    LoFi,
    Random,
    VisualTokens,
    get_pruner,
    pruner_names,
)
from lofi_core.scene_vlm import load as load_model
from lofi_core.scenes.vqa import SceneVQA

LIMIT = 12e6  # bytes of committed results
SMALL = {"test": 3, "validation": 2}
FACTS = {"scenes": SMALL}


def planned(group: str, label: str, pruner: Any = UNPRUNED, *place: Any, **facts: Any) -> Planned:
    budget = place[0] if place else None
    return Planned(group=group, label=label, pruner=pruner, budget=budget, **facts)


ARMS = [
    planned("reference", "unpruned"),
    planned("noise", "padding", condition=Condition(packed=False, padding=32)),
    planned(
        "noise",
        "one question at a time",
        condition=Condition(packed=False, questions_per_batch=1),
    ),
    planned("noise", "float64", condition=Condition(dtype="float64")),
    planned("main", "lofi", LoFi(keep=0.11), 0.11),
    planned("main", "pool", AveragePool(keep=0.11), 0.11),
    planned("main", "random", Random(keep=0.11, seed=1), 0.11),
    planned("main", "trim", get_pruner("trim", keep=0.5), 0.5),
    planned("main", "fastv", get_pruner("fastv", keep=0.5, layer=1), 0.5),
    planned("dynamic", "lofi dynamic", LoFi(keep=IPRBudget(mean=0.2)), 0.2),
    planned("reference", "unpruned", split="validation"),
    planned("ablation", "k = 4", LoFi(keep=0.22, rank=4), 0.22, split="validation", axis="rank"),
]


@pytest.fixture(autouse=True, scope="module")
def small_blocks() -> Any:
    """Two scenes a block."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(runs, "BLOCK", 2)
        yield


@pytest.fixture(scope="module")
def done(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    """A small run, shared by two processes in turn, and its results."""
    folder, out = (tmp_path_factory.mktemp(name) for name in ("run", "results"))
    for rank in "10":
        with pytest.MonkeyPatch.context() as patch:
            patch.setenv("RANK", rank)
            patch.setenv("WORLD_SIZE", "2")
            finished = run(folder, ARMS, SMALL)
    assert finished
    write_results(folder, out, ARMS, FACTS)
    return folder, out


@pytest.fixture(scope="module")
def small(done: tuple[Path, Path]) -> Results:
    return load(done[1])


# 1. The tables


def test_answers_are_those_of_asking(small: Results) -> None:
    model, processor = load_model()
    scenes = [SceneVQA("test")[i] for i in range(SMALL["test"])]
    for number in (0, 1, 2, 4, 5, 6):
        pruner = ARMS[number].pruner
        asked = ask(model, processor, scenes, None if pruner == UNPRUNED else pruner)
        mine = small.answers[small.answers["arm"] == number].reset_index()
        choices = [q.choices for scene in scenes for q in scene.questions]
        admissible = [p in c for p, c in zip(asked["predicted"], choices, strict=True)]
        asked["predicted"] = asked["predicted"].where(admissible, NONE_OF_THEM)
        for column in ("predicted", "right", "family", "scene"):
            assert mine[column].astype(object).tolist() == asked[column].tolist()
        assert mine["tokens"].tolist() == asked["tokens"].tolist()
        records = small.records(number)
        for p, q in zip(records["probabilities"], asked["probabilities"], strict=True):
            # Thousandths, and a sum of ten of them that is off by 5 at most.
            assert p == pytest.approx(q, abs=2e-5 if number < 3 else 0.006)


def test_derived_columns_are_those_of_compare(small: Results) -> None:
    for number in range(len(ARMS)):
        mine = small.answers[small.answers["arm"] == number]
        samples = small.compare(number, draws=1).samples
        assert len(mine) == len(samples) == (14 if ARMS[number].split == "validation" else 21)
        pairs = {
            "flip": "flip_rate",
            "right": "accuracy_candidate",
            "reference_right": "accuracy_reference",
        }
        for name in ("jensen_shannon", "total_variation", "margin_change"):
            pairs[name] = name
        for ours, theirs in pairs.items():
            assert mine[ours].astype(float).tolist() == pytest.approx(
                samples[theirs].astype(float).tolist(), abs=1e-9
            )
        for kind in ("right to wrong", "wrong to right", "wrong to other"):
            share = (mine["transition"] == kind).mean()
            assert share == pytest.approx(samples[kind.replace(" ", "_")].mean())
    reference = small.answers[small.answers["arm"] == 0]
    assert (reference["margin"] == reference["reference_margin"]).all()
    assert not reference["flip"].any() and (reference["budget_measured"] == 1).all()


def test_what_was_kept(small: Results) -> None:
    assert small.kept(0).all() and small.kept(0).shape == (3, 144)
    assert small.kept(4).sum(1).tolist() == [16] * 3
    assert small.kept(7).shape == (21, 144)  # chosen for each question
    assert small.kept(9).sum() == pytest.approx(0.2 * 144 * 3, abs=2)
    with pytest.raises(LofiError, match="no one set"):
        small.kept(8)
    measured = small.answers.groupby("arm")["budget_measured"].mean()
    assert measured[[4, 7, 11]].tolist() == pytest.approx([16 / 144, 0.5, 32 / 144])
    assert 0.48 < measured[8] <= 0.5


def test_sites(small: Results) -> None:
    sites = small.sites
    unpruned = sites[sites["arm"] == 0]
    changes = unpruned.filter(like="_change").to_numpy()
    assert np.nanmax(np.abs(changes)) == 0
    lofi = sites[(sites["arm"] == 4) & (sites["tokens"] == "visual")]
    assert len(lofi) == 3 * 6 and lofi["subspace_distance"].between(0.01, 1).all()
    assert lofi["retained_energy"].between(0.05, 0.999).all()
    assert "encoder" not in set(sites.loc[sites["arm"] == 5, "site"])  # merged tokens
    text = sites[(sites["arm"] == 4) & (sites["tokens"] == "text")]
    assert len(text) == 3 * 4 and text["ipr_centered"].notna().all()
    distance = small.answers.set_index("arm")["hidden_distance"]
    assert distance[0].max() < 1e-6 < distance[4].min() and distance[9].isna().all()


def test_noise_is_small_and_pruning_is_not(small: Results) -> None:
    assert small.noise.index.tolist() == ["padding", "one question at a time"]
    assert small.noise["largest_distance"].between(1e-9, 1e-4).all()
    assert small.answers.groupby("arm")["total_variation"].mean()[4] > 0.01


def test_finding_arms_and_groups(small: Results, done: tuple[Path, Path]) -> None:
    assert small.find(group="main", budget=0.11, seed=None) == [4, 5]
    assert small.find(label="random", seed=1) == [6] and small.find(label="?") == []
    assert small.variants.index.tolist() == ["k = 4"]
    part = load(done[1], groups=["dynamic"])
    assert set(part.answers["arm"]) == {0, 9, 10}
    with pytest.raises(LofiError, match="expected among"):
        load(done[1], groups=["others"])


def test_rounding() -> None:
    lists = pa.array([[0.1234567, 0.8765433], [0.5, 0.25, 0.25]], pa.list_(pa.float32()))
    table = pa.table({"arm": pa.array([0, 1], pa.int16()), "probabilities": lists})
    short = split_probabilities(table, [0])
    assert short["thousandths"].to_pylist() == [None, [500, 250, 250]]
    expected = np.zeros((2, 10))
    expected[0, :2], expected[1, :3] = [0.1234567, 0.8765433], [0.5, 0.25, 0.25]
    assert probability_matrix(short) == pytest.approx(expected, abs=1e-7)
    values = np.random.default_rng(0).normal(size=1000).astype(np.float32)
    rounded = shorter(pa.table({"x": values}))["x"].to_numpy()
    assert np.abs(rounded / values - 1).max() < 2**-9
    assert len(np.unique(np.frexp(rounded)[0])) < 1000


# 2. The run


def command(folder: str) -> None:
    """What the killed process runs: it dies in its second block, before the part is there."""
    runs.BLOCK = 2
    write, count = parts.write_whole, iter(range(100))

    def dying(path: Path, how: Any) -> None:
        if next(count) == 3:  # after run.json, its arms, and the part of the first block
            os.kill(os.getpid(), signal.SIGKILL)
        write(path, how)

    parts.write_whole = dying
    run(Path(folder), ARMS, SMALL)


def test_a_killed_run_resumes_to_the_same_tables(tmp_path: Path, done: tuple[Path, Path]) -> None:
    code = "import sys; sys.path[:0] = ['tests', 'tests/book']; import test_experiments as t; "
    code += f"t.command({str(tmp_path)!r})"
    killed = subprocess.run([sys.executable, "-c", code], env=os.environ | {"TQDM_DISABLE": "1"})
    assert killed.returncode == -signal.SIGKILL
    assert len(list(tmp_path.rglob("records-0*.parquet"))) == 1
    assert run(tmp_path, ARMS, SMALL)
    out = tmp_path / "out"
    write_results(tmp_path, out, ARMS, FACTS)
    for name in ("arms", "answers", "images", "sites"):
        first, second = (pd.read_parquet(f / f"{name}.parquet") for f in (done[1], out))
        pd.testing.assert_frame_equal(first, second)


def test_another_run_is_refused(done: tuple[Path, Path], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(runs, "BLOCK", 3)
    with pytest.raises(LofiError, match="holds another run"):
        run(done[0], ARMS[:4], {"test": 3})


def test_models_from_other_seeds_stand_beside_the_shipped(small: Results, tmp_path: Path) -> None:
    out = shutil.copytree(small.folder, tmp_path / "results")
    facts = dict.fromkeys(FACTS_OF_TRAININGS, "x") | {"scenes": SMALL}
    models = [
        replace(small, folder=out, experiment=facts | {"training_seed": seed}) for seed in range(3)
    ]
    (out / "experiment.json").write_text(json.dumps({"training_seed": 0}))
    with pytest.raises(LofiError, match=r"seeds \[0, 1, 1\]"):
        write_trainings([models[1], models[1]], out)
    write_trainings(models[1:], out)
    table, known = trainings(models[0])
    assert [row["training_seed"] for row in known] == [1, 2]
    flips = table.pivot_table("flip", "training", "pruner", aggfunc="sum")
    mine = small.answers[small.answers["group"] == "main"].astype({"pruner": str})
    for _, row in flips.iterrows():  # the same answers, as it is the same model here
        assert row.to_dict() == mine.groupby("pruner")["flip"].sum().to_dict()


# 3. Variants of the book's own


@pytest.mark.parametrize("chooser", ["lofi", "random"])
def test_compensation_restores_what_it_says(chooser: str) -> None:
    X = torch.randn(1, 60, 8, generator=torch.Generator().manual_seed(0)) + 2
    energy = Compensated(keep=0.5, chooser=chooser, restore="energy")(VisualTokens(X))
    moments = Compensated(keep=0.5, chooser=chooser, restore="covariance")(VisualTokens(X))
    assert energy.tokens and moments.tokens
    assert torch.equal(energy.kept[0], get_pruner(chooser, keep=0.5)(VisualTokens(X)).kept[0])
    torch.testing.assert_close(energy.tokens[0].square().sum(), X.square().sum())
    torch.testing.assert_close(moments.tokens[0].mean(0), X[0].mean(0))
    C, new = (x.double().T.cov(correction=0) for x in (X[0], moments.tokens[0]))
    before = X[0, moments.kept[0]].double().T.cov(correction=0)
    # the ridge is 1 % of the mean variance, and stands on both sides
    assert (new - C).norm() < 0.03 * C.norm() < (before - C).norm()


# 4. What is refused on loading


def test_other_files_are_refused(tmp_path: Path, done: tuple[Path, Path]) -> None:
    with pytest.raises(LofiError, match="make experiments"):
        load(tmp_path)
    copy = tmp_path / "copy"
    shutil.copytree(done[1], copy)
    path = copy / "experiment.json"
    experiment = json.loads(path.read_text())
    path.write_text(json.dumps(experiment | {"schema": 0}))
    with pytest.raises(LofiError, match="schema 0; expected"):
        load(copy)
    path.write_text(json.dumps(experiment))
    table = pq.read_table(copy / "sites.parquet")
    pq.write_table(table.replace_schema_metadata({"lofi.experiment": "0"}), copy / "sites.parquet")
    with pytest.raises(LofiError, match="differ from their SHA-256"):
        load(copy)


# 5. What is committed


@pytest.fixture(scope="module")
def committed() -> Results:
    return load()


def test_size() -> None:
    names = ["experiment.json", *json.loads((FOLDER / "experiment.json").read_text())["sha256"]]
    assert sum((FOLDER / name).stat().st_size for name in names) < LIMIT


def test_every_pruner_budget_and_seed_is_there(committed: Results) -> None:
    arms = committed.arms[committed.arms["group"] == "main"]
    before = arms[arms["how"] != "inside"]
    assert before.groupby("label")["budget"].unique().map(len).eq(len(BUDGETS)).all()
    assert set(arms.loc[arms["label"] == "random", "seed"]) == set(SEEDS)
    assert set(arms["label"]) >= {"random", "uniform", "pool", "anti-lofi", "lrcp", "lofi"}
    assert set(arms["label"]) <= set(pruner_names())
    asked = committed.answers.groupby(["arm", "family"], observed=True).size().unstack()
    scenes = committed.arms["split"].map(committed.experiment["scenes"])
    assert asked.eq(scenes, axis=0).all(axis=None)


def test_measured_budgets_are_those_asked_for(committed: Results) -> None:
    answers = committed.answers[committed.answers["group"].isin(["main", "chosen", "ablation"])]
    measured = answers.groupby("arm")["budget_measured"].mean()
    asked = committed.arms["budget"].reindex(measured.index)
    off = (measured - asked).abs()
    labels = committed.arms["label"].reindex(off.index)
    # Half a token of 144; DART takes 8 at a time; a smaller picture has a whole grid of tokens.
    allowed = labels.map({"dart": 0.03, "downsample": 0.06}).astype(float).fillna(0.005)
    assert (off < allowed).all()


def test_variants_were_chosen_on_validation(committed: Results) -> None:
    assert set(best_variants(committed.variants)) == set(CHOSEN)
    assert set(committed.arms.loc[committed.arms["group"] == "ablation", "split"]) == {"validation"}


@pytest.mark.slow
def test_a_random_part_is_what_the_model_says_now(committed: Results) -> None:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(runs, "BLOCK", 20)
        result = check(committed, commit_seed(), arms=8)
    print(result)
    assert result.answers > 1000 and result.distance <= result.tolerance


def test_changed_results_are_noticed(committed: Results, monkeypatch: pytest.MonkeyPatch) -> None:
    """One flipped answer, one moved token, one figure: each is out of tolerance."""
    from book.experiments import check as module

    assert plan() and SCENES["test"] >= SITE_SCENES
    words = pd.DataFrame(
        {
            "same": [True] * 3,
            "inside": [False] * 3,
            "predicted": [0, 1, 2],
            "predicted_new": [0, 1, 2],
            "margin": [0.9] * 3,
            "distance": [0.0] * 3,
            "probabilities": [np.array([0.9, 0.1])] * 3,
            "probabilities_new": [np.array([0.9, 0.1])] * 3,
        }
    )
    images = pd.DataFrame({"same": [True] * 3})
    sites = pd.DataFrame({"ipr": [0.5], "ipr_new": [0.5]})
    tables = {"answers": words, "images": images, "sites": sites}
    assert module._judge({}, [tables], 1e-5).other_answers == 0
    for name, change in (
        ("answers", words.assign(predicted_new=[0, 1, 3])),
        ("answers", words.assign(distance=[0.0, 0.0, 0.01])),
        ("images", images.assign(same=[True, True, False])),
        ("sites", sites.assign(ipr_new=[0.52])),
    ):
        with pytest.raises(LofiError, match="stale"):
            module._judge({}, [tables | {name: change}], 1e-5)
