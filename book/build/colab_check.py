"""Run every notebook as Colab would: from its own install cell, in an empty folder, without a lock.

    python -m book.build.colab_check [NAME ...]

The environment is the one this runs in: a fresh one with the newest packages (`make colab-check`),
or Colab's own image (.github/workflows/colab.yml). It must not hold `lofi_core`, since installing
it is what is checked: from this checkout's commit, without touching what Colab brings along.
"""

import importlib.util
import os
import shutil
import sys
import time
from collections.abc import Sequence
from importlib.metadata import distributions
from pathlib import Path

import nbformat
import papermill

from book.build.colab import with_install
from book.build.execute import BUILD, ROOT, explain
from book.build.provenance import full_commit
from book.build.site import toc_notebooks

STAYS = ("torch", "torchvision", "numpy", "pandas", "pillow", "ipywidgets")
TIMEOUT = 1200  # seconds a cell may take


def main(names: Sequence[str] | None = None) -> int:
    """Run the notebooks whose names contain one of ``names``, or all; return the exit status."""
    names = sys.argv[1:] if names is None else names
    found = importlib.util.find_spec("lofi_core")
    if found is not None and found.origin and ROOT not in Path(found.origin).parents:
        print(f"lofi_core is installed, in {found.origin}; use an environment without it")
        return 2
    commit = full_commit(ROOT)
    if not commit:
        print("not a git checkout; the notebooks install the library from its commit")
        return 2
    before, failed = versions(), 0
    chosen = toc_notebooks(ROOT / "_toc.yml")
    for path in (p for p in chosen if not names or any(name in p.stem for name in names)):
        start = time.perf_counter()
        problem = run(path, f"file://{ROOT}", commit)
        print(
            f"{path.name:40s} {time.perf_counter() - start:7.1f} s  {problem or 'ran'}", flush=True
        )
        failed += bool(problem)
    after = versions()
    changed = {n: (old, after.get(n)) for n, old in before.items() if old != after.get(n)}
    if changed:
        print(f"installing changed {changed}; these come with Colab and must stay")
    return int(failed > 0 or bool(changed))


def versions() -> dict[str, str]:
    """Versions of the packages that must stay as they are, where they are installed."""
    there = {d.metadata["Name"].lower(): d.version for d in distributions()}
    return {name: there[name] for name in STAYS if name in there}


def run(path: Path, url: str, commit: str) -> str:
    """Run one notebook in an empty folder; return what went wrong, or nothing."""
    folder = BUILD / "colab" / path.stem
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir(parents=True)
    notebook = with_install(nbformat.read(path, as_version=4), url, commit)
    source, output = folder / "source.ipynb", folder / "output.ipynb"
    nbformat.write(notebook, source)
    for name in ("PYTHONPATH", "HF_HUB_OFFLINE"):  # the kernel sees what is installed, as Colab's
        os.environ.pop(name, None)
    try:
        papermill.execute_notebook(
            str(source), str(output), cwd=str(folder), execution_timeout=TIMEOUT, progress_bar=False
        )
    except Exception as error:  # papermill's own, a timeout of nbclient's, a dead kernel
        return "failed\n" + explain(error, output, TIMEOUT)
    return ""


if __name__ == "__main__":
    sys.exit(main())
