"""What a promise holds for: the model, its processor, and the code that measured it."""

import hashlib
import json
import subprocess
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any
from weakref import WeakKeyDictionary

import torch
import transformers

from lofi_core.evaluation.records import fingerprint

__all__ = ["code_commit", "of_model", "of_processor", "versions"]

# Hashing weights takes seconds, and a large vocabulary a tenth of one.
_WEIGHTS: WeakKeyDictionary[Any, str] = WeakKeyDictionary()
_VOCABULARIES: WeakKeyDictionary[Any, str] = WeakKeyDictionary()


def of_model(model: Any) -> dict[str, str]:
    """Name what of a model decides its answers: ``weights``, ``family`` and ``dtype``.

    Weights are read once for each model object; do not change them while it serves.
    """
    if model not in _WEIGHTS:
        _WEIGHTS[model] = fingerprint(model)
    return {
        "weights": _WEIGHTS[model],
        "family": str(model.config.model_type),
        "dtype": str(model.dtype).removeprefix("torch."),
    }


def of_processor(processor: Any) -> str:
    """First 16 digits of the SHA-256 of a processor: image settings, chat template, vocabulary.

    The vocabulary is read once for each tokenizer object.
    """
    tokenizer = processor.tokenizer
    if tokenizer not in _VOCABULARIES:
        words = json.dumps(sorted(tokenizer.get_vocab().items()))
        _VOCABULARIES[tokenizer] = hashlib.sha256(words.encode()).hexdigest()
    facts = {
        "class": type(processor).__name__,
        "settings": processor.to_dict(),
        "template": processor.chat_template,
        "vocabulary": _VOCABULARIES[tokenizer],
    }
    text = json.dumps(facts, sort_keys=True, default=str)
    return hashlib.sha256(text.encode()).hexdigest()[:16]


def versions() -> dict[str, str]:
    """Versions of what computed the answers."""
    try:
        own = version("lofi-core")
    except PackageNotFoundError:  # run from a checkout
        own = "unknown"
    return {"torch": torch.__version__, "transformers": transformers.__version__, "lofi_core": own}


def code_commit() -> str:
    """Commit of the checkout that this code is in; "unknown" for an installed package."""
    root = Path(__file__).resolve().parents[2]
    if not (root / ".git").exists():
        return "unknown"
    command = ["git", "-C", str(root), "describe", "--always", "--dirty=-modified", "--exclude=*"]
    try:
        return subprocess.run(command, capture_output=True, text=True, check=True).stdout.strip()
    except (OSError, subprocess.CalledProcessError):
        return "unknown"
