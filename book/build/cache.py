"""What decides a notebook's outputs, as one key under which they are kept.

It is the SHA-256 of the notebook's code cells, its parameters, Python, the kind of device, the lock
file, every file of `lofi_core` (the shipped model too), the modules of `book` that the notebook
imports and those that they import, and the committed records of experiments and benchmarks where
these are read.
"""

import ast
import hashlib
import re
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from nbformat import NotebookNode

ROOT = Path(__file__).resolve().parents[2]
MAGIC = re.compile(r"^\s*[%!].*$", re.MULTILINE)


def cache_key(
    notebook: NotebookNode, parameters: dict[str, Any], device: str, root: Path = ROOT
) -> str:
    """Return the key of a notebook that runs with these parameters on this kind of device."""
    cells = [(c.source, c.metadata.get("tags")) for c in notebook.cells if c.cell_type == "code"]
    digest = hashlib.sha256(repr((cells, sorted(parameters.items()), device, sys.version)).encode())
    for path in sorted(sources("\n".join(source for source, _ in cells), root)):
        content = hashlib.sha256(path.read_bytes()).hexdigest()
        digest.update(f"{path.relative_to(root)} {content}\n".encode())
    return digest.hexdigest()[:32]


def sources(code: str, root: Path) -> set[Path]:
    """Return the files that decide what some code computes."""
    texts, modules = [MAGIC.sub("", code)], set[Path]()
    for text in texts:  # which grows
        new = set(imported(text, root)) - modules
        modules |= new
        texts += [path.read_text() for path in new]
    patterns = ["lofi_core/**/*"]
    rooms = {path.parent for path in modules}
    if rooms & {root / "book" / name for name in ("experiments", "ledger")}:
        patterns += ["book/results/**/*", "book/*.yml"]
    if any("benchmarks" in text for text in texts):
        patterns += ["benchmarks/results/*.json"]
    files = {path for pattern in patterns for path in root.glob(pattern) if path.is_file()}
    files |= {root / "requirements.lock", *modules}
    return {path for path in files if "__pycache__" not in path.parts}


def imported(code: str, root: Path) -> Iterator[Path]:
    """Yield the files of the modules of `book` that code names in its imports."""
    try:
        tree = ast.parse(code)
    except SyntaxError:
        return  # running it says where
    for node in ast.walk(tree):
        names: list[str] = []
        if isinstance(node, ast.Import):
            names = [alias.name for alias in node.names]
        elif isinstance(node, ast.ImportFrom) and node.module:
            names = [node.module, *(f"{node.module}.{alias.name}" for alias in node.names)]
        for name in names:
            place = root.joinpath(*name.split("."))
            if name.split(".")[0] == "book":
                files = place.with_suffix(".py"), place / "__init__.py"
                yield from (path for path in files if path.exists())
