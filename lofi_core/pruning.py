"""Prune the inputs, not the model: fewer visual tokens for any Hugging Face VLM.

`prune_inputs` takes what a processor returns and gives back shorter inputs: the vision encoder runs
once, a pruner chooses, and the chosen features go along as ``mm_encoder_outputs`` with matching
``input_ids``, mask and positions. The model stays as it is, so ``model(**x)``,
``model.generate(**x)``, every attention back-end, cache and compiler simply work. `pruning` is the
same as a context manager.
"""

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

from lofi_core.pruners.base import Pruner
from lofi_core.pruners.inside import InsidePruner
from lofi_core.vlm.attach import attach, attach_recording, detach
from lofi_core.vlm.encoding import (
    EncodedInputs,
    Positions,
    PrunedInputs,
    check_acts_before,
    encode_inputs,
)
from lofi_core.vlm.inside import InsideReport
from lofi_core.vlm.report import Report

if TYPE_CHECKING:
    from transformers import PreTrainedModel

__all__ = [
    "EncodedInputs",
    "PrunedInputs",
    "attach",
    "detach",
    "encode_inputs",
    "prune_inputs",
    "pruning",
]


def prune_inputs(
    model: "PreTrainedModel",
    inputs: Mapping[str, Any],
    pruner: Pruner,
    positions: Positions = "original",
) -> PrunedInputs:
    """Drop visual tokens from a model's inputs.

    Parameters
    ----------
    model : PreTrainedModel
        A vision-language model of a known family, see `lofi_core.vlm.families.FAMILIES`. It is run
        as far as its projector, and not changed.
    inputs : mapping
        What its processor returned: ``input_ids``, pixels, and so on. Padding may be on either
        side; rows may hold any number of images, also none.
    pruner : Pruner
        Chooses among each image's tokens. Text, and separators between patches, always stay.
    positions : {"original", "compact"}
        What position ids the remaining tokens get: those they had, so that decoding goes on after
        the *original* length; or new ones without gaps.

    Returns
    -------
    PrunedInputs
        For ``model(**x)`` and ``model.generate(**x)``. At ``keep=1`` the logits are bit for bit
        those of ``model(**inputs)``.

    Raises
    ------
    LofiError
        If the family is not known; if there is no image; if image tokens and features do not match;
        if the encoder cannot give what the pruner needs; if the pruner acts inside the language
        model, where `pruning` is the way to run it.

    Notes
    -----
    Gradients reach the vision encoder in training (``model.training``) only, and not through
    pruners that merge tokens, which are refused there. transformers (5.23) can take gaps in the
    positions for borders of packed sequences; mask values of 2, or with FlashAttention a column of
    padding before a single row, prevent it: keep the mask. Sliding-window attention counts the
    tokens that are left, so that it reaches further back in a pruned sequence; a warning says so
    where the prompt is longer than the window.
    """
    check_acts_before(pruner)
    return encode_inputs(model, inputs, pruner.needs).prune(pruner, positions)


@contextmanager
def pruning(
    model: "PreTrainedModel", pruner: Pruner, positions: Positions = "original"
) -> Iterator[Report | InsideReport]:
    """Prune every call of ``model(...)`` and ``model.generate(...)`` inside a ``with`` block.

    Only this instance is touched, and it is restored on leaving the block, also by an exception.
    Threads may call it at the same time. For a server, see `lofi_core.vlm.attach.attach`. The
    sequences that ``generate`` returns begin with the *original* prompt, so that
    ``out[:, inputs["input_ids"].shape[1]:]`` is the answer, as without pruning. A block inside a
    block for the same model is refused. A pruner that acts inside the language model is run there,
    by `lofi_core.vlm.inside.pruning_inside`, and settles positions itself.

    Yields
    ------
    Report or InsideReport
        Grows with every call. Both have ``tokens_before``, ``tokens_after`` (for the latter as an
        average over layers) and ``seconds``.

    Raises
    ------
    LofiError
        As `prune_inputs`; also for calls that hold no image, such as decoding by hand: use
        `prune_inputs` there. As `pruning_inside` for a pruner inside the language model.
    """
    report: Report | InsideReport = InsideReport() if isinstance(pruner, InsidePruner) else Report()
    attach_recording(model, pruner, positions, "raise", report.add, lambda: None)
    try:
        yield report
    finally:
        detach(model)
