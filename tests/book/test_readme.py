"""The README's code runs, its figures are right, and it lists what there is."""

import re
import textwrap
from pathlib import Path

import pytest
import yaml

from lofi_core import scene_vlm
from lofi_core.evaluation.__main__ import DESCRIPTION
from lofi_core.evaluation.__main__ import main as evaluation_command

ROOT = Path(__file__).resolve().parents[2]
README = (ROOT / "README.md").read_text()


PAGES = [*ROOT.glob("*.md"), *(ROOT / "book").glob("*.md"), *ROOT.glob("lofi_core/**/README.md")]
# A block of Python, and the block of text after it that shows what it prints, if there is one.
BLOCK = re.compile(r"```python\n(.*?)```(?:\s*prints\s*```text\n(.*?)```)?", re.S)
CODE = [
    pytest.param(code, shown, id=f"{page.relative_to(ROOT)}-{number}")
    for page in PAGES
    for number, (code, shown) in enumerate(BLOCK.findall(page.read_text()))
    if not re.search(r"^[!%]", code, re.M)  # magics of a notebook server
]


@pytest.mark.parametrize(("code", "shown"), CODE)
def test_code_on_pages_runs_and_prints_what_is_shown(
    code: str, shown: str, capsys: pytest.CaptureFixture[str]
) -> None:
    exec(compile(code, "page", "exec"), {})
    printed = capsys.readouterr().out
    assert not shown or printed.strip() == shown.strip()


def test_the_readme_shows_an_answer() -> None:
    shown = [shown for _, shown in BLOCK.findall(README) if shown]
    assert shown and re.search(r"\? (yes|no)$", shown[0], re.M)


def test_the_code_that_the_command_line_shows_runs(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """The words of ``--help`` are followed: run the command, then the lines of Python."""
    monkeypatch.chdir(tmp_path)
    small = ["--scenes", "2", "--pruners", "lofi"]
    evaluation_command(["runs/first", *small])
    code = re.search(r"Then, in Python:\n\n(.*)", DESCRIPTION, re.S)
    assert code is not None
    capsys.readouterr()
    exec(compile(textwrap.dedent(code[1]), "help", "exec"), {})
    assert "flip" in capsys.readouterr().out


def test_size_of_the_model() -> None:
    model, _ = scene_vlm.load()
    (stated,) = re.findall(r"LLaVA of ([\d.]+) M parameters", README)
    assert stated == f"{sum(p.numel() for p in model.parameters()) / 1e6:.1f}"


def test_every_chapter_is_listed() -> None:
    toc = yaml.safe_load((ROOT / "_toc.yml").read_text())
    chapters = {c["file"] for part in toc["parts"] for c in part["chapters"]}
    notebooks = {c for c in chapters if c.startswith("notebooks/")}
    assert notebooks and all(f"({c}.ipynb)" in README for c in notebooks)


def test_links_lead_somewhere() -> None:
    for target in re.findall(r"\]\((?!https?:)([^)#]+)", README):
        assert (ROOT / target).exists(), target


def test_make_targets_exist() -> None:
    makefile = (ROOT / "Makefile").read_text()
    for name in re.findall(r"`?make ([a-z-]+)", README):
        assert re.search(rf"^{name}:", makefile, re.M), name
