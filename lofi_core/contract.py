"""What every pruner promises, as checks that run on any of them: `check_pruner`.

A pruner that keeps these promises works with every family of models, in batches, at every budget,
and can be compared with all others. The checks run it through a model; by default through the one
that ships with the package.
"""

from collections.abc import Callable, Mapping
from dataclasses import replace
from itertools import pairwise
from typing import Any

import torch
from torch import Tensor

from lofi_core.errors import LofiError
from lofi_core.pruners import InsidePruner, Pruner, Selection
from lofi_core.pruning import prune_inputs, pruning
from lofi_core.vlm.inside import pruning_inside
from lofi_core.vlm.reference import masked_logits, seen_tokens, with_facts

__all__ = ["PROMISES", "PROMISES_INSIDE", "check_pruner", "shipped"]

Inputs = Mapping[str, Any]
Check = Callable[[Pruner, Any, Inputs], bool]


@torch.no_grad()
def check_pruner(
    pruner: Pruner, model: Any | None = None, inputs: Inputs | None = None
) -> list[str]:
    """Check that a pruner keeps its promises.

    Parameters
    ----------
    pruner : Pruner
        With a budget below 1. Not one that is shared out over a batch, ``IPRBudget(mean=...)``,
        for which an image alone is another matter.
    model, inputs : optional
        A vision-language model in float32, and what its processor returned for one or several
        images. By default the shipped SceneVLM, asked about three of its scenes.

    Returns
    -------
    list of str
        The promises, all of which it kept.

    Raises
    ------
    LofiError
        Names the first promise that it broke; also as `lofi_core.pruning.prune_inputs`.

    Examples
    --------
    >>> from lofi_core import LoFi
    >>> check_pruner(LoFi(keep=0.25))[0]
    'keep=1 leaves the logits as they are, bit for bit'
    """
    if model is None or inputs is None:
        model, inputs = shipped()
    promises = PROMISES_INSIDE if isinstance(pruner, InsidePruner) else PROMISES
    for promise, holds in promises.items():
        if not holds(pruner, model, inputs):
            raise LofiError(
                f"check_pruner: {pruner} broke the promise: {promise}; expected it kept: a "
                "choice may depend on the image's own tokens and on the pruner's fields alone"
            )
    return list(promises)


def shipped() -> tuple[Any, Inputs]:
    """Return the shipped model, and three test scenes with a question each."""
    from lofi_core import scene_vlm
    from lofi_core.scenes.vqa import SceneVQA
    from lofi_core.vlm.prompts import chat_inputs

    model, processor = scene_vlm.load()
    scenes = [SceneVQA("test")[i] for i in range(3)]
    return model, chat_inputs(processor, [(s.image, s.questions[0].text) for s in scenes])


# Before the language model


def _keeps_all(pruner: Pruner, model: Any, inputs: Inputs) -> bool:
    pruned = prune_inputs(model, inputs, replace(pruner, keep=1.0))
    return torch.equal(model(**pruned).logits, model(**inputs).logits)


def _masks(pruner: Pruner, model: Any, inputs: Inputs) -> bool:
    short = prune_inputs(model, inputs, pruner)
    got = model(**short).logits[short["attention_mask"].bool()]
    expected = masked_logits(model, inputs, pruner)
    scale = expected.abs().max().clamp(min=1)
    return bool((got - expected).abs().max() <= 1e-5 * scale)


def _ascends(pruner: Pruner, model: Any, inputs: Inputs) -> bool:
    images = prune_inputs(model, inputs, pruner).report.images
    return all(len(i.kept) and bool((i.kept.diff() > 0).all()) for i in images)


def _alone(pruner: Pruner, model: Any, inputs: Inputs) -> bool:
    for tokens in seen_tokens(model, inputs, pruner.needs):
        batch = pruner(tokens)
        for b in range(len(tokens.projected)):
            if not _equal(batch, b, pruner(with_facts(tokens, _image(b)))):
                return False
    return True


def _image(b: int) -> Callable[[Tensor], Tensor]:
    return lambda x: x[b : b + 1]


def _equal(batch: Selection, b: int, alone: Selection) -> bool:
    """Compare kept indices exactly, and new tokens up to the rounding of other batch sizes."""
    if not torch.equal(batch.kept[b], alone.kept[0]):
        return False
    if batch.tokens is None or alone.tokens is None:
        return batch.tokens is alone.tokens
    scale = alone.tokens[0].abs().max().clamp(min=1)
    return bool((batch.tokens[b] - alone.tokens[0]).abs().max() <= 1e-5 * scale)


def _repeats(pruner: Pruner, model: Any, inputs: Inputs) -> bool:
    first, second = (prune_inputs(model, inputs, pruner).report.images for _ in range(2))
    return all(torch.equal(a.kept, b.kept) for a, b in zip(first, second, strict=True))


def _reports(pruner: Pruner, model: Any, inputs: Inputs) -> bool:
    with pruning(model, pruner) as report:
        model(**inputs)
    before, after = inputs, prune_inputs(model, inputs, pruner)
    visual = [int((x["input_ids"] == model.config.image_token_id).sum()) for x in (before, after)]
    return [report.tokens_before, report.tokens_after] == visual


def _halves(pruner: Pruner, model: Any, inputs: Inputs) -> bool:
    for tokens in seen_tokens(model, inputs, pruner.needs):
        for dtype in (torch.bfloat16, torch.float16):

            def cast(x: Tensor, dtype: torch.dtype = dtype) -> Tensor:
                return x.to(dtype) if x.is_floating_point() else x

            half = with_facts(tokens, cast)
            found = {name: getattr(tokens, name) for name in ("project", "encode")}
            modules: dict[str, Any] = {name: _wide(f) for name, f in found.items() if f is not None}
            half = replace(half, **modules)
            try:
                pruner(half)
            except LofiError:  # the pruner's own check of scores and merged tokens
                return False
    return True


def _wide(module: Callable[[Tensor], Tensor]) -> Callable[[Tensor], Tensor]:
    """Run a module of the float32 model on other types."""
    return lambda x: module(x.float()).to(x.dtype)


def _restores(pruner: Pruner, model: Any, inputs: Inputs) -> bool:
    before, attributes = model(**inputs).logits, set(vars(model))
    with pruning(model, pruner):
        model(**inputs)
    return set(vars(model)) == attributes and torch.equal(model(**inputs).logits, before)


# Inside it


def _keeps_all_inside(pruner: Any, model: Any, inputs: Inputs) -> bool:
    with pruning_inside(model, replace(pruner, keep=1.0)) as report:
        logits = model(**inputs).logits
    return report.keep == 1 and torch.equal(logits, model(**inputs).logits)


def _caches(pruner: Any, model: Any, inputs: Inputs) -> bool:
    with pruning_inside(model, pruner) as report:
        cache = model(**inputs, use_cache=True).past_key_values
    counts = report.entered[0]
    text = inputs["attention_mask"].sum(-1) - counts[:, 0]
    longest = (text[:, None] + counts).amax(0).tolist()
    return [cache.get_seq_length(i) for i in range(len(longest))] == longest


def _only_drops(pruner: Any, model: Any, inputs: Inputs) -> bool:
    with pruning_inside(model, pruner) as report:
        model(**inputs)
    return all(bool((b <= a).all()) for a, b in pairwise(report.entered[0].T))


def _budget_inside(pruner: Any, model: Any, inputs: Inputs) -> bool:
    with pruning_inside(model, pruner) as report:
        model(**inputs)
    return pruner.keep is None or report.keep <= pruner.keep + 1e-9


PROMISES: dict[str, Check] = {
    "keep=1 leaves the logits as they are, bit for bit": _keeps_all,
    "dropping tokens equals masking them, original positions kept": _masks,
    "an image keeps at least one token, indices ascend": _ascends,
    "an image keeps alone what it keeps in a batch": _alone,
    "the same call makes the same choice": _repeats,
    "the report counts what reached the language model": _reports,
    "half precision works": _halves,
    "the model is what it was": _restores,
}
PROMISES_INSIDE: dict[str, Check] = {
    "keep=1 leaves the logits as they are, bit for bit": _keeps_all_inside,
    "no layer sees more visual tokens than the one before": _only_drops,
    "the average over layers is within the budget": _budget_inside,
    "each layer's cache is as long as what entered it": _caches,
    "the model is what it was": _restores,
}
