"""Rules for the sources that a program can check: spelling, and a reference without gaps."""

import ast
import importlib
import re
import subprocess
import sys
from importlib.util import find_spec
from pathlib import Path

import nbformat
import pytest

ROOT = Path(__file__).resolve().parents[2]
TEXTS = (".md", ".ipynb", ".py", ".yml", ".yaml", ".toml", ".bib", ".css", ".js", ".cff")
NO_ERRORS = "fith,nd,kepp"  # a key of PDF, N times D, and a slip that a test makes on purpose
DOCUMENTED = set(re.findall(r"automodule:: ([\w.]+)", (ROOT / "book" / "api.md").read_text()))


def tracked() -> list[str]:
    listed = subprocess.run(["git", "-C", str(ROOT), "ls-files"], capture_output=True, text=True)
    return [name for name in listed.stdout.splitlines() if (ROOT / name).exists()]


def test_spelling() -> None:
    if not find_spec("codespell_lib"):
        pytest.skip("codespell is not installed")
    files = [str(ROOT / name) for name in tracked() if name.endswith(TEXTS)]
    if not files:
        pytest.skip("not a git checkout: no list of the sources")
    command = [sys.executable, "-m", "codespell_lib", "--ignore-words-list", NO_ERRORS, *files]
    result = subprocess.run(command, capture_output=True, text=True)
    assert not result.stdout, result.stdout


def test_every_public_module_is_in_the_reference() -> None:
    files = (p for p in (ROOT / "lofi_core").rglob("*.py") if p.name != "__init__.py")
    public = [p for p in files if re.search("^__all__", p.read_text(), re.M)]
    names = {".".join(p.relative_to(ROOT).with_suffix("").parts) for p in public}
    assert names <= DOCUMENTED, "book/api.md lacks modules"


@pytest.mark.parametrize("package", ["lofi_core", "lofi_core.pruners"])
def test_exported_names_are_in_the_reference(package: str) -> None:
    module = importlib.import_module(package)
    names = {name: getattr(module, name) for name in module.__all__}
    missing = {n: o.__module__ for n, o in names.items() if not documented(o)}
    assert not missing, "book/api.md lacks modules"


def test_names_that_chapters_import_are_in_the_reference() -> None:
    missing = set()
    for path in sorted((ROOT / "notebooks").glob("*.ipynb")):
        cells = nbformat.read(path, as_version=4).cells
        code = "\n".join(c.source for c in cells if c.cell_type == "code")
        for node in ast.walk(ast.parse(re.sub(r"^\s*[%!].*$", "", code, flags=re.M))):
            if isinstance(node, ast.ImportFrom) and (node.module or "").startswith("lofi_core."):
                module = importlib.import_module(str(node.module))
                for alias in node.names:
                    if not documented(getattr(module, alias.name), default=str(node.module)):
                        missing.add(f"{path.stem}: {node.module}.{alias.name}")
    assert not missing


def documented(thing: object, default: str = "") -> bool:
    """Tell whether the module that defines something is in the reference."""
    home = thing.__name__ if isinstance(thing, type(ast)) else getattr(thing, "__module__", default)
    return home in DOCUMENTED or not str(home).startswith("lofi_core")


def test_reference_names_modules_that_exist() -> None:
    assert DOCUMENTED and all(find_spec(name) for name in DOCUMENTED)


def advised() -> list[str]:
    """Dotted names of the library that its messages tell a user to use."""
    literals = (
        node.value
        for path in (ROOT / "lofi_core").rglob("*.py")
        for call in ast.walk(ast.parse(path.read_text()))
        if isinstance(call, ast.Call) and getattr(call.func, "id", "") == "LofiError"
        for node in ast.walk(call)
        if isinstance(node, ast.Constant) and isinstance(node.value, str)
    )
    return sorted({name for text in literals for name in re.findall(r"lofi_core(?:\.\w+)+", text)})


def exists(name: str) -> bool:
    """Whether a dotted name is a module, or something in one."""
    found: object = importlib.import_module("lofi_core")
    for part in name.split(".")[1:]:
        if not hasattr(found, part):
            return False
        found = getattr(found, part)
    return True


def test_what_an_error_advises_exists() -> None:
    names = advised()
    assert "lofi_core.contract.check_pruner" in names
    assert not exists("lofi_core.contract.no_such_check")  # the test can fail
    assert not [name for name in names if not exists(name)]
