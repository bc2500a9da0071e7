"""Tokens made ready for products: of unit scale, so that none over- or underflows, and centred."""

import torch
from torch import Tensor

__all__ = ["ratio", "unit_scale"]


def unit_scale(X: Tensor, center: bool) -> tuple[Tensor, Tensor]:
    """Divide tokens by their largest absolute entry, and subtract their mean if asked.

    Parameters
    ----------
    X : Tensor, shape (..., N, D), any floating dtype
        Visual tokens, one a row.
    center : bool
        Subtract the mean token. Tokens that are equal up to rounding become exact zeros.

    Returns
    -------
    unit : Tensor, shape (..., N, D), float32 or float64
        The tokens in float32 (float64 if X is), scaled and centred.
    scale : Tensor, shape (..., 1, 1)
        The entry they were divided by; 1 if that is 0.

    Examples
    --------
    >>> import torch
    >>> unit_scale(torch.tensor([[4.0, 1.0], [2.0, 1.0]]), center=True)[0]
    tensor([[ 0.2500,  0.0000],
            [-0.2500,  0.0000]])
    """
    unit = X.to(torch.promote_types(X.dtype, torch.float32))
    scale = unit.detach().abs().amax((-2, -1), keepdim=True)
    scale = torch.where(scale == 0, 1, scale)
    unit = unit / scale
    if not center:
        return unit, scale
    rounding = 8 * torch.finfo(unit.dtype).eps * torch.linalg.vector_norm(unit, dim=(-2, -1))
    # Twice: where the mean is much larger than the spread, its rounding would count as a direction.
    for _ in range(2):
        unit -= unit.mean(-2, keepdim=True)
    equal = torch.linalg.vector_norm(unit.detach(), dim=(-2, -1)) <= rounding
    return unit.mul_(~equal[..., None, None]), scale


def ratio(above: Tensor, below: Tensor) -> Tensor:
    """Divide, with 0 where ``below`` is 0; NaN stays NaN.

    Examples
    --------
    >>> import torch
    >>> ratio(torch.tensor([1.0, 0.0]), torch.tensor([2.0, 0.0]))
    tensor([0.5000, 0.0000])
    """
    zero = below == 0
    return torch.where(zero, 0, above / torch.where(zero, 1, below))
