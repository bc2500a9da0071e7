"""The library's one exception, and the two checks that many modules share.

A message names the function, the offending value or shape, what was expected, and the remedy.
"""

from collections.abc import Iterator
from contextlib import contextmanager

from torch import Tensor

__all__ = ["LofiError", "check_tokens", "extra"]


class LofiError(ValueError):
    """Input that has no defined result; the message says what to do about it."""


@contextmanager
def extra(name: str) -> Iterator[None]:
    """Raise LofiError if an import in the block fails because the packages of an extra are missing.

    Parameters
    ----------
    name : str
        The extra, as pyproject.toml names it.

    Raises
    ------
    LofiError
        Names the package that is missing, and the line that installs it.

    Examples
    --------
    >>> with extra("plots"):
    ...     import no_such_package
    Traceback (most recent call last):
    ...
    lofi_core.errors.LofiError: no_such_package is not installed; ... pip install "lofi-core[plots]"
    """
    try:
        yield
    except ModuleNotFoundError as error:
        package = str(error.name).partition(".")[0]
        raise LofiError(
            f"{package} is not installed; expected the packages of the extra {name!r}: "
            f'pip install "lofi-core[{name}]"'
        ) from error


def check_tokens(X: Tensor, caller: str, *, waits: bool = False) -> None:
    """Refuse anything that is not a finite floating-point tensor of shape (..., N, D).

    Shape and dtype are always checked. Values are checked where looking at them is free: on the
    CPU, and on an accelerator only if the caller is going to wait for the device anyway
    (``waits``), as every SVD and eigendecomposition does. Elsewhere NaN and Inf tokens pass, and
    the results of the images that hold them are NaN.

    Parameters
    ----------
    X : Tensor, shape (..., N, D), any floating dtype
        Visual tokens, one a row, N >= 1 and D >= 1.
    caller : str
        Name of the public function, for the message.
    waits : bool
        True if the caller synchronises host and device on its own account.

    Raises
    ------
    LofiError
        If ``X`` is not a floating tensor, has fewer than two dimensions, no token or no channel,
        or (where looked for) a NaN or an infinity.

    Examples
    --------
    >>> import torch
    >>> check_tokens(torch.ones(3, 2), "spectrum")
    >>> check_tokens(torch.ones(3), "spectrum")  # doctest: +ELLIPSIS
    Traceback (most recent call last):
    ...
    lofi_core.errors.LofiError: spectrum: tokens of shape (3,); expected (..., N, D) ...
    """
    if not isinstance(X, Tensor) or not X.is_floating_point():
        kind = str(X.dtype) if isinstance(X, Tensor) else type(X).__name__
        raise LofiError(
            f"{caller}: tokens are {kind}; expected a floating-point torch.Tensor: convert them, "
            "e.g. with torch.as_tensor(tokens).float()"
        )
    if X.ndim < 2 or 0 in X.shape[-2:]:
        raise LofiError(
            f"{caller}: tokens of shape {tuple(X.shape)}; expected (..., N, D) with N, D >= 1: "
            "one image's tokens are the rows of a matrix"
        )
    # The largest of numbers that hold a NaN is NaN. Many times faster than isfinite of them all.
    looks = waits or X.device.type == "cpu"
    if looks and not bool(X.detach().abs().amax((-2, -1)).isfinite().all()):
        bad = (~X.isfinite()).any(-1).sum().item()
        raise LofiError(
            f"{caller}: {bad} token(s) of shape {tuple(X.shape)} hold NaN or Inf; expected finite "
            "values: look for overflow where they were computed (float16 ends at 65504)"
        )
