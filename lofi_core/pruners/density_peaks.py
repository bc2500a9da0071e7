r"""Clustering by density peaks on nearest neighbours (DPC-KNN), as SparseVLM recycles tokens by it.

d_ij = ||x_i - x_j|| / sqrt(D),    rho_i = exp(-mean of the c smallest d_ij^2),
delta_i = min { d_ij : rho_j > rho_i },    centres: the c largest rho_i delta_i
"""

import torch
from torch import Tensor

__all__ = ["density_peaks"]


def density_peaks(x: Tensor, c: int) -> Tensor:
    """Cluster by density peaks (DPC-KNN): which of c clusters each token joins.

    A token's c smallest distances include that to itself; where none is denser, delta is the
    largest distance of all. Clusters are numbered by falling ``rho * delta`` of their centres;
    other tokens join the nearest centre.

    Parameters
    ----------
    x : Tensor, shape (n, D)
        Tokens.
    c : int in [1, n]
        Clusters, and neighbours that density is measured on.

    Returns
    -------
    Tensor, shape (n,), int64
        In 0..c-1.

    Examples
    --------
    >>> x = torch.tensor([0.0, 0.1, 0.3, 5.0, 5.1, 5.2, 9.0, 9.1, 9.4])
    >>> density_peaks(x[:, None], 3)
    tensor([1, 1, 1, 0, 0, 0, 2, 2, 2])
    """
    d = torch.cdist(x, x, compute_mode="donot_use_mm_for_euclid_dist") * x.shape[1] ** -0.5
    rho = (-d.square().sort(-1).values[:, :c].mean(-1)).exp()
    denser = rho > rho[:, None]
    nearest = d.masked_fill(~denser, torch.inf).amin(-1)
    delta = torch.where(denser.any(-1), nearest, d.max())
    centres = (rho * delta).argsort(descending=True, stable=True)[:c]
    cluster = d[:, centres].argmin(-1)
    cluster[centres] = torch.arange(c, device=x.device)
    return cluster
