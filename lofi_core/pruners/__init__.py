"""Pruners: which visual tokens a model keeps. One file a method, one registry."""

from lofi_core.pruners.base import (
    FixedPruner,
    Pruner,
    ScorePruner,
    get_pruner,
    pruner_names,
    registered,
)
from lofi_core.pruners.budget import IPRBudget, OutlierBudget, token_count
from lofi_core.pruners.cdpruner import CDPruner
from lofi_core.pruners.clip import ClipPruner, ClipText
from lofi_core.pruners.controls import AntiLoFi, AveragePool, Norm, Random, UniformGrid
from lofi_core.pruners.dart import DART
from lofi_core.pruners.divprune import DivPrune
from lofi_core.pruners.downsample import Downsample
from lofi_core.pruners.fastervlm import FasterVLM
from lofi_core.pruners.fastv import FastV
from lofi_core.pruners.hired import HiRED
from lofi_core.pruners.inside import InsidePruner
from lofi_core.pruners.lofi import LoFi
from lofi_core.pruners.lofi_deflated import DeflatedLoFi
from lofi_core.pruners.lofi_inside import LoFiInside
from lofi_core.pruners.lrcp import LRCP
from lofi_core.pruners.prumerge import PruMerge, PruMergePlus
from lofi_core.pruners.pyramiddrop import PyramidDrop
from lofi_core.pruners.sparsevlm import SparseVLM, SparseVLMPlus
from lofi_core.pruners.tokens import Selection, VisualTokens
from lofi_core.pruners.tome import ToMe
from lofi_core.pruners.trim import TRIM
from lofi_core.pruners.visionzip import VisionZip
from lofi_core.pruners.vispruner import VisPruner

__all__ = [
    "DART",
    "LRCP",
    "TRIM",
    "AntiLoFi",
    "AveragePool",
    "CDPruner",
    "ClipPruner",
    "ClipText",
    "DeflatedLoFi",
    "DivPrune",
    "Downsample",
    "FastV",
    "FasterVLM",
    "FixedPruner",
    "HiRED",
    "IPRBudget",
    "InsidePruner",
    "LoFi",
    "LoFiInside",
    "Norm",
    "OutlierBudget",
    "PruMerge",
    "PruMergePlus",
    "Pruner",
    "PyramidDrop",
    "Random",
    "ScorePruner",
    "Selection",
    "SparseVLM",
    "SparseVLMPlus",
    "ToMe",
    "UniformGrid",
    "VisPruner",
    "VisionZip",
    "VisualTokens",
    "get_pruner",
    "pruner_names",
    "registered",
    "token_count",
]
