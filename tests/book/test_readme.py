"""The README's claims hold; Python that pages show runs, and prints what they show."""

import os
import re
import subprocess
import sys
import textwrap
from pathlib import Path

import pytest
import yaml

from lofi_core import scene_vlm

ROOT = Path(__file__).resolve().parents[2]
README = (ROOT / "README.md").read_text()
PAGES = [
    *(ROOT / "README.md", ROOT / "index.md", ROOT / "CONTRIBUTING.md"),
    *sorted((ROOT / "book").glob("*.md")),
    scene_vlm.PATH / "README.md",
]
# a block of Python, and the block of text that shows what it prints, if one follows
BLOCK = re.compile(
    r"^```python\n(.*?)^```\n(?:\n(?:prints\n\n)?```text\n(.*?)^```\n)?", re.M | re.S
)
NUMBER = re.compile(r"\d+\.\d+")
END = "<end of block>"


def blocks(page: Path) -> list[tuple[str, str]]:
    """Each block of Python on a page, with the output that the page shows under it."""
    return BLOCK.findall(page.read_text())


def printed(codes: list[str], folder: Path = ROOT) -> list[str]:
    """What blocks print that are run one after the other, in one interpreter."""
    code = "".join(f"{code}\nprint({END!r})\n" for code in codes)
    env = os.environ | {"PYTHONPATH": str(ROOT)}
    command = [sys.executable, "-W", "error::SyntaxWarning", "-c", code]
    ran = subprocess.run(command, cwd=folder, env=env, capture_output=True, text=True)
    assert ran.returncode == 0, ran.stderr
    return ran.stdout.split(f"{END}\n")[:-1]


def same(shown: str, got: str) -> bool:
    """Compare outputs: words exactly, decimals to 1e-3, durations not at all."""
    shown, got = (re.sub(r"[\d.]+ ms", "some ms", text) for text in (shown, got))
    if NUMBER.sub("x", shown).split() != NUMBER.sub("x", got).split():
        return False
    pairs = zip(NUMBER.findall(shown), NUMBER.findall(got), strict=True)
    return all(abs(float(a) - float(b)) <= 1e-3 for a, b in pairs)


def test_outputs_are_compared() -> None:
    assert same("yes 0.5001 in 3.1 ms\n", "yes  0.5002 in 7 ms")
    assert not same("yes", "no") and not same("0.51", "0.52") and not same("", "</s>")


@pytest.mark.parametrize(
    "page", [page for page in PAGES if blocks(page)], ids=lambda p: str(p.relative_to(ROOT))
)
def test_every_block_runs_and_prints_what_is_shown(page: Path) -> None:
    outputs = printed([code for code, _ in blocks(page)])
    for (code, shown), got in zip(blocks(page), outputs, strict=True):
        assert same(shown, got), f"{page.name}:\n{code}\nprints\n{got}\nbut the page shows\n{shown}"


def test_readme_shows_an_answer() -> None:
    """The page itself, since outputs are only compared with it: a word, no end token."""
    (_, shown), *_ = blocks(ROOT / "README.md")
    assert re.match(r"Is there a red triangle\? (yes|no)\n", shown) and "</s>" not in shown


def test_python_of_the_command_line_help_runs(tmp_path: Path) -> None:
    """As its reader would: the first command, for two scenes, and then the lines of Python."""
    command = [sys.executable, "-m", "lofi_core.evaluation"]
    options = {"cwd": tmp_path, "capture_output": True, "text": True}
    env = os.environ | {"PYTHONPATH": str(ROOT)}
    told = subprocess.run([*command, "--help"], env=env, **options).stdout  # type: ignore[call-overload]
    example = re.search(r"^ *python -m lofi_core\.evaluation (.*--scenes) \d+", told, re.M)
    python = re.search(r"in Python:\n\n((?:  .*\n)+)", told)
    assert example and python, told
    asked = [*command, *example[1].split(), "2", "--pruners", "lofi", "--budgets", "0.5"]
    ran = subprocess.run(asked, env=env, **options)  # type: ignore[call-overload]
    assert ran.returncode == 0, ran.stderr
    (output,) = printed([textwrap.dedent(python[1])], tmp_path)
    assert "flip" in output


def test_size_of_the_model() -> None:
    model, _ = scene_vlm.load()
    (stated,) = re.findall(r"LLaVA of ([\d.]+) M parameters", README)
    assert stated == f"{sum(p.numel() for p in model.parameters()) / 1e6:.1f}"


def test_every_chapter_is_listed() -> None:
    toc = yaml.safe_load((ROOT / "_toc.yml").read_text())
    chapters = {c["file"] for part in toc["parts"] for c in part["chapters"]}
    notebooks = {c for c in chapters if c.startswith("notebooks/")}
    assert notebooks and all(f"({c}.ipynb)" in README for c in notebooks)


@pytest.mark.parametrize("name", ["README.md", "CONTRIBUTING.md", "CHANGELOG.md"])
def test_links_and_targets_exist(name: str) -> None:
    text = (ROOT / name).read_text()
    for target in re.findall(r"\]\((?!https?:)([^)#]+)", text):
        assert (ROOT / target).exists(), target
    makefile = (ROOT / "Makefile").read_text()
    for target in re.findall(r"`?make ([a-z][a-z-]+)\b", text):
        assert re.search(rf"^{target}:", makefile, re.M), target


def test_layout_is_the_tree() -> None:
    (table,) = re.findall(r"## What is where\n(.*?)\n## ", README, re.S)
    named = set(re.findall(r"^\| `([\w./]+)`", table, re.M))
    assert named and all((ROOT / name).exists() for name in named)
    rooms = {f"lofi_core/{p.name}" for p in (ROOT / "lofi_core").iterdir() if p.is_dir()}
    missing = {r for r in rooms if "__pycache__" not in r} - {n.rstrip("/") for n in named}
    assert not missing
