"""Run notebooks a second time, and compare: the same input must give the same output.

    python -m book.build.repeat [--profile ci] [--only 02]

Every output is compared, numbers, tables and pictures alike, with the one that a build has kept.
Cells tagged `measures-time` print seconds, and may differ.
"""

import argparse
import sys

from nbformat import NotebookNode

from book.build.execute import ROOT, Failed, Runner, load_profile
from book.build.site import toc_notebooks

VARIES = "measures-time"


def main(argv: list[str] | None = None) -> int:
    """Run, compare, and return 1 if anything differs."""
    parser = argparse.ArgumentParser(prog="book.build.repeat", description=__doc__.splitlines()[0])
    parser.add_argument("--profile", default="ci")
    parser.add_argument("--only", default="", help="repeat the notebooks whose name contains this")
    args = parser.parse_args(argv)
    runner = Runner(load_profile(args.profile), toc_notebooks(ROOT / "_toc.yml"))
    differing = 0
    for path in (p for p in runner.notebooks if args.only in p.stem):
        runner.fresh = False
        first = runner.run(path)
        runner.fresh = True
        try:
            found = differences(first, runner.run(path))
        except Failed as failure:
            found = [str(failure)]
        for what in found:
            print(f"  {path.name}: {what}")
        differing += bool(found)
    print(f"{differing} notebooks differ from their first run" if differing else "the same twice")
    return int(bool(differing))


def differences(first: NotebookNode, second: NotebookNode) -> list[str]:
    """Return one line for each code cell whose outputs are not the same."""
    found = []
    pairs = zip(first.cells, second.cells, strict=True)
    code = [(a, b) for a, b in pairs if a.cell_type == "code"]
    for number, (a, b) in enumerate(code, start=1):
        if VARIES not in a.metadata.get("tags", []) and shown(a) != shown(b):
            found.append(
                f"code cell {number} ({a.source.splitlines()[0][:50]}) gave another output"
            )
    return found


def shown(cell: NotebookNode) -> list[object]:
    """Return what readers see of a cell's outputs; ids of live widgets differ, and are not seen."""
    kept: list[object] = []
    for output in cell.outputs:
        data = {k: v for k, v in output.get("data", {}).items() if "widget" not in k}
        kept.append((output.output_type, output.get("text"), data))
    return kept


if __name__ == "__main__":
    sys.exit(main())
