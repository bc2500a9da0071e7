"""The registry as a table: method, paper, where it acts, what it reads, what we follow, deviations.

Generated from the classes' own attributes, so that the table in the book says what the code says.
"""

from lofi_core.pruners.base import Pruner, registered

__all__ = ["table"]

_HEAD = ("method", "paper", "acts", "reads", "follows", "deviations")


def table() -> str:
    """Return all registered pruners as a table in Markdown, one row a method.

    Examples
    --------
    >>> table().splitlines()[0].split(" | ")[1:]
    ['paper', 'acts', 'reads', 'follows', 'deviations |']
    """
    lines = [_HEAD, ("---",) * len(_HEAD), *map(_row, registered())]
    return "\n".join(f"| {' | '.join(cells)} |" for cells in lines)


def _row(kind: type[Pruner]) -> tuple[str, ...]:
    paper = f"[{kind.paper}](https://arxiv.org/abs/{kind.paper})" if kind.paper else "–"
    return (f"`{kind.name}`", paper, kind.acts, kind.reads, kind.follows, kind.deviations)
