"""Replay a recorded run of a published method's own code with our classes.

A vector file (safetensors) holds what the authors' function received, ``in.*``, what it returned,
``out.*``, and in its metadata the method and its parameters. `replay` reads the former and computes
the latter, so that the two can be compared. Options named ``bug_compatible`` are set where the
recorded code has the bug.
"""

import json
from os import PathLike

import torch
from safetensors import SafetensorError, safe_open
from torch import Tensor

from lofi_core.errors import LofiError
from tests.pruners import replay_before, replay_inside

__all__ = ["replay"]

METHODS = replay_before.METHODS | replay_inside.METHODS


@torch.no_grad()
def replay(path: str | PathLike[str]) -> dict[str, Tensor]:
    """Compute a vector file's outputs from its inputs.

    Parameters
    ----------
    path : path-like
        A safetensors file with tensors ``in.*`` and metadata ``method`` and ``params`` (JSON).

    Returns
    -------
    dict of str to Tensor
        Under the file's ``out.*`` names. Indices are int64 and ascending, unless the name says
        ``order``.

    Raises
    ------
    LofiError
        If the file cannot be read, lacks an input or a parameter, or its method is not known.

    Examples
    --------
    >>> replay("tests/vectors/fastervlm__gauss_n64_k16.safetensors")["out.kept"].shape
    torch.Size([1, 16])
    """
    try:
        with safe_open(path, "pt") as file:
            metadata = file.metadata() or {}
            inputs = {k[3:]: file.get_tensor(k) for k in file.keys() if k.startswith("in.")}  # noqa: SIM118
    except (OSError, SafetensorError) as error:
        raise LofiError(f"replay: {path}: {error}; expected a safetensors file") from error
    method = metadata.get("method")
    if method not in METHODS:
        raise LofiError(f"replay: method {method!r} in {path}; expected one of {sorted(METHODS)}")
    try:
        outputs = METHODS[method](inputs, json.loads(metadata["params"]))
    except (KeyError, json.JSONDecodeError) as error:
        raise LofiError(
            f"replay: {path}: {error!r} is missing or unreadable; expected the inputs "
            f"and parameters of a {method} vector"
        ) from error
    return {f"out.{name}": tensor.contiguous() for name, tensor in outputs.items()}
