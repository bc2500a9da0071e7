"""Prune the visual tokens of a vision-language model, and see what it does to the answers.

Pruning and spectra are imported at once. `ask` and `SceneVQA`, which need packages of an extra, and
all other submodules are imported when they are first used, so that ``import lofi_core`` is fast.

Examples
--------
>>> import lofi_core
>>> lofi_core.leverage.EnergyRank is lofi_core.EnergyRank
True
>>> len(lofi_core.scenes.vqa.SceneVQA("test")[0].questions)
7
"""

from importlib import import_module
from importlib.metadata import PackageNotFoundError, version
from importlib.util import find_spec
from typing import TYPE_CHECKING, Any

from lofi_core.errors import LofiError
from lofi_core.leverage import EffectiveRank, EnergyRank, leverage_scores, ridge_leverage_scores
from lofi_core.pruners import LoFi, get_pruner
from lofi_core.pruning import prune_inputs, pruning
from lofi_core.spectrum import ipr, ipr_path, spectrum

if TYPE_CHECKING:
    from lofi_core.evaluation.asking import ask
    from lofi_core.scenes.vqa import SceneVQA

__all__ = [
    "EffectiveRank",
    "EnergyRank",
    "LoFi",
    "LofiError",
    "SceneVQA",
    "ask",
    "get_pruner",
    "ipr",
    "ipr_path",
    "leverage_scores",
    "prune_inputs",
    "pruning",
    "ridge_leverage_scores",
    "spectrum",
]

try:
    __version__ = version("lofi-core")
except PackageNotFoundError:  # a checkout on the path, not installed
    __version__ = "unknown"

_LATER = {"SceneVQA": "lofi_core.scenes.vqa", "ask": "lofi_core.evaluation.asking"}


def __getattr__(name: str) -> Any:
    """Import a later name, or a submodule, when it is first used (PEP 562)."""
    if name in _LATER:
        return getattr(import_module(_LATER[name]), name)
    if not name.startswith("_") and find_spec(f"{__name__}.{name}"):
        return import_module(f"{__name__}.{name}")
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")


def __dir__() -> list[str]:
    return sorted({*globals(), *_LATER})
