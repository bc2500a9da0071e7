"""Count instead of timing: operations, waits for the device, and memory alive at once.

Counts are the same on every machine and at any load, so tests can hold them to fixed numbers.
"""

import weakref
from collections import Counter
from typing import Any

import torch
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

# What makes the host wait for an accelerator: values or sizes that it must see to go on, and
# LAPACK-like routines that report their success.
WAITS = (
    "_local_scalar_dense",
    "nonzero",
    "masked_select",
    "_unique2",
    "unique_dim",
    "bincount",
    "_linalg_eigh",
    "_linalg_svd",
    "linalg_qr",
    "linalg_cholesky",
    "equal",
)


class Counting(TorchDispatchMode):
    """Count what runs inside a ``with`` block.

    Attributes
    ----------
    operations : Counter
        Calls by name; on an accelerator nearly each is one kernel launch.
    peak : int
        Largest number of bytes that tensors made inside the block held at one time. Scratch memory
        inside an operation isn't seen.
    """

    def __init__(self) -> None:
        super().__init__()
        self.operations: Counter[str] = Counter()
        self.alive = self.peak = 0
        self._known: weakref.WeakSet[Any] = weakref.WeakSet()

    @property
    def waits(self) -> int:
        """Operations that would make the host wait for an accelerator."""
        return sum(self.operations[name] for name in WAITS)

    @property
    def launches(self) -> int:
        """Operations that compute something: neither views nor bare allocations."""
        return sum(self.operations.values())

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        result = func(*args, **(kwargs or {}))
        name = func.overloadpacket.__name__
        if not (func.is_view or name.startswith(("empty", "new_empty", "detach", "_unsafe_view"))):
            self.operations[name] += 1
        given = {id(x.untyped_storage()) for x in tree_leaves((args, kwargs)) if _is_tensor(x)}
        for tensor in filter(_is_tensor, tree_leaves(result)):
            storage = tensor.untyped_storage()
            if id(storage) not in given and storage not in self._known:
                self._known.add(storage)
                self._add(storage.nbytes())
                weakref.finalize(storage, self._add, -storage.nbytes()).atexit = False
        return result

    def _add(self, size: int) -> None:
        self.alive += size
        self.peak = max(self.peak, self.alive)


def _is_tensor(x: Any) -> bool:
    return isinstance(x, torch.Tensor)
