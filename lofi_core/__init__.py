"""Prune the visual tokens of a vision-language model, and see what it does to the answers."""

from lofi_core.errors import LofiError
from lofi_core.evaluation.asking import ask
from lofi_core.leverage import leverage_scores, ridge_leverage_scores
from lofi_core.pruners import LoFi, get_pruner
from lofi_core.pruning import prune_inputs, pruning
from lofi_core.ranks import EffectiveRank, EnergyRank
from lofi_core.scenes.vqa import SceneVQA
from lofi_core.spectrum import ipr, ipr_path, spectrum

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
