"""The runner: same answers as asking one by one, and the same table however it was interrupted."""

import os
import random
import signal
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch
from transformers import AutoModelForImageTextToText, AutoProcessor

from book.training.scene import build
from lofi_core.errors import LofiError
from lofi_core.evaluation import records as records_module
from lofi_core.evaluation.__main__ import main
from lofi_core.evaluation.arms import UNPRUNED, Arm, Condition, arms
from lofi_core.evaluation.asking import ask, ask_arms
from lofi_core.evaluation.block import Block
from lofi_core.evaluation.consistency import compare
from lofi_core.evaluation.questions import Question, Scene
from lofi_core.evaluation.records import SCHEMA, read_records
from lofi_core.evaluation.run import evaluate
from lofi_core.pruners import AveragePool, FastV, LoFi, Norm, Random, ScorePruner, VisualTokens
from lofi_core.scenes.vqa import SceneVQA

DATA = SceneVQA("validation")
PRUNERS = [LoFi(keep=0.25), Random(keep=0.5, seed=1)]
SCENES = 3  # in two blocks


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """An untrained SceneVLM with large weights, so that its answers depend on the tokens."""
    path = tmp_path_factory.mktemp("model")
    torch.manual_seed(0)
    model = build.llava(build.clip())
    for parameter in model.parameters():
        if parameter.ndim > 1:
            parameter.data = torch.randn(parameter.shape) * (1.5 / parameter[0].numel() ** 0.5)
    model.save_pretrained(path)
    build.processor().save_pretrained(path)
    return path


@pytest.fixture(scope="module")
def loaded(folder: Path) -> tuple[Any, Any]:
    model = AutoModelForImageTextToText.from_pretrained(folder).eval()
    return model, AutoProcessor.from_pretrained(folder)


def run(loaded: tuple[Any, Any], out: Path, **changes: Any) -> Path | None:
    settings = {"data": "SceneVQA('validation', seed=0)", "n": SCENES, "images_per_batch": 2}
    settings = {"scenes": DATA, "pruners": PRUNERS, "folder": out} | settings | changes
    return evaluate(*loaded, **settings)


@pytest.fixture(scope="module")
def table(loaded: tuple[Any, Any], tmp_path_factory: pytest.TempPathFactory) -> pa.Table:
    """What an undisturbed run of one process ends in."""
    path = run(loaded, tmp_path_factory.mktemp("whole"))
    assert path is not None
    return same_always(path)


def same_always(path: Path) -> pa.Table:
    return pq.read_table(path).drop_columns("seconds")


def command(folder: Path, out: Path, **environment: str) -> subprocess.Popen[bytes]:
    """Start the command line in a process of its own, on the run that `table` made."""
    options = f"--model {folder} --split validation --scenes {SCENES} --images-per-batch 2"
    environment = {"OMP_NUM_THREADS": str(torch.get_num_threads())} | environment
    code = "import sys; sys.path[:0] = ['tests', 'tests/evaluation']; "
    code += "import test_evaluate as t; t.command_line()"
    words = [sys.executable, "-c", code, str(out), *options.split()]
    return subprocess.Popen(words, env=os.environ | environment)


def command_line() -> None:
    """Run the command line with this file's pruners; kill -9 in the block that KILL_IN names."""
    import lofi_core.evaluation.__main__
    import lofi_core.evaluation.run

    blocks = iter(range(SCENES))

    def dying(*block: Any) -> Any:
        if os.environ.get("KILL_IN") == str(next(blocks)):
            os.kill(os.getpid(), signal.SIGKILL)
        return Block(*block)

    vars(lofi_core.evaluation.__main__).update(arms=lambda *_: PRUNERS)
    vars(lofi_core.evaluation.run).update(Block=dying)
    main(sys.argv[1:])


# 1. The answers


@dataclass(frozen=True, kw_only=True)
class Counting(ScorePruner):
    """Norm, and how many images it was shown."""

    seen: list[int]

    def scores(self, tokens: VisualTokens) -> torch.Tensor:
        self.seen.append(len(tokens.projected))
        return tokens.projected.norm(dim=-1)


def test_answers_are_those_of_asking_each_question(loaded: tuple[Any, Any]) -> None:
    model, processor = loaded
    scenes = [DATA[i] for i in range(3)]
    every = [UNPRUNED, LoFi(keep=0.25), Random(keep=0.5, seed=3), AveragePool(keep=0.1)]
    rows = pd.DataFrame(ask_arms(model, processor, scenes, every))
    for arm, pruner in enumerate(every):
        mine = rows[rows.arm == arm].reset_index()
        asked = ask(model, processor, scenes, None if arm == 0 else pruner)
        columns = ["scene", "family", "question", "answer", "predicted", "right", "tokens"]
        pd.testing.assert_frame_equal(mine[columns], asked[columns])
        for p, q in zip(mine.probabilities, asked.probabilities, strict=True):
            assert p == pytest.approx(q, abs=1e-5)
        kept = [len(crops[0]) for crops in mine.kept]
        assert kept == mine.tokens.tolist() == (mine.budget_measured * 144).tolist()
    assert (rows[rows.arm == 0].predicted.values != rows[rows.arm == 1].predicted.values).any()
    unpruned = rows[rows.arm == 0]
    assert (unpruned.ipr_before == unpruned.ipr_after).all()
    assert rows.margin.between(0, 1).all()


def test_each_image_is_encoded_and_chosen_from_once(loaded: tuple[Any, Any]) -> None:
    model, processor = loaded
    encoded: list[int] = []
    hook = model.model.vision_tower.register_forward_pre_hook(
        lambda _, args, kwargs: encoded.append(len(args[0] if args else kwargs["pixel_values"])),
        with_kwargs=True,
    )
    counting = Counting(keep=0.5, seen=[])
    try:
        rows = ask_arms(model, processor, [DATA[i] for i in range(3)], [UNPRUNED, counting, Norm()])
    finally:
        hook.remove()
    assert (encoded, counting.seen) == ([3], [3])
    assert len(rows) == 3 * 3 * 7


def test_pruners_inside_the_language_model(loaded: tuple[Any, Any]) -> None:
    rows = pd.DataFrame(ask_arms(*loaded, [DATA[0]], [UNPRUNED, FastV(keep=0.75)]))
    inside = rows[rows.arm == 1]
    assert (inside.tokens <= 0.75 * 144).all() and (inside.tokens > 0.7 * 144).all()
    assert inside.kept.isna().all()


def test_kinds_of_questions_side_by_side(loaded: tuple[Any, Any]) -> None:
    """Choices, free text and choices that begin alike, in one block: as if asked one by one."""
    image, (first, *_) = DATA[0].image, DATA[0].questions
    open_ended = Question("free", "What color is it?", "red")
    alike = Question("alike", "What color is it?", "red circle", ("red circle", "red cross"))
    questions = (open_ended, first, alike)
    together = ask(*loaded, [Scene("all", image, questions)], LoFi(keep=0.25))
    assert together.family.tolist() == ["free", first.family, "alike"]
    assert together.probabilities.map(len).tolist() == [0, len(first.choices), 0]
    assert together.kept.map(str).nunique() == 1 and together.margin.between(0, 1).all()
    for number, q in enumerate(questions):
        (alone,) = ask(*loaded, [Scene("one", image, (q,))], LoFi(keep=0.25)).to_dict("records")
        row = together.iloc[number]
        assert (row.predicted, row.right) == (alone["predicted"], alone["right"])
        assert row.margin == pytest.approx(alone["margin"], abs=1e-5)


def test_another_dtype_is_that_of_loading_in_it(folder: Path, loaded: tuple[Any, Any]) -> None:
    """Rotary frequencies stay in float32, as when weights are loaded in bfloat16."""
    model = AutoModelForImageTextToText.from_pretrained(folder, dtype=torch.bfloat16).eval()
    scenes = [DATA[0]]
    arm = Arm(condition=Condition(dtype="bfloat16"))
    cast, known = ask(*loaded, scenes, arm), ask(model, loaded[1], scenes)
    assert cast.probabilities.tolist() == known.probabilities.tolist()
    assert cast.probabilities.tolist() != ask(*loaded, scenes).probabilities.tolist()
    assert loaded[0].dtype == torch.float32


def test_conditions_change_nothing_but_rounding(loaded: tuple[Any, Any]) -> None:
    scenes = [DATA[i] for i in range(3)]
    plain = ask(*loaded, scenes)
    for condition in (
        Condition(packed=False),
        Condition(packed=False, questions_per_batch=4),
        Condition(packed=False, padding=7),
        Condition(images_per_batch=2),
        Condition(attention="eager"),
        Condition(dtype="float64"),
    ):
        table = ask(*loaded, scenes, Arm(condition=condition))
        assert table.predicted.tolist() == plain.predicted.tolist()
        for p, q in zip(table.probabilities, plain.probabilities, strict=True):
            assert p == pytest.approx(q, abs=1e-4)
    assert loaded[0].config.get_text_config()._attn_implementation == "sdpa"


def test_what_cannot_be_asked(loaded: tuple[Any, Any]) -> None:
    scenes = [DATA[0]]
    bare = Scene("bare", scenes[0].image, ())
    for message, given, options in (
        ("expected at least 1", scenes, {"images_per_batch": 0}),
        ("expected at least 1", scenes, {"images_per_batch": -1}),
        ("0 scenes", [], {}),
        ("1 of them without a question", [bare], {}),
        ("expected a Pruner", scenes, {"pruner": "lofi"}),
        ("row of its own", scenes, {"pruner": Arm(pruner=FastV(keep=0.75), measured=1)}),
    ):
        with pytest.raises(LofiError, match=message):
            ask(*loaded, given, **options)


# 2. The table


def test_records(table: pa.Table) -> None:
    assert table.num_rows == 3 * SCENES * 7
    rows = table.to_pandas()
    assert rows.equals(rows.sort_values(["arm", "image", "number"]))
    none, lofi, drawn = (rows[rows.arm == arm] for arm in range(3))
    assert set(none.pruner) == {"none"} and set(none.tokens) == {144}
    assert set(zip(lofi.pruner, lofi.budget, lofi.budget_measured, strict=True)) == {
        ("lofi", 0.25, 0.25)
    }
    assert set(drawn.parameters) == {"Random(keep=0.5, seed=1)"} and set(drawn.seed) == {1}
    assert lofi.seed.isna().all()
    assert rows.scene.unique().tolist() == [f"validation-0-{i}" for i in range(SCENES)]
    assert set(rows["dtype"]) == {"float32"}
    result = compare(none, lofi)
    assert result.flip_rate.value > 0 and result.jensen_shannon.value > 0


@pytest.mark.parametrize("moment", range(6))
def test_a_run_that_dies_before_any_rename_resumes(
    loaded: tuple[Any, Any], tmp_path: Path, table: pa.Table, moment: int
) -> None:
    """Plan, its arms, two parts, table, its digest: the run dies just before each file appears."""
    left = iter(range(moment))
    rename = os.replace

    def dying(source: Path, target: Path) -> None:
        if next(left, None) is None:
            raise KeyboardInterrupt
        rename(source, target)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(records_module.os, "replace", dying)
        with pytest.raises(KeyboardInterrupt):
            run(loaded, tmp_path)
    assert (tmp_path / "records.parquet").exists() == (moment == 5)
    assert len(list((tmp_path / "parts").glob("*.parquet"))) == max(0, min(moment - 2, 2))
    path = run(loaded, tmp_path)
    assert path is not None and same_always(path).equals(table)


def test_parts_of_several_processes(
    loaded: tuple[Any, Any], tmp_path: Path, table: pa.Table, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("WORLD_SIZE", "3")
    paths = []
    for rank in (2, 1, 0):  # the first has nothing to do
        monkeypatch.setenv("RANK", str(rank))
        paths.append(run(loaded, tmp_path))
    assert paths[:2] == [None, None]
    assert paths[2] is not None and same_always(paths[2]).equals(table)


@pytest.mark.slow
def test_a_killed_process_is_resumed(
    loaded: tuple[Any, Any], folder: Path, tmp_path: Path, table: pa.Table
) -> None:
    assert command(folder, tmp_path, KILL_IN="1").wait() == -signal.SIGKILL
    assert len(list((tmp_path / "parts").iterdir())) == 1
    path = run(loaded, tmp_path)
    assert path is not None and same_always(path).equals(table)


@pytest.mark.slow
def test_two_processes_make_the_table_of_one(folder: Path, tmp_path: Path, table: pa.Table) -> None:
    both = [command(folder, tmp_path, RANK=rank, WORLD_SIZE="2") for rank in "01"]
    assert [process.wait() for process in both] == [0, 0]
    assert same_always(tmp_path / "records.parquet").equals(table)


# 3. What is refused


def test_another_run_is_refused(loaded: tuple[Any, Any], tmp_path: Path) -> None:
    run(loaded, tmp_path, n=1)
    for change in ({"n": 2}, {"images_per_batch": 3}, {"data": "other"}):
        with pytest.raises(LofiError, match="holds another run"):
            run(loaded, tmp_path, **{"n": 1} | change)
    weight = loaded[0].lm_head.weight
    kept = weight.data[0, 0].clone()
    weight.data[0, 0] += 1
    with pytest.raises(LofiError, match="weights"):
        run(loaded, tmp_path, n=1)
    weight.data[0, 0] = kept


def test_damaged_parts_are_refused(loaded: tuple[Any, Any], tmp_path: Path) -> None:
    settings = {"n": 2, "images_per_batch": 1}
    path = run(loaded, tmp_path, **settings)
    assert path is not None
    whole = same_always(path)
    part, other = sorted((tmp_path / "parts").iterdir())
    content = part.read_bytes()
    generator = random.Random(0)
    for _ in range(40):  # one flipped bit, anywhere
        place = generator.randrange(len(content))
        flipped = bytearray(content)
        flipped[place] ^= 1 << generator.randrange(8)
        part.write_bytes(flipped)
        with pytest.raises(LofiError, match="delete the file and run the same command again"):
            run(loaded, tmp_path, **settings)
    part.write_bytes(other.read_bytes())  # the part of another block
    with pytest.raises(LofiError, match="delete the file"):
        run(loaded, tmp_path, **settings)
    part.unlink()
    again = run(loaded, tmp_path, **settings)
    assert again == path and same_always(path).equals(whole)


def test_a_damaged_table_is_refused(loaded: tuple[Any, Any], tmp_path: Path) -> None:
    path = run(loaded, tmp_path, n=1)
    assert path is not None and len(read_records(path)) == 3 * 7
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 1
    path.write_bytes(content)
    with pytest.raises(LofiError, match="differs from its SHA-256"):
        read_records(path)


def test_parts_of_another_run_are_refused(loaded: tuple[Any, Any], tmp_path: Path) -> None:
    run(loaded, tmp_path / "a", n=1)
    run(loaded, tmp_path / "b", n=1, data="other")
    (part,), (strange,) = ((tmp_path / name / "parts").iterdir() for name in "ab")
    (tmp_path / "a" / "parts" / strange.name).write_bytes(strange.read_bytes())
    part.unlink()
    with pytest.raises(LofiError, match="a part of another run"):
        run(loaded, tmp_path / "a", n=1)


def test_an_arm_is_added_to_a_run(loaded: tuple[Any, Any], tmp_path: Path, table: pa.Table) -> None:
    run(loaded, tmp_path, pruners=PRUNERS[:1])
    path = run(loaded, tmp_path)
    assert path is not None and same_always(path).equals(table)
    path = run(loaded, tmp_path, pruners=[Norm(keep=0.25)])
    assert path is not None and read_records(path).arm.nunique() == 4


def test_weights_that_are_not_numbers(loaded: tuple[Any, Any]) -> None:
    weight = loaded[0].lm_head.weight
    kept = weight.data[0, 0].clone()
    weight.data[0, 0] = float("nan")
    try:
        with pytest.raises(LofiError, match=r"replies of .* in float32 have logits that are NaN"):
            ask(*loaded, [DATA[0]])
    finally:
        weight.data[0, 0] = kept


def test_a_stopped_run_says_how_to_go_on(
    loaded: tuple[Any, Any], tmp_path: Path, table: pa.Table
) -> None:
    def stopping(*block: Any) -> Any:
        if block[2][0].id.endswith("-2"):
            raise KeyboardInterrupt
        return Block(*block)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("lofi_core.evaluation.run.Block", stopping)
        with pytest.raises(KeyboardInterrupt, match="stopped after 1 of 2 blocks"):
            run(loaded, tmp_path)
    path = run(loaded, tmp_path)
    assert path is not None and same_always(path).equals(table)


def test_what_can_be_checked_is_checked_before_a_model_is_loaded(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    file = tmp_path / "file"
    file.write_text("x")
    for words in (
        [str(tmp_path / "a"), "--model", "/no/such", "--pruners", "lofy"],
        [str(file), "--model", "/no/such"],
    ):
        with pytest.raises(SystemExit, match="2"):
            main(words)
        message = capsys.readouterr().err
        assert message.startswith("error: ") and "/no/such" not in message
    for options in (["--model", "/no/such"], ["--attention", "none"], ["--device", "cuda:99"]):
        with pytest.raises(SystemExit, match="2"):
            main([str(tmp_path / "a"), *options])
        message = capsys.readouterr().err.strip().splitlines()[-1]
        assert message.startswith("error: evaluate: ") and "expected a folder or hub id" in message


def test_other_schemas_are_refused(tmp_path: Path) -> None:
    path = tmp_path / "x.parquet"
    with pytest.raises(LofiError, match="expected a Parquet file"):
        read_records(path)
    path.write_text("no parquet")
    with pytest.raises(LofiError, match="expected a Parquet file"):
        read_records(path)
    for schema in (
        pa.schema([("a", pa.int8())]),
        SCHEMA.with_metadata({"lofi_core.records": "0"}),
    ):
        pq.write_table(schema.empty_table(), path)
        with pytest.raises(LofiError, match="expected schema 2"):
            read_records(path)
    pq.write_table(SCHEMA.empty_table(), path)
    assert list(read_records(path).columns) == SCHEMA.names


def test_places_and_sizes_that_do_not_fit(
    loaded: tuple[Any, Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for change in ({"n": 0}, {"images_per_batch": 0}, {"n": len(DATA) + 1}):
        with pytest.raises(LofiError, match="expected at least one of each"):
            run(loaded, tmp_path, **change)
    monkeypatch.setenv("RANK", "2")
    with pytest.raises(LofiError, match="RANK=2, WORLD_SIZE=1"):
        run(loaded, tmp_path)


def test_arms_and_help(capsys: pytest.CaptureFixture[str]) -> None:
    made = arms(["lofi", "random"], [0.5, 0.1], seeds=[0, 7])
    assert [pruner.keep for pruner in made] == [0.5, 0.1, 0.5, 0.5, 0.1, 0.1]
    assert [getattr(pruner, "seed", None) for pruner in made[2:]] == [0, 7, 0, 7]
    with pytest.raises(SystemExit, match="0"):
        main(["--help"])
    text = capsys.readouterr().out
    assert "Kill it whenever you like" in text and "accelerate launch" in text
