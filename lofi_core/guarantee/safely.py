"""A context manager: ``model.generate`` keeps a policy's promise inside a ``with`` block."""

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from functools import wraps
from inspect import signature
from typing import Any

import torch
from torch import Tensor

from lofi_core.errors import LofiError
from lofi_core.guarantee.confidence import Reply
from lofi_core.guarantee.monitor import Monitor
from lofi_core.guarantee.policy import Policy
from lofi_core.guarantee.serving import Served, answer

__all__ = ["safely"]

# What would give other answers than those that were calibrated, or show them before they are sure.
GREEDY: dict[str, tuple[Any, ...]] = {
    "streamer": (None,),
    "do_sample": (None, False),
    "num_beams": (None, 1),
    "num_return_sequences": (None, 1),
    "return_dict_in_generate": (None, False),
}


@contextmanager
def safely(
    model: Any, processor: Any, policy: Policy, monitor: Monitor | None = None
) -> Iterator[Served]:
    """Let every ``model.generate(...)`` inside a ``with`` block answer under a policy.

    Its arguments are the processor's output, ``max_new_tokens`` (no more than the policy's) and,
    for closed answers, ``choices``, one sequence of str per row. It returns the *original* prompts,
    each followed by its answer and padding, as ``generate`` does. Only this instance is touched,
    and it is restored on leaving the block. ``model(...)`` itself stays unpruned.

    Parameters
    ----------
    model, processor
        A vision-language model, the one that the policy is for.
    policy : Policy
        From `lofi_core.guarantee.calibrate`.
    monitor : Monitor, optional
        Watches the promise.

    Yields
    ------
    Served
        Coverage, tokens, passes, seconds and cost; grows with every call.

    Raises
    ------
    LofiError
        If the policy is for another model or processor, or the model is pruned already. Inside, for
        streaming, sampling and beams, for longer answers than were calibrated, and as
        `lofi_core.guarantee.serving.answer`.
    """
    policy.check(model, processor)
    if "_lofi" in vars(model) or hasattr(model.generate, "policy"):
        raise LofiError(
            "safely: this model is already pruned; expected one block at a time: leave the outer "
            "one first"
        )
    report = Served()
    generate = model.generate
    own = vars(model).get("generate")

    @wraps(generate)
    def safe_generate(*args: Any, **kwargs: Any) -> Tensor:
        named = dict(zip(signature(generate).parameters, args, strict=False)) | kwargs
        if "inputs" in named:  # what generate calls its first argument
            named["input_ids"] = named.pop("inputs")
        choices = named.pop("choices", None)
        inputs = _checked(policy, named)
        model.generate = generate
        try:
            found = answer(policy, model, processor, inputs, choices, report, monitor)
        finally:
            model.generate = safe_generate
        return _sequences(model, inputs["input_ids"], found)

    safe_generate.policy = policy  # type: ignore[attr-defined]
    model.generate = safe_generate
    try:
        yield report
    finally:
        del model.generate
        if own is not None:
            model.generate = own


def _checked(policy: Policy, named: Mapping[str, Any]) -> dict[str, Any]:
    """Refuse what the promise does not cover; return what the processor gave."""
    inputs = dict(named)
    for name, allowed in GREEDY.items():
        if (value := inputs.pop(name, None)) not in allowed:
            raise LofiError(
                f"safely: generate({name}={value!r}); expected the plain greedy answer, whole: it "
                "is what was certified, and it may be taken back until it is complete"
            )
    longest = inputs.pop("max_new_tokens", None) or policy.longest
    if longest > policy.longest:
        raise LofiError(
            f"safely: max_new_tokens={longest}; expected at most {policy.longest}, the longest "
            f"answer that was certified: calibrate with longest={longest}"
        )
    return inputs


def _sequences(model: Any, prompts: Tensor, found: Sequence[Reply]) -> Tensor:
    """Put the original prompts in front of the answers."""
    pad = getattr(model.generation_config, "pad_token_id", None) or 0
    width = max(len(each.tokens) for each in found)
    rows = [[*each.tokens, *[pad] * (width - len(each.tokens))] for each in found]
    return torch.cat([prompts, prompts.new_tensor(rows)], 1)
