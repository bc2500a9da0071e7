"""The book's pipeline, tested on notebooks made here; what it builds is in test_pages.py."""

import subprocess
from io import BytesIO
from pathlib import Path

import nbformat
import numpy as np
import pytest
from nbformat import NotebookNode
from nbformat.v4 import new_code_cell, new_markdown_cell, new_notebook, new_output
from pypdf import PdfReader, PdfWriter
from pypdf.annotations import Link
from pypdf.generic import DecodedStreamObject, DictionaryObject, NameObject, NumberObject

from book.build import execute, gates
from book.build.colab import with_install
from book.build.links import addresses
from book.build.pages import Chapter, figures_page, spoken, with_chapters, without_dead_links
from book.build.pdf import Print, bind, slim
from book.build.provenance import BuildInfo, status_page
from book.build.repeat import differences
from book.build.site import toc_notebooks

ROOT = Path(__file__).resolve().parents[2]
PARAMETERS = new_code_cell("profile = 'ci'\nseed = 0", metadata={"tags": ["parameters"]})
FIGURE = {"figure": {"caption": "Two lines.", "name": "fig-two"}, "image": {"alt": "Two lines."}}


def notebook_of(*cells: NotebookNode) -> NotebookNode:
    kernel = {"name": "python3", "display_name": "Python 3", "language": "python"}
    return new_notebook(cells=list(cells), metadata={"kernelspec": kernel})


def written(folder: Path, *sources: str) -> Path:
    """A notebook file with a parameters cell and the given code cells."""
    path = folder / "01-trial.ipynb"
    nbformat.write(notebook_of(PARAMETERS, *map(new_code_cell, sources)), path)
    return path


def ran(source: str = "1", outputs: list[NotebookNode] | None = None, **metadata) -> NotebookNode:
    return new_code_cell(source, outputs=outputs or [], execution_count=1, metadata=metadata)


def picture(mime: str = "image/png", data: str = "iVBO") -> NotebookNode:
    return new_output("display_data", data={mime: data})


# Profiles and parameters


def test_a_parameter_that_the_notebook_does_not_declare_fails(tmp_path: Path) -> None:
    path = written(tmp_path, "1")
    with pytest.raises(execute.Failed, match="parameter sead of the profile is not declared"):
        execute.changed_parameters(path, {"profile": "ci", "sead": 1})


def test_only_parameters_with_another_value_are_injected(tmp_path: Path) -> None:
    path = written(tmp_path, "1")
    assert execute.changed_parameters(path, {"profile": "ci", "seed": 0}) == {}
    assert execute.changed_parameters(path, {"profile": "ci", "seed": 3}) == {"seed": 3}


@pytest.mark.parametrize("name", ["ci", "full"])
def test_profiles_say_their_name(name: str) -> None:
    profile = execute.load_profile(name)
    assert profile.parameters["profile"] == name and profile.timeout > 0


def test_an_unknown_profile_lists_those_that_exist() -> None:
    with pytest.raises(SystemExit, match="no profile 'fast'; there are: ci, full"):
        execute.load_profile("fast")


def test_outputs_are_put_beside_newer_text_and_injected_values_stay() -> None:
    injected = ran("seed = 3", tags=["injected-parameters"])
    done = notebook_of(PARAMETERS, injected, ran("1", [new_output("stream", text="one")]))
    done.metadata.papermill = {"duration": 1.0}
    newer = notebook_of(new_markdown_cell("new words"), PARAMETERS, new_code_cell("1"))
    cells = execute.with_outputs(newer, done).cells
    assert [c.source for c in cells] == ["new words", PARAMETERS.source, "seed = 3", "1"]
    assert cells[2].metadata.tags == ["hide-input"]
    assert cells[3].outputs[0].text == "one" and cells[3].execution_count == 1


# Failing notebooks; these start a kernel


@pytest.mark.slow
def test_a_failing_notebook_is_named_with_cell_and_error_and_kept(tmp_path: Path) -> None:
    path = written(tmp_path, "print('so far')", "values = []\nvalues[3]")
    partial = tmp_path / "out" / path.name
    with pytest.raises(execute.Failed) as caught:
        execute.execute(path, partial, {}, timeout=120)
    lines = str(caught.value).splitlines()
    assert len(lines) <= 5
    assert "code cell 3" in lines[1]
    assert "values[3]" in lines[2]
    assert lines[-1].strip() == "IndexError: list index out of range"
    assert "so far" in partial.read_text()


@pytest.mark.slow
def test_a_cell_that_takes_too_long_fails(tmp_path: Path) -> None:
    path = written(tmp_path, "import time\ntime.sleep(600)")
    with pytest.raises(execute.Failed, match=r"longer than 3 s|timed out"):
        execute.execute(path, tmp_path / "out" / path.name, {}, timeout=3)


# The same twice


@pytest.mark.slow
def test_a_notebook_gives_the_same_output_twice_or_is_found_out(tmp_path: Path) -> None:
    drawn = (
        "import torch\nfrom book.visuals.scrub import scrubber\n"
        "from lofi_core import plots\nplots.style()\n"
        "g = torch.Generator().manual_seed(seed)\nimport matplotlib.pyplot as plt"
    )
    figure = "fig, ax = plt.subplots()\nax.plot(torch.randn(9, generator=g))\nfig"
    moving = "scrubber([plt.figure(), plt.figure()], 'k', 'Nothing.')"
    path = written(tmp_path, drawn, figure, moving, "print(g.get_state().sum())", "print(id(g))")
    runs = []
    for name in ("first.ipynb", "second.ipynb"):
        execute.execute(path, tmp_path / "out" / name, {}, timeout=300)
        runs.append(nbformat.read(tmp_path / "out" / name, as_version=4))
    (found,) = differences(*runs)
    assert found.startswith("code cell 6 (print(id(g)))")
    runs[0].cells[-1].metadata.tags = ["measures-time"]
    assert differences(*runs) == []


# Gates


def test_gates_pass_a_sound_notebook() -> None:
    cells = [new_markdown_cell("words"), ran(), ran("plot()", [picture()], mystnb=FIGURE)]
    assert gates.check(notebook_of(*cells)) == []


@pytest.mark.parametrize(
    ("cell", "problem"),
    [
        (new_code_cell("x"), "was not executed"),
        (ran("x", [new_output("error", ename="E", evalue="v", traceback=[])]), "ended in E: v"),
        (ran("x", [new_output("stream", name="stderr", text="careful")]), "stderr: careful"),
        (ran("x", [picture(gates.WIDGET, "")]), "widget that a static page"),
        (ran("x", [picture()]), "figure without caption"),
        (ran("x", [picture("image/svg+xml")], mystnb={"image": {"alt": "a"}}), "without name"),
        (ran("x", [picture()], mystnb={"figure": FIGURE["figure"]}), "without alt"),
        (ran("x", [picture("text/html", '<div class="scrubber">')]), "without caption"),
        (ran("x", [picture(), picture()], mystnb=FIGURE), "2 outputs under one caption"),
    ],
    ids=lambda value: value if isinstance(value, str) else "",
)
def test_gates_name_the_cell_and_the_broken_rule(cell: NotebookNode, problem: str) -> None:
    found = gates.check(notebook_of(ran(), cell))
    assert any(problem in line and line.startswith("code cell 2 (x)") for line in found)


def test_gates_find_a_figure_name_used_twice() -> None:
    cells = [ran("plot()", [picture()], mystnb=FIGURE) for _ in range(2)]
    assert any("used twice" in line for line in gates.check(notebook_of(*cells)))


def test_static_page_keeps_html_and_drops_widgets() -> None:
    both = new_output("display_data", data={gates.WIDGET: {}, "text/html": "<b>frames</b>"})
    notebook = notebook_of(ran("x", [both]))
    notebook.metadata.widgets = {"state": {}}
    page = gates.for_static_page(notebook)
    assert page.cells[0].outputs[0].data == {"text/html": "<b>frames</b>"}
    assert "widgets" not in page.metadata and "widgets" in notebook.metadata


# Table of contents, status page, addresses


def test_every_file_of_the_table_of_contents_exists() -> None:
    names = [path.name for path in toc_notebooks(ROOT / "_toc.yml")]
    assert names == sorted(path.name for path in (ROOT / "notebooks").glob("*.ipynb"))


def test_status_page_lists_notebooks_versions_and_commit() -> None:
    record = execute.Record(Path("01-trial.ipynb"), {"seed": 3}, 12.4, "2026-01-02T03:04Z", False)
    text = status_page(BuildInfo("ci", "cpu", "abc1234", "2026-01-05"), [record])
    for part in ("(../notebooks/01-trial.ipynb)", "12 s", "seed=3", "abc1234", "| torch |", "cpu"):
        assert part in text


def test_first_page_gets_its_map_from_the_notebooks() -> None:
    opening = "# A trial\n\n**Does *it* run?**\n\n**Time to read:** 70 minutes.\n"
    path = Path("notebooks/01-trial.ipynb")
    notebooks = {path: notebook_of(new_markdown_cell(opening))}
    record = execute.Record(path, {}, 12.4, "2026-01-02T03:04Z", False)
    index = (
        "{time 01}, [one](notebooks/01-trial.ipynb), [two](notebooks/02-none.ipynb)\n\n% chapters\n"
    )
    text = with_chapters(index, notebooks, [record])
    text = without_dead_links(text, {"01-trial"})
    assert text.startswith("1 hour, [one](notebooks/01-trial.ipynb), two\n")
    assert "* - 1\n  - [A trial](notebooks/01-trial.ipynb)\n\n    Does *it* run?\n" in text
    assert "12\xa0s" in text and "70\xa0min" in text
    with pytest.raises(SystemExit, match="does not state its minutes"):
        Chapter.read(path, notebook_of(new_markdown_cell("# A trial\n\n**Does it?**")))


def test_index_of_figures_lists_each_with_its_caption() -> None:
    drawn = new_code_cell("plot()", metadata={"mystnb": FIGURE})
    opening = new_markdown_cell("# A trial\n\n**Does it?**\n\n**Time to read:** 5 minutes.\n")
    text = figures_page({Path("notebooks/01-trial.ipynb"): notebook_of(opening, drawn)})
    assert "## [A trial](../notebooks/01-trial.ipynb)" in text
    assert "{numref}`fig-two`\n: Two lines." in text


def test_times_are_spoken() -> None:
    assert [spoken(m) for m in (5, 60, 70, 100, 115)] == [
        "5 minutes",
        "1 hour",
        "1 hour",
        "1½ hours",
        "2 hours",
    ]


def test_notebook_for_colab_installs_the_library_first() -> None:
    notebook = notebook_of(new_markdown_cell("# Words"), PARAMETERS)
    result = with_install(notebook, "https://github.com/a/b", "abc123")
    assert [c.cell_type for c in result.cells] == ["markdown", "code", "code"]
    cell = result.cells[1]
    assert "git clone -q https://github.com/a/b" in cell.source and "abc123" in cell.source
    assert cell.metadata.tags == ["remove-cell"], "the page does not show it"
    assert len(notebook.cells) == 2, "the original is left alone"


def test_addresses_are_cut_out_of_sentences(tmp_path: Path) -> None:
    git = ["git", "-C", str(tmp_path)]
    subprocess.run([*git, "init", "-q"], check=True)
    (tmp_path / "a.md").write_text("See [it](https://a.org/x_(y)), <https://b.org/z>.")
    (tmp_path / "b.bib").write_text("@misc{k,\n  eprint = {2503.06794},\n}")
    subprocess.run([*git, "add", "."], check=True)
    assert addresses(tmp_path) == {
        "https://a.org/x_(y)": {"a.md"},
        "https://arxiv.org/abs/2503.06794": {"b.bib"},
        "https://b.org/z": {"a.md"},
    }


def test_links_between_chapters_stay_inside_the_pdf_and_others_outside() -> None:
    def paper(*addresses: str) -> PdfReader:
        writer = PdfWriter()
        writer.add_blank_page(100, 100)
        for address in addresses:
            writer.add_annotation(0, Link(rect=(0, 0, 9, 9), url=address))
        writer.add_outline_item(title="Two twowords words", page_number=0)
        out = BytesIO()
        writer.write(out)
        return PdfReader(out)

    base, other = "http://127.0.0.1:1", "https://arxiv.org/abs/2503.06794"
    first = paper(f"{base}/two.html#here", f"{base}/_images/a.png", other)
    prints = [Print("one", first, ["Two words"]), Print("two", paper(), [])]
    book = bind(prints, base)
    inside, outside = (link.get_object()["/A"] for link in book.pages[0]["/Annots"])
    assert inside["/S"] == "/GoTo" and inside["/D"][0].get_object() == book.pages[1]
    assert outside["/URI"] == other
    assert [item.title for item in book.outline] == ["Two words", "Two twowords words"]


def test_a_picture_on_paper_is_stored_with_a_palette_and_looks_the_same() -> None:
    ramp = np.linspace(0, 255, 64).astype(np.uint8)
    pixels = np.stack([np.tile(ramp, (48, 1)), np.full((48, 64), 90, np.uint8)] * 2, axis=-1)
    picture = DecodedStreamObject()
    picture.set_data(pixels[..., :3].tobytes())
    picture = picture.flate_encode()
    facts = {"/Type": "/XObject", "/Subtype": "/Image", "/ColorSpace": "/DeviceRGB"}
    picture.update({NameObject(key): NameObject(value) for key, value in facts.items()})
    for key, value in {"/Width": 64, "/Height": 48, "/BitsPerComponent": 8}.items():
        picture[NameObject(key)] = NumberObject(value)
    book = PdfWriter()
    page = book.add_blank_page(100, 100)
    things = DictionaryObject({NameObject("/a"): book._add_object(picture)})
    page[NameObject("/Resources")] = DictionaryObject({NameObject("/XObject"): things})
    slim(book)
    out = BytesIO()
    book.write(out)
    (found,) = PdfReader(out).pages[0].images
    assert found.indirect_reference.get_object()["/ColorSpace"][0] == "/Indexed"
    difference = np.asarray(found.image.convert("RGB"), int) - pixels[..., :3]
    assert np.abs(difference).max() <= 2
