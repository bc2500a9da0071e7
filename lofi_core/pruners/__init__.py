"""Pruners: which visual tokens a model keeps. One file a method, one registry."""

from lofi_core.pruners.base import (
    Pruner,
    ScorePruner,
    Selection,
    VisualTokens,
    get_pruner,
    pruner_names,
)
from lofi_core.pruners.budget import IPRBudget, token_count
from lofi_core.pruners.controls import AntiLoFi, Norm, Random, UniformGrid
from lofi_core.pruners.lofi import LoFi

__all__ = [
    "AntiLoFi",
    "IPRBudget",
    "LoFi",
    "Norm",
    "Pruner",
    "Random",
    "ScorePruner",
    "Selection",
    "UniformGrid",
    "VisualTokens",
    "get_pruner",
    "pruner_names",
    "token_count",
]
