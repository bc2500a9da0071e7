"""What leverage scores cost, against the SVD, sketches of it, and the bare Gram product."""

from collections.abc import Callable, Sequence
from functools import partial

import numpy as np
import torch
from numpy.typing import NDArray
from sklearn.utils.extmath import randomized_svd
from torch import Tensor

from benchmarks.measure import Row, measure
from benchmarks.tokens import make_tokens
from lofi_core import EnergyRank, ipr_path, leverage_scores, ridge_leverage_scores

# B, N, D, and how fast singular values fall. The slow ones make a rank rule ask for half of all
# directions: the worst case of the default.
SHAPES = (
    (1, 576, 1024, 0.75),
    (1, 576, 1024, 0.25),
    (16, 576, 1024, 0.75),
    (1, 576, 4096, 0.75),
    (1, 2880, 1024, 0.75),
    (1, 10_000, 1152, 0.75),
)
RANK = 32  # for the algorithms that must be told one
# As scikit-learn does by default, and as far as it takes to be as exact as the others.
SKETCHES = {
    "sklearn randomized_svd": {"n_iter": 4},
    "sklearn randomized_svd, exact": {"n_iter": 8, "n_oversamples": 48},
}
FLOOR, SOLVER = "Gram product", "eigensolver alone"


def scoring(
    device: torch.device, repeats: int, shapes: Sequence[tuple[int, int, int, float]]
) -> list[Row]:
    """Rows by shape and algorithm: seconds, and how far scores are from float64's."""
    return [row for shape in shapes for row in _shape(device, repeats, *shape)]


def _shape(device: torch.device, repeats: int, B: int, N: int, D: int, decay: float) -> list[Row]:
    X = make_tokens(B, N, D, decay=decay, device=device)
    k, energy = min(RANK, min(N, D) // 4), EnergyRank(0.9)
    order = torch.arange(N, device=device).expand(B, N)
    centred = X - X.mean(-2, keepdim=True)  # sketches get it for nothing
    T = centred @ centred.mT if N <= D else centred.mT @ centred

    def scores(rank: object, method: str) -> Callable[[], Tensor]:
        return lambda: leverage_scores(X, rank, method, center=True)  # type: ignore[arg-type]

    timed: dict[str, Callable[[], object]] = {
        FLOOR: (lambda: X @ X.mT) if N <= D else (lambda: X.mT @ X),
        SOLVER: lambda: torch.linalg.eigh(T),
        "torch.linalg.svd": lambda: torch.linalg.svd(X, full_matrices=False),
        "torch.svd_lowrank": lambda: torch.svd_lowrank(centred, q=2 * k, niter=4)[0],
        "ridge": lambda: ridge_leverage_scores(X, 1.0, relative=True, center=True),
        "ipr_path": lambda: ipr_path(X, order, center=True),
    }
    if device.type == "cpu":
        images = centred.numpy()
        for name, options in SKETCHES.items():
            timed[name] = partial(_sketch, images, k, **options)
    for method in ("svd", "gram"):
        timed[f"{method}, rank {k}"] = scores(k, method)
        timed[f"{method}, 90 % energy"] = scores(energy, method)
    rows = measure(timed, device, repeats)
    chosen = {f"gram, rank {k}", "gram, 90 % energy"}  # what "auto" takes
    for name, row in rows.items():
        if name.endswith((f"rank {k}", "energy")) or name in (*SKETCHES, "torch.svd_lowrank"):
            row |= _quality(X, timed[name], energy if name.endswith("energy") else k)
    shape = {"B": B, "N": N, "D": D, "decay": decay}
    return [shape | {"algorithm": n, "auto": n in chosen} | row for n, row in rows.items()]


def _sketch(images: NDArray[np.float32], k: int, **options: int) -> Tensor:
    """Left singular vectors by randomised SVD, one image after the other."""
    found = [randomized_svd(image, k, random_state=0, **options)[0] for image in images]
    return torch.from_numpy(np.stack(found))


def _quality(X: Tensor, function: Callable[[], object], rank: object) -> Row:
    """Largest error of a score, and the share of the best quarter that both find, one image.

    A sketch returns left singular vectors, the others scores.
    """
    found = function()
    assert isinstance(found, Tensor)
    if found.shape[:-1] == X.shape[:-1]:
        found = found[..., :rank].square().sum(-1)  # type: ignore[misc]
    exact = leverage_scores(X[:1].double().cpu(), rank, "gram", center=True)[0]  # type: ignore[arg-type]
    ours, m = found[0].double().cpu(), exact.shape[-1] // 4
    best = [set(scores.topk(m).indices.tolist()) for scores in (ours, exact)]
    error = (ours - exact).abs().max().item()
    return {
        "error": float(f"{error:.2g}"),
        "overlap": len(best[0] & best[1]) / m,
        "rank": round(exact.sum().item()),
    }
