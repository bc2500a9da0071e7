"""Prune the inputs, not the model: fewer visual tokens for any Hugging Face VLM.

`prune_inputs` takes what a processor returns and gives back shorter inputs: the vision encoder runs
once, a pruner chooses, and the chosen features go along as ``mm_encoder_outputs`` with matching
``input_ids``, mask and positions. The model stays as it is, so ``model(**x)``,
``model.generate(**x)``, every attention back-end, cache and compiler simply work. `pruning` is the
same as a context manager.
"""

from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from functools import wraps
from inspect import signature
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from lofi_core.errors import LofiError
from lofi_core.pruners.base import Pruner
from lofi_core.pruners.inside import InsidePruner
from lofi_core.vlm.encoding import EncodedInputs, Positions, PrunedInputs, encode_inputs
from lofi_core.vlm.inside import InsideReport, pruning_inside
from lofi_core.vlm.report import Report

if TYPE_CHECKING:
    from transformers import PreTrainedModel

__all__ = ["EncodedInputs", "PrunedInputs", "encode_inputs", "prune_inputs", "pruning"]


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
    No gradients. Where gaps in the positions could be taken for the borders of packed sequences,
    the mask says 2 for 1, lest transformers (5.23) leave it out; keep it, or use a cache. Models
    with sliding-window attention count their window in tokens, so that it reaches further in a
    pruned sequence.
    """
    if isinstance(pruner, InsidePruner):
        raise LofiError(
            f"prune_inputs: {type(pruner).__name__} acts inside the language model, so no inputs "
            "are shorter; expected a pruner that acts before it: run this one as "
            "`with pruning(model, pruner): model(**inputs)`"
        )
    return encode_inputs(model, inputs, pruner.needs).prune(pruner, positions)


@contextmanager
def pruning(
    model: "PreTrainedModel", pruner: Pruner, positions: Positions = "original"
) -> Iterator[Report | InsideReport]:
    """Prune every call of ``model(...)`` and ``model.generate(...)`` inside a ``with`` block.

    Only this instance is touched, and it is restored on leaving the block, also by an exception.
    The sequences that ``generate`` returns begin with the *original* prompt, so that
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
    if hasattr(model.forward, "pruner"):
        raise LofiError(
            f"pruning: this model is already pruned by {model.forward.pruner}; expected one block "
            "at a time: leave the outer one first"
        )
    if isinstance(pruner, InsidePruner):
        if positions != "original":
            raise LofiError(
                f"pruning: positions={positions!r} for {type(pruner).__name__}, which settles them "
                "itself, as its authors do; expected 'original': leave the argument out"
            )
        with pruning_inside(model, pruner) as inside:
            yield inside
        return
    report = Report()
    forward, generate = model.forward, model.generate
    own = {name: vars(model)[name] for name in ("forward", "generate") if name in vars(model)}
    generating = False

    def prune(inputs: Mapping[str, Any]) -> PrunedInputs:
        pruned = prune_inputs(model, inputs, pruner, positions)
        report.add(pruned.report.images)
        return pruned

    @wraps(forward)
    def pruned_forward(*args: Any, **kwargs: Any) -> Any:
        if generating:
            return forward(*args, **kwargs)
        return forward(**prune(_by_name(forward, args, kwargs)))

    @wraps(generate)
    def pruned_generate(*args: Any, **kwargs: Any) -> Any:
        nonlocal generating
        named = _by_name(generate, args, kwargs)
        if "inputs" in named:  # what generate calls its first argument
            named["input_ids"] = named.pop("inputs")
        pruned = prune(named)
        if not pruned.get("attention_mask", torch.ones(1, 1))[:, -1].all():
            raise LofiError(
                "pruning: generate on prompts padded on the right; expected them padded on the "
                "left, or answers would follow the padding: tokenise with padding_side='left'"
            )
        dropped = named["input_ids"].shape[1] - pruned["input_ids"].shape[1]
        for limit in ("max_length", "min_length"):  # they count the prompt
            if pruned.get(limit) is not None:
                pruned[limit] -= dropped
        generating = True
        try:
            output = generate(**pruned)
        finally:
            generating = False
        return _restore_prompt(output, named["input_ids"], pruned["input_ids"].shape[1])

    vars(pruned_forward)["pruner"] = pruner
    model.forward, model.generate = pruned_forward, pruned_generate
    try:
        yield report
    finally:
        del model.forward, model.generate
        vars(model).update(own)


def _by_name(
    function: Callable[..., Any], args: tuple[Any, ...], kwargs: Mapping[str, Any]
) -> dict[str, Any]:
    return dict(zip(signature(function).parameters, args, strict=False)) | dict(kwargs)


def _restore_prompt(output: Any, prompt: Tensor, pruned_length: int) -> Any:
    """Put the original prompt in front of what was generated."""
    sequences = output if isinstance(output, Tensor) else output.sequences
    answers = sequences[:, pruned_length:]
    prompts = prompt.repeat_interleave(len(answers) // len(prompt), 0).to(answers.device)
    sequences = torch.cat((prompts, answers), 1)
    if isinstance(output, Tensor):
        return sequences
    output.sequences = sequences
    return output
