"""`generate` on a shorter prompt, for a caller who counts by the original one.

Lengths that include the prompt, and the caller's own stopping criteria and logits processors, mean
the prompt that the caller gave; so does what `generate` returns.
"""

from collections.abc import Callable, Mapping
from copy import copy
from typing import Any

from torch import Tensor, cat

from lofi_core.errors import LofiError

__all__ = ["as_given", "check_padding", "with_limits"]


def as_given(ids: Tensor, prompt: Tensor, pruned_length: int) -> Tensor:
    """Put the original prompt, (B, L), in place of the pruned one that sequences begin with.

    Examples
    --------
    >>> import torch
    >>> as_given(torch.tensor([[1, 2, 9], [1, 2, 8]]), torch.tensor([[1, 7, 7, 2]]), 2)
    tensor([[1, 7, 7, 2, 9],
            [1, 7, 7, 2, 8]])
    """
    answers = ids[:, pruned_length:]
    prompts = prompt.repeat_interleave(len(answers) // len(prompt), 0).to(answers.device)
    return cat((prompts, answers), 1)


def with_limits(model: Any, named: Mapping[str, Any], pruned: dict[str, Any]) -> dict[str, Any]:
    """Return arguments of `generate` for a pruned prompt, whose limits mean the original one.

    Parameters
    ----------
    model
        Whose `generation_config` holds the defaults.
    named : mapping
        What the caller gave, ``input_ids`` among it.
    pruned : dict
        The same with pruned inputs.
    """
    prompt, length = named["input_ids"], pruned["input_ids"].shape[1]
    dropped = prompt.shape[1] - length
    given, defaults = named.get("generation_config"), model.generation_config
    changed: dict[str, Any] = {}
    for limit, fresh in (("max_length", "max_new_tokens"), ("min_length", "min_new_tokens")):
        settings = [named, *(vars(x) for x in (given, defaults) if x is not None)]
        if any(setting.get(fresh) is not None for setting in settings):
            continue  # new tokens are counted without the prompt
        value = next((v for s in settings if (v := s.get(limit)) is not None), None)
        if value:
            changed[limit] = max(0, value - dropped)
    if given is not None:  # transformers takes a configuration or single settings, not both
        config = copy(given)
        for limit in [name for name in changed if named.get(name) is None]:
            setattr(config, limit, changed.pop(limit))
        changed["generation_config"] = config
    for name in ("stopping_criteria", "logits_processor"):
        if named.get(name):
            wrapped = [_on_whole_prompt(inner, prompt, length) for inner in named[name]]
            changed[name] = type(named[name])(wrapped)
    return pruned | changed


def check_padding(mask: Tensor | None) -> None:
    """Raise LofiError for prompts that are padded on the right."""
    if mask is not None and not mask[:, -1].all():
        raise LofiError(
            "pruning: generate on prompts padded on the right; expected them padded on the left, "
            "or answers would follow the padding: tokenise with padding_side='left'"
        )


def _on_whole_prompt(
    inner: Callable[..., Any], prompt: Tensor, pruned_length: int
) -> Callable[..., Any]:
    """Call a criterion or a processor with the original prompt in the sequences it sees."""

    def call(ids: Tensor, scores: Any, **kwargs: Any) -> Any:
        return inner(as_given(ids, prompt, pruned_length), scores, **kwargs)

    return call
