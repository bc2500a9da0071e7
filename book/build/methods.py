"""The registry of pruners as tables: one row per method, made from the classes' own attributes."""

import inspect
from collections.abc import Sequence
from pathlib import Path

from lofi_core.pruners import Pruner, registered

__all__ = ["details", "lines"]

ROOT = Path(__file__).resolve().parents[2]


def lines() -> str:
    """Name, paper, idea and evidence of each method, for the README; names link to the code.

    Examples
    --------
    >>> [row] = [row for row in lines().splitlines() if "`random`" in row]
    >>> row.split(" | ")
    ['| [`random`](lofi_core/pruners/controls.py)', '–', ..., 'the number of tokens |']
    """
    rows = [("method", "paper", "what it does", "what it looks at")]
    for kind in registered():
        file = Path(inspect.getfile(kind)).relative_to(ROOT).as_posix()
        idea = (inspect.getdoc(kind) or "").splitlines()[0].rstrip(".")
        rows.append((f"[`{kind.name}`]({file})", _paper(kind), idea, kind.reads))
    return _markdown(rows)


def details() -> str:
    """Where each method acts, what it reads and follows, and how it deviates, for the book.

    Examples
    --------
    >>> details().splitlines()[0].split(" | ")[1:]
    ['paper', 'acts', 'reads', 'follows', 'deviations |']
    """
    rows = [("method", "paper", "acts", "reads", "follows", "deviations")]
    for kind in registered():
        name = f"`{kind.name}`"
        rows.append((name, _paper(kind), kind.acts, kind.reads, kind.follows, kind.deviations))
    return _markdown(rows)


def _paper(kind: type[Pruner]) -> str:
    return f"[{kind.paper}](https://arxiv.org/abs/{kind.paper})" if kind.paper else "–"


def _markdown(rows: Sequence[tuple[str, ...]]) -> str:
    head, *body = rows
    return "\n".join(f"| {' | '.join(row)} |" for row in (head, ("---",) * len(head), *body))
