"""The README's code runs, its figures are right, and it lists what there is."""

import re
from pathlib import Path

import pytest
import yaml

from lofi_core import scene_vlm

ROOT = Path(__file__).resolve().parents[2]
README = (ROOT / "README.md").read_text()


def test_the_example_runs(capsys: pytest.CaptureFixture[str]) -> None:
    example = re.findall(r"```python\n(from lofi_core.*?)```", README, re.S)
    assert len(example) == 1
    exec(compile(example[0], "README.md", "exec"), {})
    printed = capsys.readouterr().out
    assert re.search(r"144\s+36\s+25\.0%", printed), printed


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
