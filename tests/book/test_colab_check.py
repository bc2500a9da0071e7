"""Colab: our bounds admit what it brings, and the check of the notebooks notices what breaks."""

import re
import subprocess
import sys
import tomllib
from pathlib import Path

import nbformat
import pytest
from nbformat.v4 import new_code_cell, new_notebook
from packaging.requirements import Requirement
from packaging.version import Version

from book.build import colab_check

ROOT = Path(__file__).resolve().parents[2]
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
NEEDED = [*PROJECT["dependencies"], *PROJECT["optional-dependencies"]["eval"]]


def colab() -> dict[str, Version]:
    """What Colab has, from the list of lower bounds."""
    lines = (ROOT / "book" / "colab.txt").read_text().splitlines()
    pairs = [line.split(">=") for line in lines if not line.startswith("#")]
    return {name: Version(number) for name, number in pairs}


def test_colab_has_what_the_library_needs() -> None:
    """All but transformers, so that installing the library replaces nothing else."""
    there = colab()
    needed = {requirement.name: requirement for requirement in map(Requirement, NEEDED)}
    assert needed.keys() <= there.keys()
    older = {n for n, r in needed.items() if not r.specifier.contains(there[n])}
    assert older == {"transformers"}
    assert set(colab_check.STAYS) <= there.keys()


def test_the_install_cell_names_what_stays() -> None:
    """Chapter 9 tells pip to leave the same packages alone that the check watches."""
    notebook = nbformat.read(ROOT / "notebooks" / "09-your-own-vlm.ipynb", as_version=4)
    (cell,) = [c for c in notebook.cells if "install" in c.metadata.get("tags", [])]
    names = re.search(r"stays = (\{[^}]*\})", cell.source)
    assert names is not None
    assert set(re.findall(r'"(\w+)"', names[1])) == set(colab_check.STAYS)


def test_it_needs_nothing_that_builds_the_book() -> None:
    absent = "docutils", "sphinx", "jupyter_book", "playwright", "pytest"
    code = f"import sys; sys.modules.update(dict.fromkeys({absent})); import book.build.colab_check"
    subprocess.run([sys.executable, "-c", code], cwd=ROOT, check=True)


@pytest.fixture
def notebooks(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A good notebook and a bad one, checked without installing anything."""
    sources = {"01-good": "x = 1", "02-bad": "import lofi_nothing"}
    for name, source in sources.items():
        notebook = new_notebook(cells=[new_code_cell(source)])
        notebook.metadata.kernelspec = {"name": "python3", "display_name": "", "language": "python"}
        nbformat.write(notebook, tmp_path / f"{name}.ipynb")
    files = [tmp_path / f"{name}.ipynb" for name in sources]
    monkeypatch.setattr(colab_check, "toc_notebooks", lambda toc: files)
    monkeypatch.setattr(colab_check, "with_install", lambda notebook, url, commit: notebook)
    monkeypatch.setattr(colab_check, "full_commit", lambda root: "0" * 40)
    monkeypatch.setattr(colab_check, "BUILD", tmp_path / "build")
    monkeypatch.setenv("PYTHONPATH", str(ROOT))  # put back afterwards
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    return tmp_path


def test_failures_are_told(notebooks: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert colab_check.main(["01"]) == 0
    assert colab_check.main(["02"]) == 1
    told = capsys.readouterr().out
    assert re.search(r"01-good\.ipynb +[\d.]+ s  ran", told)
    assert "code cell 1" in told and "lofi_nothing" in told


def test_changed_packages_are_told(
    notebooks: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    found = iter(["2.0.2", "2.4.0"])
    monkeypatch.setattr(colab_check, "versions", lambda: {"numpy": next(found)})
    monkeypatch.setattr(colab_check, "run", lambda path, url, commit: "")
    assert colab_check.main(["01"]) == 1
    assert "installing changed {'numpy': ('2.0.2', '2.4.0')}" in capsys.readouterr().out


def test_an_environment_with_the_library_is_refused(
    notebooks: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(colab_check, "ROOT", notebooks)  # so that this checkout is "installed"
    assert colab_check.main([]) == 2
    assert "use an environment without it" in capsys.readouterr().out
