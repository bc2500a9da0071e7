"""What selection costs: every pruner of the registry, and how its cost grows with the tokens.

Pruners before the language model are timed whole, on tokens and on what an encoder knows. Of those
inside it the choice between two layers is timed, with the attention, keys and hidden states that it
reads given: what computing these takes, and the layers that ran on all tokens, come on top. A
pruner that encodes the image again has no time of its own: it costs what the encoder costs.
"""

import math
from collections.abc import Callable, Sequence
from dataclasses import fields, replace
from functools import partial

import torch
from torch import Tensor
from torch.nn.functional import normalize

from benchmarks.counting import Counting
from benchmarks.measure import Row, measure
from benchmarks.tokens import make_tokens, make_view, make_visual
from lofi_core.pruners import InsidePruner, VisualTokens, get_pruner, pruner_names
from lofi_core.pruners.clip import ClipPruner
from lofi_core.pruners.greedy import farthest_points, pivoted_cholesky
from lofi_core.pruners.inside import LayerView, Stage

SIZES = (576, 1024, 2880)
KEEP = 0.25
PUBLISHED = "divprune, published loop"
WHOLE, CHOICE = "the whole selection", "the choice, what it reads given"
AGAIN = "nothing: the image is encoded again, smaller"


def published_divprune(X: Tensor, m: int) -> Tensor:
    """Choose as DivPrune's paper specifies (arXiv 2503.02175, algorithm 1), one image at a time.

    Each step takes the smallest distance to *all* chosen tokens anew: m steps cost O(N m^2).
    """
    unit = normalize(X, dim=-1)
    distance = 1 - unit @ unit.mT
    chosen = [int(distance.topk(2, dim=0, largest=False).values[1].argmax())]
    while len(chosen) < m:
        chosen.append(int(distance[chosen].amin(0).argmax()))
    return torch.tensor(chosen)


def selection(
    device: torch.device, repeats: int, sizes: Sequence[int] = SIZES, D: int = 1024
) -> list[Row]:
    """Rows by pruner and N: seconds, bytes, operations, and the exponent fitted over all N."""
    rows: list[Row] = []
    for N in sizes:
        visual = _to(make_visual(1, N, D, _grid(N)), device)
        calls = _calls(visual, make_view(N, D, device))
        published = partial(published_divprune, visual.projected[0], round(KEEP * N))
        calls[PUBLISHED] = WHOLE, published
        found = measure({name: call for name, (_, call) in calls.items()}, device, repeats)
        for name, (what, call) in calls.items():
            with Counting() as counted:
                call()
            counts = {"bytes": counted.peak, "operations": counted.launches, "waits": counted.waits}
            about = {"pruner": name, "N": N, "D": D, "keep": KEEP, "timed": what}
            rows.append(about | found[name] | counts)
    for row in rows:
        same = [other for other in rows if other["pruner"] == row["pruner"]]
        row["exponent"] = exponent([r["N"] for r in same], [r["median"] for r in same])
    return rows + [{"pruner": name, "timed": AGAIN} for name in pruner_names() if _again(name)]


def greedy(device: torch.device, repeats: int, B: int = 16, N: int = 576) -> list[Row]:
    """Rows of the two loops that choose one token at a time, a quarter of N for each of B images.

    On a GPU also captured as one CUDA graph: the loops never wait, so that capture is all it takes
    not to be bound by launches.
    """
    X = normalize(make_tokens(B, N, 64, device=device), dim=-1)
    K, m = X @ X.mT, round(KEEP * N)
    loops = {
        "pivoted_cholesky": partial(pivoted_cholesky, K, m),
        "farthest_points": partial(farthest_points, 1 - K, m),
    }
    timed: dict[str, Callable[[], object]] = dict(loops)
    if device.type == "cuda":
        timed |= {f"{name}, captured": _captured(loop) for name, loop in loops.items()}
    found = measure(timed, device, repeats)
    return [{"loop": name, "B": B, "N": N, "m": m} | row for name, row in found.items()]


def _captured(function: Callable[[], object]) -> Callable[[], object]:
    side = torch.cuda.Stream()
    with torch.cuda.stream(side):  # the first run may allocate
        function()
    torch.cuda.current_stream().wait_stream(side)
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        function()
    return graph.replay


def exponent(N: Sequence[float], seconds: Sequence[float]) -> float | None:
    """Slope of log time over log N, by least squares; None for a single N."""
    if len(N) < 2:
        return None
    x, y = [math.log(n) for n in N], [math.log(t) for t in seconds]
    mx, my = sum(x) / len(x), sum(y) / len(y)
    slope = sum((a - mx) * (b - my) for a, b in zip(x, y, strict=True))
    return round(slope / sum((a - mx) ** 2 for a in x), 2)


def _calls(visual: VisualTokens, view: LayerView) -> dict[str, tuple[str, Callable[[], object]]]:
    """What is timed of each pruner of the registry, and how to run it, all at one budget."""
    N = visual.projected.shape[1]
    calls: dict[str, tuple[str, Callable[[], object]]] = {}
    for name in pruner_names():
        pruner = get_pruner(name, keep=KEEP)
        if _again(name):
            continue
        if isinstance(pruner, InsidePruner):
            calls[name] = CHOICE, partial(pruner.pick, view, Stage(layer=1, count=round(KEEP * N)))
            continue
        if isinstance(pruner, ClipPruner):  # a question in the encoder's own space; TRIM's is short
            C = visual.require("encoded", name).shape[-1]
            text = torch.eye(1 if name == "trim" else 8, C)
            pruner = replace(pruner, text_embeds=text, embed=torch.nn.Identity())
        calls[name] = WHOLE, partial(pruner, visual)
    return calls


def _again(name: str) -> bool:
    """Whether a pruner encodes the image again."""
    return "encode" in get_pruner(name, keep=KEEP).needs


def _grid(N: int) -> tuple[int, ...]:
    rows = max(d for d in range(1, math.isqrt(N) + 1) if N % d == 0)
    return rows, N // rows


def _to(visual: VisualTokens, device: torch.device) -> VisualTokens:
    values = {field.name: getattr(visual, field.name) for field in fields(visual)}
    there = {n: v.to(device) for n, v in values.items() if isinstance(v, Tensor | torch.nn.Module)}
    return replace(visual, **there)
