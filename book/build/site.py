"""Build the book: run its notebooks, check what they produced, hand the result to Jupyter Book.

    python -m book.build --profile ci [--only 02] [--no-html] [--fresh]

Notebooks in git have no outputs. Papermill runs each one with the parameters of a profile (a YAML
file in book/profiles) and the result goes, beside copies of the pages, into a staging folder with
the same relative paths; Jupyter Book reads only that folder. A notebook that fails, or whose output
breaks a rule of book/build/gates.py, stops the build before any page is written.
"""

import argparse
import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import nbformat
import yaml
from nbformat import NotebookNode

from book.build import gates
from book.build.colab import with_install
from book.build.execute import Failed, Record, Runner, load_profile
from book.build.pages import figures_page, with_chapters, without_dead_links
from book.build.provenance import BuildInfo, full_commit, repository_url, status_page

ROOT = Path(__file__).resolve().parents[2]
BUILD = ROOT / "_build"
STAGE = BUILD / "stage"
FACTS = BUILD / "facts.json"
PAGES = ("_config.yml", "_toc.yml", "index.md", "book")
NOT_PAGES = shutil.ignore_patterns("*.py", "__pycache__", "profiles", "results", "training")


def main(argv: list[str] | None = None) -> int:
    """Run the build and return its exit status."""
    args = parse_arguments(argv)
    profile = load_profile(args.profile)
    runner = Runner(profile, notebooks=toc_notebooks(ROOT / "_toc.yml"), fresh=args.fresh)
    selected = [path for path in runner.notebooks if args.only in path.stem]
    if not selected:
        print(f"no notebook of _toc.yml matches --only {args.only}", file=sys.stderr)
        return 2

    failures = 0
    stage_pages()
    for path in selected:
        try:
            notebook = runner.run(path)
            problems = gates.check(notebook)
        except Failed as failure:
            problems = [str(failure)]
        else:
            target = STAGE / path.relative_to(ROOT)
            target.parent.mkdir(parents=True, exist_ok=True)
            nbformat.write(for_download(gates.for_static_page(notebook)), target)
        for problem in problems:
            print(f"  {path.name}: {problem}", flush=True)
        failures += bool(problems)
    if failures:
        print(
            f"{failures} of {len(selected)} notebooks failed; partial results: {BUILD / 'failed'}"
        )
        return 1
    if args.no_html or len(selected) < len(runner.notebooks):
        print("notebooks ran; no pages were built")
        return 0

    info = BuildInfo.collect(profile.name, runner.device)
    write_pages(info, runner.records)
    return build_html()


def parse_arguments(argv: list[str] | None) -> argparse.Namespace:
    """Read the command line."""
    parser = argparse.ArgumentParser(prog="book.build.site", description=__doc__.splitlines()[0])
    parser.add_argument("--profile", default="ci", help="a file of book/profiles (default: ci)")
    parser.add_argument("--only", default="", help="run the notebooks whose name contains this")
    parser.add_argument("--no-html", action="store_true", help="run notebooks, build no pages")
    parser.add_argument("--fresh", action="store_true", help="ignore results of earlier runs")
    return parser.parse_args(argv)


def toc_notebooks(toc: Path) -> list[Path]:
    """Return the notebooks that the table of contents names, in its order."""
    entries: list[str] = []

    def walk(node: object) -> None:
        if isinstance(node, dict):
            entries.extend(v for k, v in node.items() if k == "file")
        for child in node.values() if isinstance(node, dict) else node:  # type: ignore[attr-defined]
            if isinstance(child, dict | list):
                walk(child)

    walk(yaml.safe_load(toc.read_text()))
    files = (toc.parent / entry for entry in entries)
    return [f.with_suffix(".ipynb") for f in files if f.with_suffix(".ipynb").exists()]


def stage_pages() -> None:
    """Copy everything but notebooks into an empty staging folder."""
    shutil.rmtree(STAGE, ignore_errors=True)
    STAGE.mkdir(parents=True)
    for name in PAGES:
        source = ROOT / name
        if source.is_dir():
            # the Sphinx extension is code, and must come along all the same
            shutil.copytree(source, STAGE / name, ignore=NOT_PAGES)
            shutil.copytree(source / "_ext", STAGE / name / "_ext", dirs_exist_ok=True)
        else:
            shutil.copy2(source, STAGE / name)


def for_download(notebook: NotebookNode) -> NotebookNode:
    """Let a notebook that is downloaded from its page install the library, if it has an address."""
    url, commit = repository_url(str(ROOT)), full_commit(ROOT)
    return with_install(notebook, url, commit) if url and commit else notebook


def write_pages(info: BuildInfo, records: list[Record]) -> None:
    """Write the pages, and parts of pages, that are made from the notebooks and their runs."""
    notebooks = {r.path: nbformat.read(r.path, as_version=4) for r in records}
    index = STAGE / "index.md"
    index.write_text(with_chapters(index.read_text(), notebooks, records))
    (STAGE / "book" / "figures.md").write_text(figures_page(notebooks))
    for page in STAGE.rglob("*.md"):
        page.write_text(without_dead_links(page.read_text(), {path.stem for path in notebooks}))
    (STAGE / "book" / "status.md").write_text(status_page(info, records))
    FACTS.write_text(info.facts(records))


def build_html() -> int:
    """Run Jupyter Book on the staging folder, warnings being errors."""
    # Pages read again from nothing: an incremental build would not repeat the warnings of the last.
    for stale in ("html", ".doctrees", "jupyter_execute"):
        shutil.rmtree(BUILD / stale, ignore_errors=True)
    log = BUILD / "html.log"
    program = Path(sys.executable).parent / "jupyter-book"
    command: list[str | Path] = [program, "build", STAGE, "--path-output", ROOT]
    command += ["-W", "--keep-going", "--builder", "html"]
    environment = {
        **os.environ,
        "BOOK_BUILD": str(FACTS),
        "PYTHONPATH": str(ROOT),
    }
    print("pages: jupyter-book", flush=True)
    result = subprocess.run(
        command, env=environment, text=True, stdout=subprocess.PIPE, stderr=subprocess.STDOUT
    )
    output = re.sub(r"\x1b\[[0-9;]*m", "", result.stdout)
    log.write_text(output)
    if result.returncode:
        print(report(output))
        print(f"pages failed; the whole log is in {log}")
        return 1
    print(f"read it: {BUILD / 'html' / 'index.html'}")
    return 0


def report(log: str) -> str:
    """Return the lines of a Sphinx log that say what was wrong, or its end."""
    marks = ("WARNING", "ERROR", "Error", "Exception")
    telling = [line for line in log.splitlines() if any(mark in line for mark in marks)]
    return "\n".join(telling[:40] or log.splitlines()[-20:])
