"""The key under which a notebook's outputs are kept: it changes with all that can change them."""

from pathlib import Path

import nbformat
import pytest
from nbformat.v4 import new_code_cell, new_markdown_cell, new_notebook

from book.build.cache import ROOT, cache_key, sources


@pytest.fixture
def library(tmp_path: Path) -> Path:
    files = {
        "lofi_core/spectrum.py": "a = 1",
        "lofi_core/__pycache__/spectrum.pyc": "compiled",
        "requirements.lock": "torch==1",
        "book/visuals/figures.py": "from book.colors import KINDS",
        "book/colors.py": "KINDS = 3",
        "book/build/pdf.py": "import book.visuals.figures",
        "book/claims.yml": "claims: []",
        "book/experiments/__init__.py": "",
        "book/results/answers.parquet": "answers",
        "benchmarks/results/run.json": "{}",
    }
    for name, text in files.items():
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_text(text)
    return tmp_path


def key(root: Path, source: str = "1", seed: int = 0, device: str = "cpu") -> str:
    cells = [new_markdown_cell("words"), new_code_cell(source)]
    return cache_key(new_notebook(cells=cells), {"seed": seed}, device, root)


def changes(root: Path, source: str) -> set[str]:
    """Names of the files whose change changes the key of a notebook."""
    found = set()
    for path in sorted(p for p in root.rglob("*") if p.is_file()):
        before, text = key(root, source), path.read_text()
        path.write_text(text + "\n# changed")
        if key(root, source) != before:
            found.add(path.name)
        path.write_text(text)
    return found


def test_key_covers_code_parameters_and_device(library: Path) -> None:
    keys = [key(library), key(library, source="2"), key(library, seed=1), key(library, device="a")]
    (library / "lofi_core" / "new.safetensors").write_text("weights")
    assert len({*keys, key(library)}) == 5


ALWAYS = {"spectrum.py", "requirements.lock"}


@pytest.mark.parametrize(
    ("source", "files"),
    [
        ("%matplotlib inline\n1", set()),
        ("from book import", set()),
        ("from book.visuals.figures import plot", {"figures.py", "colors.py"}),
        ("from book.visuals import figures", {"figures.py", "colors.py"}),
        ("import book.colors", {"colors.py"}),
        ("from book.experiments import load", {"__init__.py", "answers.parquet", "claims.yml"}),
        ("path = '../benchmarks/results'", {"run.json"}),
    ],
)
def test_key_covers_what_is_used_and_nothing_else(library: Path, source: str, files: set) -> None:
    assert changes(library, source) == ALWAYS | files


def test_key_ignores_text(library: Path) -> None:
    one, other = (new_notebook(cells=[new_markdown_cell(w), new_code_cell("1")]) for w in "ab")
    assert cache_key(one, {}, "cpu", library) == cache_key(other, {}, "cpu", library)


def test_key_of_the_ledger_covers_what_computes_and_what_it_reads() -> None:
    notebook = nbformat.read(next((ROOT / "notebooks").glob("11-*.ipynb")), as_version=4)
    code = "\n".join(c.source for c in notebook.cells if c.cell_type == "code")
    names = {str(path.relative_to(ROOT)) for path in sources(code, ROOT)}
    assert {"book/ledger/evidence.py", "book/ledger/exact.py", "book/claims.yml"} <= names
    for folder in ("book/results/", "benchmarks/results/"):
        assert any(name.startswith(folder) for name in names)
    assert "book/build/pdf.py" not in names
