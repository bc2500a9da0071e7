"""Run notebooks by papermill, with parameters that are checked and results that are kept.

A result is kept under the key of `book.build.cache`; text may be edited without running anything
again.
"""

import ast
import os
import re
import time
from copy import deepcopy
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import nbformat
import papermill
import yaml
from nbformat import NotebookNode

from book.build.cache import ROOT, cache_key

BUILD = ROOT / "_build"
ENVIRONMENT = {
    "HF_HUB_OFFLINE": "1",
    "HF_HUB_DISABLE_PROGRESS_BARS": "1",
    "TQDM_DISABLE": "1",
    "TOKENIZERS_PARALLELISM": "false",
    "OMP_NUM_THREADS": "2",
    "PYTHONHASHSEED": "0",
    "IPYTHONDIR": str(BUILD / "ipython"),
}
# No remarks of the kernel on its transport; figures for sharp screens.
KERNEL_CONFIG = """\
c = get_config()
c.IPKernelApp.log_level = 50
c.InlineBackend.figure_formats = {"retina"}
"""


class Failed(Exception):
    """A notebook did not run to its end; the message is for people."""


@dataclass(frozen=True)
class Profile:
    """How the book is built: what every notebook is told, and what single ones are told."""

    name: str
    timeout: int
    parameters: dict[str, Any]
    notebooks: dict[str, dict[str, Any]]

    def parameters_for(self, path: Path) -> dict[str, Any]:
        """Return the parameters of one notebook."""
        return {**self.parameters, **self.notebooks.get(path.stem, {})}


@dataclass(frozen=True)
class Record:
    """What the status page says about one notebook."""

    path: Path
    parameters: dict[str, Any]
    seconds: float
    finished: str
    cached: bool


def load_profile(name: str, folder: Path = ROOT / "book" / "profiles") -> Profile:
    """Read book/profiles/<name>.yaml."""
    path = folder / f"{name}.yaml"
    if not path.exists():
        known = ", ".join(sorted(p.stem for p in folder.glob("*.yaml")))
        raise SystemExit(f"no profile {name!r}; there are: {known}")
    return Profile(name, **yaml.safe_load(path.read_text()))


class Runner:
    """Runs notebooks under one profile, one after the other: two would share the cores badly."""

    def __init__(self, profile: Profile, notebooks: list[Path], fresh: bool = False) -> None:
        strangers = profile.notebooks.keys() - {path.stem for path in notebooks}
        if strangers:
            raise SystemExit(f"profile {profile.name} names no notebook: {sorted(strangers)}")
        self.profile, self.notebooks, self.fresh = profile, notebooks, fresh
        self.device = device_class()
        self.records: list[Record] = []

    def run(self, path: Path) -> NotebookNode:
        """Return the notebook with outputs, from the cache or by running it, or raise `Failed`."""
        source = nbformat.read(path, as_version=4)
        parameters = self.profile.parameters_for(path)
        overrides = changed_parameters(path, parameters)
        kept = BUILD / "cache" / f"{cache_key(source, parameters, self.device)}.ipynb"
        cached = kept.exists() and not self.fresh
        if not cached:
            partial = BUILD / "failed" / path.name
            execute(path, partial, overrides, self.profile.timeout)
            kept.parent.mkdir(parents=True, exist_ok=True)
            partial.replace(kept)
        executed = nbformat.read(kept, as_version=4)
        run = executed.metadata.papermill
        record = Record(path, parameters, run.duration, f"{run.end_time[:16]}Z", cached)
        self.records.append(record)
        state = "kept" if cached else "ran"
        print(f"{path.name:40s} {state:5s}{record.seconds:7.1f} s", flush=True)
        return with_outputs(source, executed)


def device_class() -> str:
    """Return the device that the notebooks will find: "cpu" or the name of the GPU."""
    import torch

    return torch.cuda.get_device_name() if torch.cuda.is_available() else "cpu"


def changed_parameters(path: Path, parameters: dict[str, Any]) -> dict[str, Any]:
    """Return the parameters that differ from the notebook's own; an undeclared one is an error.

    Papermill itself only logs an undeclared parameter and goes on.
    """
    declared = papermill.inspect_notebook(str(path))
    unknown = sorted(parameters.keys() - declared.keys())
    if unknown:
        raise Failed(
            f"parameter {', '.join(unknown)} of the profile is not declared in the notebook's cell "
            f"tagged 'parameters' (declared: {', '.join(sorted(declared)) or 'none'})"
        )

    def same(name: str) -> bool:
        try:
            return bool(ast.literal_eval(declared[name]["default"]) == parameters[name])
        except (SyntaxError, ValueError):
            return False

    return {name: value for name, value in parameters.items() if not same(name)}


def execute(path: Path, output: Path, parameters: dict[str, Any], timeout: int) -> None:
    """Run one notebook; what it had produced until an error stays in `output`."""
    output.parent.mkdir(parents=True, exist_ok=True)
    prepare_kernel()
    start = time.perf_counter()
    try:
        papermill.execute_notebook(
            str(path),
            str(output),
            parameters,
            cwd=str(path.parent),
            execution_timeout=timeout,
            progress_bar=False,
        )
    except Exception as error:  # papermill's own, a timeout of nbclient's, a dead kernel
        seconds = time.perf_counter() - start
        raise Failed(f"failed after {seconds:.0f} s\n{explain(error, output, timeout)}") from error


def prepare_kernel() -> None:
    """Set what the kernel inherits; values that the user has set win."""
    for name, value in ENVIRONMENT.items():
        os.environ.setdefault(name, value)
    folder = BUILD / "ipython" / "profile_default"
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "ipython_kernel_config.py").write_text(KERNEL_CONFIG)
    # the sources of this checkout, whatever is installed
    os.environ["PYTHONPATH"] = str(ROOT)


def explain(error: Exception, output: Path, timeout: int) -> str:
    """Name the failing cell and its error in a few lines."""
    cells = nbformat.read(output, as_version=4).cells if output.exists() else []
    code = [c for c in cells if c.cell_type == "code"]
    for number, cell in enumerate(code, start=1):
        for out in cell.outputs:
            if out.output_type == "error":
                trace = re.sub(r"\x1b\[[0-9;]*m", "", "\n".join(out.traceback))
                arrows = [line.strip() for line in trace.splitlines() if line.startswith("-")]
                where = [line for line in arrows if line.startswith("--") and ">" in line]
                lines = [f"code cell {number}, In [{cell.execution_count}]", *where]
                # nobody else interrupts a kernel here
                slow = out.ename == "KeyboardInterrupt"
                what = f"took longer than {timeout} s" if slow else f"{out.ename}: {out.evalue}"
                return "\n".join(f"    {line}" for line in [*lines, what])
    return f"    {type(error).__name__}: {str(error).strip()[:500]}"


def with_outputs(source: NotebookNode, executed: NotebookNode) -> NotebookNode:
    """Return `source`, whose text may be newer, with the outputs of `executed`.

    Papermill adds a cell where parameters differ from the notebook's own. It stays, folded: the
    page must not show other values than those that made its numbers.
    """
    result = deepcopy(source)
    result.metadata.papermill = executed.metadata.papermill
    injected = [c for c in executed.cells if "injected-parameters" in c.metadata.get("tags", [])]
    ran = [c for c in executed.cells if c.cell_type == "code" and c not in injected]
    cells: list[NotebookNode] = []
    for cell in result.cells:
        cells.append(cell)
        if cell.cell_type == "code":
            done = ran.pop(0)
            cell.outputs, cell.execution_count = done.outputs, done.execution_count
        if injected and "parameters" in cell.metadata.get("tags", []):
            injected[0].metadata = nbformat.from_dict({"tags": ["hide-input"]})
            cells.append(injected[0])
    result.cells = cells
    return result
