"""Several devices where there is one: tensors on the CPU that say where they would be.

A model is spread over places as accelerate's ``device_map`` does it: whatever enters a module is
moved to where its parameters are. Everything else that brings tensors of two places together fails,
as it would on two GPUs. Places are called ``cpu:1`` and ``cpu:2``: to PyTorch, its one CPU.
"""

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn
from torch.overrides import TorchFunctionMode
from torch.utils._pytree import tree_leaves, tree_map_only

INDEXING = (Tensor.__getitem__, Tensor.__setitem__)


def place(x: Tensor) -> int:
    """Where a tensor is; 0 is the CPU itself."""
    return getattr(x, "_place", 0)


def move(tree: Any, where: int) -> Any:
    """Move all tensors in a nest of containers."""
    return tree_map_only(Tensor, lambda x: x.to(torch.device("cpu", where)), tree)


def spread(model: nn.Module, where: Callable[[str], int]) -> None:
    """Put each module's parameters where ``where`` says, and with them whatever enters it."""
    for name, module in model.named_modules():
        for x in (*module.parameters(recurse=False), *module.buffers(recurse=False)):
            x._place = where(name)
        if module not in (model, model.base_model):
            module.register_forward_pre_hook(_gather(where(name)), with_kwargs=True)


def _gather(where: int) -> Callable[..., Any]:
    return lambda module, args, kwargs: (move(args, where), move(kwargs, where))


class Places(TorchFunctionMode):
    """Keep track of where tensors are, and refuse to compute across places."""

    def __torch_function__(
        self, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: Any = None
    ) -> Any:
        kwargs = kwargs or {}
        if func == Tensor.device.__get__:  # type: ignore[attr-defined]
            return torch.device("cpu", place(args[0]))
        leaves = tree_leaves((args, kwargs))
        tensors = [x for x in leaves if isinstance(x, Tensor)]
        devices = [x for x in leaves if isinstance(x, torch.device)]
        there = {place(x) for x in tensors if x.ndim}  # numbers may be anywhere
        if devices:
            where = devices[0].index or 0
        elif func == Tensor.cpu:
            where = 0
        elif func in (Tensor.to, Tensor.copy_):
            where = place(tensors[-1 if func == Tensor.to else 0])
        else:
            if func in INDEXING and place(tensors[0]):
                there -= {0}  # indices may be on the CPU
            if len(there) > 1:
                raise RuntimeError(f"{func.__name__} of tensors at {there}, expected one place")
            where = max(there, default=place(tensors[0]) if tensors else 0)
        out = func(*args, **kwargs)
        if any(out is x for x in tensors) and place(out) != where:
            out = out.detach()  # a move that had nothing to do
        for x in out if isinstance(out, tuple) else tree_leaves(out):
            if isinstance(x, Tensor) and not any(x is y for y in tensors):
                x._place = where
        return out
