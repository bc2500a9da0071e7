"""The command ``lofi``: ``lofi audit`` decides on a pruner, ``lofi evaluate`` asks questions.

An audit leaves with status 0 for pass or warn, 1 for block, 2 for inconclusive, 3 for an error.
Every mistake is one line.
"""

import shlex
import sys
import traceback
from collections.abc import Sequence
from pathlib import Path
from typing import Annotated, Any

from lofi_core.errors import LofiError, extra

with extra("audit"):
    import typer
    from rich.console import Console
    from rich.table import Table
    from typer.core import TyperGroup

__all__ = ["app"]

STATUS = {"pass": 0, "warn": 0, "block": 1, "inconclusive": 2}
ERROR = 3


class OneLine(TyperGroup):
    """Commands whose mistakes are one line and status 3, whatever raised them."""

    def main(self, *args: Any, **options: Any) -> Any:
        """Run a command; leave with its status."""
        standalone = options.pop("standalone_mode", True)
        options["standalone_mode"] = False  # so that errors arrive here
        try:
            status = super().main(*args, **options)
        except LofiError as error:
            status = _said(" ".join(str(error).split()))
        except Exception as error:
            # A wrong option is the user's; anything else is ours and needs its traceback. Neither
            # may leave with Python's own status 1, which would read as "block".
            told = getattr(error, "format_message", None)
            if told is None:
                traceback.print_exc()
            status = _said(told() if told else repr(error))
        if standalone:
            sys.exit(status)
        return status


def _said(message: str) -> int:
    print(f"error: {message}", file=sys.stderr)
    return ERROR


app = typer.Typer(
    cls=OneLine,
    no_args_is_help=False,
    add_completion=False,
    help="Visual-token pruning: what it does to a model's answers.",
)


@app.command()
def audit(
    data: Annotated[
        str,
        typer.Option(
            help="JSON lines with image, question and optional answer, choices, group; or NAME:N "
            "for N scenes of scenevqa or N questions of a public benchmark"
        ),
    ],
    out: Annotated[Path, typer.Option(help="folder of the report; answers are kept in it")],
    model: Annotated[
        str, typer.Option(help="folder or hub id (default: the shipped SceneVLM)")
    ] = "",
    pruner: Annotated[list[str], typer.Option(help="may be given several times")] = [  # noqa: B006
        "deflated-lofi"
    ],
    budget: Annotated[
        list[float],
        typer.Option(help="share of visual tokens to keep; may be given several times"),
    ] = [0.5],  # noqa: B006
    limit: Annotated[float, typer.Option(help="largest acceptable share of flips")] = 0.01,
    delta: Annotated[float, typer.Option(help="error of each bound")] = 0.05,
    images_per_batch: Annotated[int, typer.Option(help="pictures encoded together")] = 8,
    dtype: Annotated[str, typer.Option(help="float32, bfloat16 or float16")] = "float32",
    attention: Annotated[str, typer.Option(help="attention back-end")] = "sdpa",
    device: Annotated[str, typer.Option(help="cpu or cuda (default: cuda if there is one)")] = "",
) -> int:
    """Decide whether pruning changes too many answers: 0 pass, 1 block, 2 inconclusive, 3 error."""
    import torch

    from lofi_core.evaluation.__main__ import load
    from lofi_core.evaluation.arms import arms
    from lofi_core.evaluation.audit import audit as run
    from lofi_core.guarantee.bounds import check_level
    from lofi_core.scene_vlm import PATH

    # First what is cheap to check: a misspelt name must not cost the loading of a model.
    check_level("audit", "limit", limit)
    check_level("audit", "delta", delta)
    arms(pruner, budget)
    if out.exists() and not out.is_dir():
        raise LofiError(f"audit: {out} is a file; expected a folder, or a new name")
    if dtype not in ("float32", "bfloat16", "float16"):
        raise LofiError(f"audit: dtype={dtype!r}; expected float32, bfloat16 or float16")
    scenes, name, n = _data(data)
    place = device or ("cuda" if torch.cuda.is_available() else "cpu")
    loaded = load(model or str(PATH), dtype, attention, place)
    found = run(
        *loaded,
        scenes,
        pruner,
        budget,
        limit,
        out / "answers",
        delta=delta,
        data=name,
        n=n,
        images_per_batch=images_per_batch,
        command=shlex.join(["lofi", *sys.argv[1:]]),
    )
    if found is None:
        print("this process is done; the last one to finish writes the report")
        return 0
    page = found.to_html(out / "report.html")
    found.to_json(out / "report.json")
    found.to_markdown(out / "report.md")
    _show(found, page)
    return STATUS[found.verdict]


@app.command(
    context_settings={"allow_extra_args": True, "ignore_unknown_options": True},
    add_help_option=False,
)
def evaluate(context: typer.Context) -> None:
    """Ask questions under many pruners and keep every answer; see lofi evaluate --help."""
    from lofi_core.evaluation.__main__ import main

    main(context.args)


def _data(text: str) -> tuple[Sequence[Any], str, int | None]:
    """Scenes, their name, and how many of them are asked about."""
    from lofi_core.evaluation.benchmarks import BENCHMARKS, load_benchmark
    from lofi_core.evaluation.data import read_rows
    from lofi_core.scenes.vqa import SceneVQA

    name, colon, count = text.partition(":")
    names = ["scenevqa", *BENCHMARKS]
    if name not in names or Path(text).exists():
        return read_rows(text), Path(text).name, None
    if not colon or not count.isdecimal() or int(count) < 2:
        raise LofiError(f"audit: data={text!r}; expected a file, or {name}:N with N at least 2")
    if name == "scenevqa":
        return SceneVQA("test"), "SceneVQA('test', seed=0)", int(count)
    return load_benchmark(name, int(count)), f"load_benchmark({name!r}, {count}, seed=0)", None


def _show(found: Any, page: Path) -> None:
    """Print the verdict, one line per pruner and budget, and where the report is."""
    table = Table("method", "budget", "flips", "at most", "verdict")
    for result in found.results:
        d = result.decision
        budget = "" if result.budget is None else f"{result.budget:g}"
        table.add_row(result.pruner, budget, f"{d.flips.value:.2%}", f"{d.at_most:.2%}", d.verdict)
    console = Console()
    console.print(table)
    for result in found.results:
        console.print(f"{result.parameters}: {'; '.join(result.decision.reasons)}", markup=False)
    console.print(f"verdict: {found.verdict}; report: {page}", markup=False, soft_wrap=True)
