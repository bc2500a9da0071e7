"""The notebooks in git: no outputs, small cells, described figures, seeded randomness."""

import ast
import re
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

import nbformat
import pytest
from nbformat import NotebookNode

from book.build.pages import Chapter

ROOT = Path(__file__).resolve().parents[2]
NOTEBOOKS = sorted((ROOT / "notebooks").glob("*.ipynb"))
LONGEST_CELL = 12

# Calls that draw from a global generator, or from one that was given no seed.
UNSEEDED = re.compile(
    r"np\.random\.(?!default_rng|Generator|SeedSequence)\w+\("
    r"|default_rng\(\s*\)"
    r"|\brandom\.(random|randint|choice|choices|sample|shuffle|uniform|gauss)\("
    r"|torch\.(manual_seed|seed)\("
)
TORCH_DRAWS = {"rand", "randn", "randint", "randperm", "normal", "multinomial", "bernoulli"}


@pytest.fixture(params=NOTEBOOKS, ids=lambda path: path.stem)
def notebook(request: pytest.FixtureRequest) -> NotebookNode:
    return nbformat.read(request.param, as_version=4)


def code_cells(notebook: NotebookNode) -> list[NotebookNode]:
    return [cell for cell in notebook.cells if cell.cell_type == "code"]


def unseeded_torch_calls(source: str) -> Iterator[str]:
    """Yield calls such as torch.randn(3) that name no generator."""
    for node in ast.walk(ast.parse(re.sub(r"^\s*[%!].*$", "", source, flags=re.M))):
        if isinstance(node, ast.Call) and isinstance(node.func, ast.Attribute):
            owner = node.func.value
            drawn = isinstance(owner, ast.Name) and owner.id == "torch"
            named = any(keyword.arg == "generator" for keyword in node.keywords)
            if drawn and node.func.attr in TORCH_DRAWS and not named:
                yield f"torch.{node.func.attr}"


def test_there_are_notebooks() -> None:
    assert NOTEBOOKS


def test_no_outputs_in_git(notebook: NotebookNode) -> None:
    assert all(not cell.outputs and cell.execution_count is None for cell in code_cells(notebook))
    assert "widgets" not in notebook.metadata


def test_one_parameters_cell_with_profile_and_seed(notebook: NotebookNode) -> None:
    (cell,) = [c for c in notebook.cells if "parameters" in c.metadata.get("tags", [])]
    names = {t.id for node in ast.parse(cell.source).body for t in getattr(node, "targets", [])}
    names |= {n.target.id for n in ast.parse(cell.source).body if isinstance(n, ast.AnnAssign)}
    assert {"profile", "seed"} <= names


def lines_to_read(source: str) -> list[str]:
    """Lines of a cell that say something: neither blank nor a comment nor an import."""
    lines = source.splitlines()
    for node in ast.parse(re.sub(r"^\s*[%!].*$", "pass", source, flags=re.M)).body:
        if isinstance(node, ast.Import | ast.ImportFrom):
            lines[node.lineno - 1 : node.end_lineno] = [""] * len(
                lines[node.lineno - 1 : node.end_lineno]
            )
    return [line for line in lines if line.strip() and not line.strip().startswith("#")]


def test_code_cells_are_short(notebook: NotebookNode) -> None:
    long = [c.source for c in code_cells(notebook) if len(lines_to_read(c.source)) > LONGEST_CELL]
    assert not long, f"{len(long)} cells over {LONGEST_CELL} lines, the first:\n{long[0]}"


def test_every_cell_is_run(notebook: NotebookNode) -> None:
    skipped = {"skip-execution", "raises-exception"}
    assert not [c.source for c in notebook.cells if skipped & set(c.metadata.get("tags", []))]


def test_figures_have_caption_name_and_alt(notebook: NotebookNode) -> None:
    for cell in code_cells(notebook):
        mystnb = cell.metadata.get("mystnb", {})
        if not {"figure", "image"} & mystnb.keys():
            continue
        assert mystnb["figure"]["caption"].strip(), cell.source
        assert re.fullmatch(r"fig-[a-z0-9-]+", mystnb["figure"]["name"]), cell.source
        assert len(mystnb["image"]["alt"]) >= 20, f"alt text that says little: {cell.source}"


def test_figure_names_are_unique_in_the_book() -> None:
    cells = (c for p in NOTEBOOKS for c in code_cells(nbformat.read(p, as_version=4)))
    names = Counter(c.metadata.get("mystnb", {}).get("figure", {}).get("name") for c in cells)
    del names[None]
    assert not [name for name, count in names.items() if count > 1]


def test_randomness_is_seeded(notebook: NotebookNode) -> None:
    for cell in code_cells(notebook):
        found = [*UNSEEDED.findall(cell.source), *unseeded_torch_calls(cell.source)]
        assert not found, cell.source


def test_no_titles_in_plots(notebook: NotebookNode) -> None:
    calls = re.compile(r"\.(set_title|suptitle)\(|plt\.title\(")
    assert not [c.source for c in code_cells(notebook) if calls.search(c.source)]


def text_of(notebook: NotebookNode) -> str:
    return "\n".join(cell.source for cell in notebook.cells if cell.cell_type == "markdown")


def test_first_cell_states_question_prerequisites_and_time(notebook: NotebookNode) -> None:
    chapter = Chapter.read(Path("this"), notebook)
    assert 5 <= chapter.minutes <= 90
    opening = notebook.cells[0].source
    assert "| Concept | Importance | Notes |" in opening
    assert "**What you need:**" in opening


def test_chapter_draws_its_conclusions_and_leads_on(notebook: NotebookNode) -> None:
    text = text_of(notebook)
    assert text.count("```{admonition} Takeaway") >= 3
    assert "\n## Summary\n" in text
    assert re.search(r"\*\*(Next|The end)", text.partition("\n## Summary\n")[2])


def test_every_exercise_has_a_folded_solution_and_a_time(notebook: NotebookNode) -> None:
    text = text_of(notebook)
    exercises = re.findall(r"\{exercise-start\}.*\n:label: (\S+)\n", text)
    solutions = re.findall(r"\{solution-start\} (\S+)\n:class: dropdown\n", text)
    assert exercises and exercises == solutions
    bodies = re.findall(r"\{exercise-start\}(.*?)\{exercise-end\}", text, re.S)
    assert all(re.search(r"\d+ minutes|an evening", body) for body in bodies)
