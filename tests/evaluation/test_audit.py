"""The audit: from files to a decision, and a rule that is right where the truth is known."""

import io
import json
import re
import sys
from collections.abc import Iterable
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
from PIL import Image
from typer.testing import CliRunner

from lofi_core import scene_vlm
from lofi_core.errors import LofiError
from lofi_core.evaluation.asking import ask
from lofi_core.evaluation.audit import ALONE, Audit, Audited, audit
from lofi_core.evaluation.cli import app
from lofi_core.evaluation.data import read_rows, scenes_from_rows
from lofi_core.evaluation.decision import Decision, decide, worst
from lofi_core.evaluation.records import read_records
from lofi_core.pruners import DeflatedLoFi, get_pruner
from lofi_core.scenes.vqa import SceneVQA

SCENES = 12
BUDGETS = (0.5, 0.05)


def lines(path: Path, rows: Iterable[Any]) -> Path:
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return path


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Twelve scenes as PNG files, with their questions as JSON lines."""
    folder = tmp_path_factory.mktemp("data")
    rows = []
    for i in range(SCENES):
        scene = SceneVQA("validation")[i]
        (folder / "png").mkdir(exist_ok=True)
        scene.image.save(folder / "png" / f"{i}.png")
        for q in scene.questions:
            row = {"image": f"png/{i}.png", "question": q.text, "choices": list(q.choices)}
            rows.append(row | {"answer": q.answer, "group": q.family})
    return lines(folder / "my.jsonl", rows)


def lofi(*words: object) -> Any:
    return CliRunner().invoke(app, [str(word) for word in words])


@pytest.fixture(scope="module")
def report(data: Path, tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Any]:
    """What one command makes of the files; nothing else is asked of the user."""
    out = tmp_path_factory.mktemp("out") / "report"
    budgets = [word for budget in BUDGETS for word in ("--budget", budget)]
    words = ["audit", "--data", data, "--out", out, "--pruner", "deflated-lofi", *budgets]
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(sys, "argv", ["lofi", *map(str, words)])
        return out, lofi(*words, "--device", "cpu")


# 1. From files to a report


def test_one_command_from_files_to_a_report(report: tuple[Path, Any]) -> None:
    out, result = report
    found = json.loads((out / "report.json").read_text())
    assert (
        result.exit_code == {"pass": 0, "warn": 0, "block": 1, "inconclusive": 2}[found["verdict"]]
    )
    assert found["verdict"] == worst([r["decision"]["verdict"] for r in found["results"]])
    assert [r["budget"] for r in found["results"]] == [*BUDGETS]
    assert [r["decision"]["images"] for r in found["results"]] == [SCENES] * 2
    assert [r["decision"]["questions"] for r in found["results"]] == [SCENES * 7] * 2
    assert found["command"].startswith("lofi audit --data ")
    assert {"torch", "transformers", "python", "weights"} <= found["facts"].keys()


def test_its_numbers_are_those_of_asking(report: tuple[Path, Any], data: Path) -> None:
    found = json.loads((report[0] / "report.json").read_text())
    model, processor = scene_vlm.load()
    scenes = read_rows(data)
    before = ask(model, processor, scenes)
    for result, keep in zip(found["results"], BUDGETS, strict=True):
        after = ask(model, processor, scenes, DeflatedLoFi(keep=keep))
        changed = (before.predicted != after.predicted).to_numpy()
        d = result["decision"]
        assert d["flipped"] == changed.sum() == len(result["flips"])
        assert d["flips"]["value"] == pytest.approx(changed.mean())
        broken, repaired = (before.right & ~after.right), (~before.right & after.right)
        assert d["accuracy"]["broken"]["value"] == pytest.approx(broken.mean())
        assert d["accuracy"]["repaired"]["value"] == pytest.approx(repaired.mean())
        kinds = [flip["kind"] for flip in result["flips"]]
        assert (kinds.count("broken"), kinds.count("repaired")) == (broken.sum(), repaired.sum())
        groups = {group["group"]: group["flips"] for group in d["groups"]}
        assert groups == pytest.approx(
            before.assign(f=changed).groupby("family").f.mean().to_dict()
        )
    assert found["results"][1]["decision"]["flipped"] > 0, "a budget of 0.05 flips something"


class Page(HTMLParser):
    """What a page holds: its tags, what they load, and its text."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.tags: list[str] = []
        self.loads: list[str] = []
        self.words: list[str] = []
        self.open: list[str] = []
        self.feed(text)

    def handle_starttag(self, tag: str, attributes: list[tuple[str, str | None]]) -> None:
        self.tags.append(tag)
        self.loads += [v or "" for name, v in attributes if name in ("src", "href", "data")]
        if tag not in ("meta", "img", "line", "circle", "path"):
            self.open.append(tag)

    def handle_startendtag(self, tag: str, attributes: list[tuple[str, str | None]]) -> None:
        self.tags.append(tag)

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag

    def handle_data(self, data: str) -> None:
        self.words.append(data)


def test_page_stands_alone_and_reads_back(report: tuple[Path, Any]) -> None:
    text = (report[0] / "report.html").read_text()
    found = json.loads((report[0] / "report.json").read_text())
    page = Page(text)
    assert not page.open, "every tag is closed"
    assert all(source.startswith("data:image/png;base64,") for source in page.loads)
    assert "://" not in re.sub(r"base64,[^\"]*", "", text), "no other host"
    assert "@import" not in text and "url(" not in text
    flips = [flip for result in found["results"] for flip in result["flips"][:24]]
    assert page.tags.count("img") == len(flips) > 0 and "svg" in page.tags
    words = "".join(page.words)
    assert all(flip["question"] in words and flip["pruned"] in words for flip in flips)
    assert all(f"{r['decision']['at_most']:.2%}" in words for r in found["results"])
    assert "prefers-color-scheme: dark" in text and "width=device-width" in text
    summary = (report[0] / "report.md").read_text()
    assert summary.startswith(f"# Pruning audit: {found['verdict']}\n")
    assert all(f"{r['decision']['at_most']:.2%}" in summary for r in found["results"])


def test_a_picture_shows_the_patches_that_were_kept(data: Path) -> None:
    """Faded pixels and only they differ from the picture, in 144 - kept patches of 12 x 12."""
    made = run(read_rows(data), keep=0.05, n=4)
    flip = made.results[0].flips[0]

    shown = np.asarray(Image.open(io.BytesIO(flip.png)).convert("RGB"), dtype=int)
    full = np.asarray(Image.open(data.parent / flip.image).convert("RGB"), dtype=int)
    assert shown.shape == full.shape == (144, 144, 3)
    same = (shown == full).all(-1).reshape(12, 12, 12, 12).all((1, 3))
    assert same.sum() == round(made.results[0].tokens * 144)


def test_an_audit_resumes_and_adds_budgets(data: Path, tmp_path: Path) -> None:
    first = run(read_rows(data), folder=tmp_path, n=3)
    parts = sorted((tmp_path / "parts").iterdir())
    both = run(read_rows(data), folder=tmp_path, n=3, budgets=[0.5, 0.25])
    assert set(parts) < set((tmp_path / "parts").iterdir()), "no answer was asked for twice"
    assert both.results[0].decision.flipped == first.results[0].decision.flipped
    records = read_records(tmp_path / "records.parquet")
    assert (records["parameters"] == repr(ALONE)).sum() == 3 * 7


def run(rows: Any, keep: float = 0.5, **options: Any) -> Audit:
    pruners = ["deflated-lofi"] if "budgets" in options else [DeflatedLoFi(keep=keep)]
    made = audit(*scene_vlm.load(), rows, pruners, **options)
    assert made is not None
    return made


def test_rows_without_truth_and_without_choices(data: Path) -> None:
    """Free text and closed questions together; accuracy is reported where truth is known only."""
    first, second = (data.parent / "png" / f"{i}.png" for i in (0, 1))
    rows = [
        {"image": first, "question": "how many circles are there ?"},
        {"image": Image.open(second), "question": "is there a circle ?", "choices": ["yes", "no"]},
    ]
    made = run(rows)
    assert made.results[0].decision.accuracy is None
    assert {flip.kind for flip in made.results[0].flips} <= {"changed"}
    assert made.results[0].decision.verdict == "inconclusive"


def test_keeping_every_token_flips_nothing(data: Path) -> None:
    made = audit(*scene_vlm.load(), read_rows(data), ["random"], [1.0], n=2)
    assert made is not None and made.results[0].decision.flipped == 0


# 2. The rule, where the truth is known


def table(flips: np.ndarray, answer: str = "a") -> pd.DataFrame:
    """Answers to (images, questions): "a" is what the unpruned model says, "b" a flip."""
    images, questions = flips.shape
    return pd.DataFrame(
        {
            "scene": np.repeat(np.arange(images), questions),
            "family": np.tile([f"family {j % 2}" for j in range(questions)], images),
            "question": np.tile([f"question {j}" for j in range(questions)], images),
            "answer": answer,
            "predicted": np.where(flips.ravel(), "b", "a"),
            "right": ~flips.ravel() & (answer == "a"),
        }
    )


def rule(
    rate: float, images: int, noise: float = 0.0, answer: str = "a", **options: Any
) -> Decision:
    """Decide on flips drawn with a known rate, beside a floor drawn with a known rate."""
    rng = np.random.default_rng(7)
    none = np.zeros((images, 4), dtype=bool)
    flips, floor = (rng.random(none.shape) < p for p in (rate, noise))
    return decide(*(table(x, answer) for x in (none, flips, floor)), draws=20, **options)


def test_rule_passes_what_flips_nothing_on_enough_images() -> None:
    d = rule(0.0, 400)
    assert d.verdict == "pass" and d.at_most <= 0.01
    assert d.accuracy is not None and d.accuracy.equivalent


def test_rule_blocks_what_flips_far_more_than_the_limit() -> None:
    d = rule(0.2, 400)
    assert d.verdict == "block" and 0.01 < d.excess_at_least < 0.2


def test_rule_is_inconclusive_on_few_images_and_says_how_many_settle_it() -> None:
    d = rule(0.0, 50)
    assert d.verdict == "inconclusive" and d.images_to_settle is not None
    assert rule(0.0, int(0.9 * d.images_to_settle)).verdict == "inconclusive"
    assert rule(0.0, d.images_to_settle).verdict == "pass"


def test_rule_does_not_block_for_noise() -> None:
    """The unpruned model flips as much by itself: nothing that pruning could be blamed for."""
    d = rule(0.1, 400, noise=0.1)
    assert d.at_least > 0.01 and d.verdict != "block"
    same = np.random.default_rng(0).random((2000, 4)) < 0.1
    none = np.zeros_like(same)
    assert decide(table(none), table(same), table(same), draws=20).verdict == "warn"


def test_rule_warns_of_a_group_of_skipped_rows_and_of_accuracy() -> None:
    none = np.zeros((3000, 20), dtype=bool)
    flips = none.copy()
    flips[::8, 1] = True  # one question in twenty, in the odd family: 0.6 % of all, 1.25 % of it
    d = decide(table(none), table(flips), table(none), limit=0.009, draws=20)
    assert d.verdict == "warn" and any("family 1" in reason for reason in d.reasons)
    assert rule(0.0, 400, skipped=1).verdict == "warn"
    assert decide(table(none), table(none), table(none), draws=20).verdict == "pass"


def test_rule_needs_no_truth() -> None:
    assert rule(0.0, 400, answer="").accuracy is None
    assert rule(0.2, 400, answer="").verdict == "block"


def test_equivalence_is_not_shown_by_too_few_images() -> None:
    """No difference is seen, which is no proof of equality."""
    d = rule(0.0, 20)
    assert d.accuracy is not None and d.accuracy.change.value == 0 and not d.accuracy.equivalent


@pytest.mark.slow
@pytest.mark.parametrize("rate, wrong", [(0.02, "pass"), (0.01, "block")])
def test_rule_errs_as_seldom_as_it_says(rate: float, wrong: str) -> None:
    """Passing what is above the limit, or blocking what is at it: at most 5 % of 100 runs.

    With an error of 5 %, eleven or more of 100 have a probability of 1.1 %; bounds err less.
    """
    none, errors = np.zeros((200, 2), dtype=bool), 0
    for seed in range(100):
        flips = np.random.default_rng(seed).random(none.shape) < rate
        errors += decide(table(none), table(flips), table(none), draws=1).verdict == wrong
    assert errors <= 10


@pytest.mark.parametrize("options", [{"limit": 0}, {"limit": 1}, {"delta": 0.5}, {"delta": -1}])
def test_rule_refuses_levels_out_of_range(options: dict[str, float]) -> None:
    with pytest.raises(LofiError, match="expected"):
        rule(0.0, 10, **options)


def test_smallest_budget_stops_at_the_first_that_fails() -> None:
    good, bad = rule(0.0, 400), rule(0.2, 400)

    def smallest(**decisions: Decision) -> float | None:
        results = [
            Audited("lofi", "", float(f"0.{k[1:]}"), 0.0, d, []) for k, d in decisions.items()
        ]
        return Audit(results, good.flips, 0.01, 0.05, "", [], [], {}, "").smallest["lofi"]

    assert smallest(b5=good, b25=good, b11=bad) == 0.25
    assert smallest(b25=bad, b5=good, b11=good) == 0.5
    assert smallest(b5=bad, b25=good) is None


# 3. Bad input


GOOD = {"image": Image.new("RGB", (8, 8)), "question": "what is this ?"}


@pytest.mark.parametrize(
    "change, said",
    [
        ({"image": None}, "without"),
        ({"image": 3}, "image is 3"),
        ({"question": " "}, "question is"),
        ({"answer": ["a"]}, "answer is"),
        ({"choices": "yes"}, "choices are"),
        ({"choices": ["yes"]}, "at least two"),
        ({"choices": ["yes", "yes"]}, "each once"),
        ({"choices": ["yes", "no"], "answer": "maybe"}, "not among"),
    ],
)
def test_bad_rows_name_their_place(change: dict[str, Any], said: str) -> None:
    with pytest.raises(LofiError, match=f"row 2: .*{said}"):
        scenes_from_rows([GOOD, GOOD | change])


def test_bad_lines_name_file_and_line(tmp_path: Path) -> None:
    path = tmp_path / "bad.jsonl"
    for text in ("\n{", '\n["image"]', '\n{"image": "a.png"}'):
        path.write_text(text)
        with pytest.raises(LofiError, match=r"bad\.jsonl, line 2: .*expected"):
            read_rows(path)
    with pytest.raises(LofiError, match=r"nowhere\.jsonl.*expected"):
        read_rows(tmp_path / "nowhere.jsonl")


def test_missing_and_broken_pictures_are_counted_and_the_rest_goes_on(tmp_path: Path) -> None:
    Image.new("RGB", (8, 8)).save(tmp_path / "whole.png")
    (tmp_path / "cut.png").write_bytes((tmp_path / "whole.png").read_bytes()[:40])
    (tmp_path / "text.png").write_text("no picture")
    names = ["whole.png", "cut.png", "text.png", "nowhere.png", "whole.png", "."]
    rows = [{"image": name, "question": "what ?", "id": 7} for name in names]
    found = read_rows(lines(tmp_path / "my.jsonl", rows))
    assert len(found) == 1 and found.ignored == ["id"]
    assert [re.search(r"line (\d)", s)[1] for s in found.skipped] == list("23456")  # type: ignore[index]
    assert "no picture nowhere.png" in found.skipped[2] and "second time" in found.skipped[3]
    with pytest.raises(LofiError, match="1 of them skipped"):
        read_rows(lines(tmp_path / "none.jsonl", rows[1:2]))


def test_digest_depends_on_every_pixel_and_word(tmp_path: Path) -> None:
    other = Image.new("RGB", (8, 8))
    other.putpixel((0, 0), (1, 0, 0))
    rows = [GOOD, GOOD | {"image": other}, GOOD | {"question": "what else ?"}]
    assert len({scenes_from_rows([row]).digest for row in rows}) == 3
    assert scenes_from_rows([GOOD]).digest == scenes_from_rows([dict(GOOD)]).digest


@pytest.mark.parametrize(
    "words, said",
    [
        (["--data", "DATA", "--pruner", "lofy"], "lofy"),
        (["--data", "DATA", "--budget", "2"], "2.0"),
        (["--data", "DATA", "--budget", "half"], "--budget"),
        (["--data", "DATA", "--limit", "0"], "limit"),
        (["--data", "DATA", "--dtype", "int8"], "int8"),
        (["--data", "DATA", "--model", "no/such/folder"], "no/such/folder"),
        (["--data", "nowhere.jsonl"], "nowhere.jsonl"),
        (["--data", "scenevqa"], "scenevqa:N"),
        (["--data", "scenevqa:1"], "at least 2"),
        (["--data", "DATA", "--out", "DATA"], "is a file"),
        ([], "--data"),
    ],
)
def test_mistakes_are_one_line_and_status_3(
    data: Path, tmp_path: Path, words: list[str], said: str
) -> None:
    words = [str(data) if word == "DATA" else word for word in words]
    out = [] if "--out" in words else ["--out", tmp_path / "out"]
    result = lofi("audit", *words, *out)
    assert result.exit_code == 3
    told = [line for line in result.stderr.splitlines() if line.strip()]
    assert len(told) == 1 and told[0].startswith("error: ") and said in told[0]


def test_a_crash_does_not_read_as_a_verdict(tmp_path: Path) -> None:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("lofi_core.evaluation.data.json.loads", lambda _: 1 / 0)
        result = lofi("audit", "--data", lines(tmp_path / "a.jsonl", [1]), "--out", tmp_path / "o")
    assert result.exit_code == 3 and "Traceback" in result.stderr


def test_one_image_is_refused() -> None:
    with pytest.raises(LofiError, match="at least two"):
        audit(None, None, [GOOD], [get_pruner("lofi", keep=0.5)])
    with pytest.raises(LofiError, match="0 pruners"):
        audit(None, None, [GOOD], [])


def test_evaluate_is_forwarded() -> None:
    result = lofi("evaluate", "--help")
    assert result.exit_code == 0 and "--images-per-batch" in result.stdout
