"""What leverage scores cost, against the SVD, sketches of it, and the bare Gram product."""

from collections.abc import Callable

import torch
from sklearn.utils.extmath import randomized_svd
from torch import Tensor

from benchmarks.measure import Row, measure
from benchmarks.tokens import make_tokens
from lofi_core import EnergyRank, ipr_path, leverage_scores, ridge_leverage_scores
from lofi_core.projectors import fastest

SHAPES = ((1, 576, 1024), (16, 576, 1024), (1, 576, 4096), (1, 2880, 1024), (1, 10_000, 1152))
RANK = 32  # for the algorithms that must be told one
FLOOR, SOLVER = "Gram product", "eigensolver alone"


def scoring(device: torch.device, repeats: int, shapes: tuple[tuple[int, int, int], ...]) -> list:
    """Rows by shape and algorithm: seconds, and how far scores are from float64's."""
    return [row for shape in shapes for row in _shape(device, repeats, *shape)]


def _shape(device: torch.device, repeats: int, B: int, N: int, D: int) -> list[Row]:
    X = make_tokens(B, N, D, device=device)
    k, energy = min(RANK, min(N, D) // 4), EnergyRank(0.9)
    order = torch.arange(N, device=device).expand(B, N)
    T = X @ X.mT if N <= D else X.mT @ X

    def scores(rank: object, method: str) -> Callable[[], Tensor]:
        return lambda: leverage_scores(X, rank, method, center=True)  # type: ignore[arg-type]

    timed: dict[str, Callable[[], object]] = {
        FLOOR: (lambda: X @ X.mT) if N <= D else (lambda: X.mT @ X),
        SOLVER: lambda: torch.linalg.eigh(T),
        "torch.linalg.svd": lambda: torch.linalg.svd(X, full_matrices=False),
        "torch.svd_lowrank": lambda: torch.svd_lowrank(X, q=2 * k, niter=4),
        "ridge": lambda: ridge_leverage_scores(X, 1.0, relative=True, center=True),
        "ipr_path": lambda: ipr_path(X, order, center=True),
    }
    if device.type == "cpu":
        one = X[0].numpy()
        timed["sklearn randomized_svd"] = lambda: [
            randomized_svd(one, k, n_iter=4, random_state=0) for _ in range(B)
        ]
    for method in ("gram", "gram32", "subspace", "purify"):
        timed[f"{method}, rank {k}"] = scores(k, method)
    for method in ("gram", "gram32", "purify"):
        timed[f"{method}, 90 % energy"] = scores(energy, method)
    rows = measure(timed, device, repeats)
    chosen = {f"{fastest(X, k)}, rank {k}", f"{fastest(X, energy)}, 90 % energy"}
    for name, row in rows.items():
        if name.endswith((f"rank {k}", "energy")):
            row |= _quality(X, timed[name], energy if name.endswith("energy") else k)
    shape = {"B": B, "N": N, "D": D}
    return [shape | {"algorithm": n, "auto": n in chosen} | row for n, row in rows.items()]


def _quality(X: Tensor, function: Callable[[], object], rank: object) -> Row:
    """Largest error of a score, and the share of the best quarter that both find, one image."""
    found = function()
    assert isinstance(found, Tensor)
    exact = leverage_scores(X[:1].double().cpu(), rank, "gram", center=True)[0]  # type: ignore[arg-type]
    ours, m = found[0].double().cpu(), exact.shape[-1] // 4
    best = [set(scores.topk(m).indices.tolist()) for scores in (ours, exact)]
    error = (ours - exact).abs().max().item()
    return {
        "error": float(f"{error:.2g}"),
        "overlap": len(best[0] & best[1]) / m,
        "rank": round(exact.sum().item()),
    }
