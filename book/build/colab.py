"""Write the notebooks as Colab needs them: each with a first cell that installs the library.

    python -m book.build.colab FOLDER

The notebooks in git name no repository, because they don't know it. Here the address comes from
`BOOK_REPO_URL` or the git remote, and the commit is the one that is checked out, so that a notebook
opened in Colab runs the library, the model and the results that it was written for.
"""

import argparse
import shutil
import sys
from pathlib import Path

import nbformat
from nbformat import NotebookNode
from nbformat.v4 import new_code_cell

from book.build.execute import ROOT
from book.build.provenance import full_commit, repository_url

INSTALL = """\
# On Colab: fetch the library and the results that belong to this notebook.
import sys
from pathlib import Path

if not Path("../lofi_core").exists():
    !git clone -q {url} lofi-book && git -C lofi-book checkout -q {commit}
    %pip install -q "./lofi-book[scenes,plots,eval,vlm]"
    %cd -q lofi-book/notebooks
sys.path.insert(0, str(Path("..").resolve()))"""


def with_install(notebook: NotebookNode, url: str, commit: str) -> NotebookNode:
    """Return a copy whose first code cell installs the library; pages don't show that cell."""
    result = nbformat.from_dict(notebook)
    cell = new_code_cell(INSTALL.format(url=url, commit=commit), metadata={"tags": ["remove-cell"]})
    cell.id = "install"
    first = next(k for k, c in enumerate(notebook.cells) if c.cell_type == "code")
    result.cells = [*notebook.cells[:first], cell, *notebook.cells[first:]]
    return result


def main(argv: list[str] | None = None) -> int:
    """Write all notebooks to a folder."""
    parser = argparse.ArgumentParser(prog="book.build.colab", description=__doc__.splitlines()[0])
    parser.add_argument("folder", type=Path)
    folder = parser.parse_args(argv).folder / "notebooks"
    url, commit = repository_url(str(ROOT)), full_commit(ROOT)
    if not url or not commit:
        print(
            "book.build.colab: no address to install from; set BOOK_REPO_URL, in a git checkout",
            file=sys.stderr,
        )
        return 1
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir(parents=True)
    for path in sorted((ROOT / "notebooks").glob("*.ipynb")):
        notebook = nbformat.read(path, as_version=4)
        nbformat.write(with_install(notebook, url, commit), folder / path.name)
    print(f"{folder}: notebooks that install {url} at {commit[:8]}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
