"""Attach a pruner to a model, for a server or a pipeline: every call is pruned until `detach`.

Calls may run in several threads or asyncio tasks at once. What a call has to remember, that
its `forward` runs on behalf of a pruned `generate`, is kept in a context variable, of which every
thread and task has its own.
"""

import threading
from collections.abc import Callable, Iterable, Mapping
from contextlib import ExitStack
from contextvars import ContextVar
from dataclasses import dataclass, field
from functools import partial, wraps
from inspect import signature
from typing import TYPE_CHECKING, Any, Literal

import torch
from torch import Tensor

from lofi_core.errors import LofiError
from lofi_core.pruners.base import Pruner
from lofi_core.pruners.inside import InsidePruner
from lofi_core.vlm.encoding import Positions, PrunedInputs, check_acts_before, encode_inputs
from lofi_core.vlm.families import check_model, family_of
from lofi_core.vlm.generation import as_given, check_padding, with_limits
from lofi_core.vlm.inside import prune_inside
from lofi_core.vlm.report import ImageReport

if TYPE_CHECKING:
    from transformers import PreTrainedModel

__all__ = ["OnNoImage", "Traffic", "attach", "attach_recording", "detach"]

OnNoImage = Literal["pass", "raise"]

# Models whose `generate` runs in this context: its calls of `forward` are pruned already.
_GENERATING: ContextVar[frozenset[int]] = ContextVar("lofi_core_generating", default=frozenset())


@dataclass(eq=False)
class Traffic:
    """Totals of the calls since a pruner was attached; they take no memory per call.

    Parameters
    ----------
    pruned, passed : int
        Calls that were pruned, and calls without images, which ran as they were.
    tokens_before : int
        Visual tokens of the pruned calls.
    tokens_after : float
        Of these, how many reached the language model, or how many entered a layer on average.
    seconds : float
        Time of selection.
    """

    pruned: int = 0
    passed: int = 0
    tokens_before: int = 0
    tokens_after: float = 0
    seconds: float = 0.0
    _lock: Any = field(default_factory=threading.Lock, repr=False)

    def add(self, images: Iterable[ImageReport]) -> None:
        """Count the images of a call."""
        images = list(images)
        seconds = sum(image.seconds for image in images)
        for image in images:
            image.held.clear()
        with self._lock:
            self.pruned += 1
            self.tokens_before += sum(image.tokens_before for image in images)
            self.tokens_after += sum(image.tokens_after for image in images)
            self.seconds += seconds

    def add_inside(self, counts: Tensor, kept: tuple[Tensor, ...], seconds: float) -> None:
        """Count a batch of prompts by the visual tokens that entered each layer, (B, layers)."""
        with self._lock:
            before = int(counts[:, 0].sum())
            self.pruned += before > 0
            self.passed += before == 0
            self.tokens_before += before
            self.tokens_after += float(counts.double().mean(1).sum())
            self.seconds += seconds

    def pass_by(self) -> None:
        """Count a call without images."""
        with self._lock:
            self.passed += 1


def attach(
    model: "PreTrainedModel",
    pruner: Pruner | InsidePruner,
    positions: Positions = "original",
    on_no_image: OnNoImage = "pass",
) -> Traffic:
    """Prune every call of ``model(...)`` and ``model.generate(...)`` until `detach`.

    For servers and pipelines, which hold a model for long and get requests of all kinds. For a few
    calls, use `lofi_core.pruning`, a context manager. Threads and asyncio tasks may call the model
    at the same time, as far as the model itself allows it.

    Parameters
    ----------
    model : PreTrainedModel
        A vision-language model of a known family; only this instance is changed.
    pruner : Pruner or InsidePruner
        What to drop.
    positions : {"original", "compact"}
        As for `lofi_core.prune_inputs`.
    on_no_image : {"pass", "raise"}
        What to do with a call that brings no image: run it as it is, and count it, or raise
        LofiError. A pruner inside the language model always lets it pass.

    Returns
    -------
    Traffic
        Totals, which grow with every call.

    Raises
    ------
    LofiError
        If the model is a class, a PEFT or parallel wrapper, of an unknown family, or already
        pruned.

    Examples
    --------
    >>> from lofi_core import LoFi
    >>> from lofi_core.contract import shipped
    >>> model, inputs = shipped()  # three prompts, with an image of 144 tokens each
    >>> traffic = attach(model, LoFi(keep=0.25))
    >>> answers = model.generate(**inputs, max_new_tokens=2, do_sample=False)
    >>> traffic.tokens_before, traffic.tokens_after
    (432, 108)
    >>> detach(model)
    """
    traffic = Traffic()
    record = traffic.add_inside if isinstance(pruner, InsidePruner) else traffic.add
    attach_recording(model, pruner, positions, on_no_image, record, traffic.pass_by)
    return traffic


def detach(model: "PreTrainedModel") -> None:
    """Take the pruner off a model; it is then exactly what it was before `attach`.

    Raises
    ------
    LofiError
        If there is none.
    """
    check_model(model, "detach")
    if "_lofi" not in vars(model):
        raise LofiError("detach: no pruner is attached to this model; expected attach before it")
    vars(model).pop("_lofi")[1].close()


def attach_recording(
    model: "PreTrainedModel",
    pruner: Pruner | InsidePruner,
    positions: Positions,
    on_no_image: OnNoImage,
    record: Callable[..., None],
    pass_by: Callable[[], None],
) -> None:
    """Attach a pruner, with the functions that are told of each call; see `attach`."""
    check_model(model, "pruning")
    if "_lofi" in vars(model):
        raise LofiError(
            f"pruning: this model is already pruned by {vars(model)['_lofi'][0]}; expected one "
            "pruner at a time: leave the outer block, or detach(model), first"
        )
    if on_no_image not in ("pass", "raise"):
        raise LofiError(f"attach: on_no_image={on_no_image!r}; expected 'pass' or 'raise'")
    with ExitStack() as stack:
        if isinstance(pruner, InsidePruner):
            if positions != "original":
                raise LofiError(
                    f"pruning: positions={positions!r} for {type(pruner).__name__}, which settles "
                    "them itself, as its authors do; expected 'original': leave the argument out"
                )
            prune_inside(model, pruner, record, stack)
        else:
            check_acts_before(pruner)
            family_of(model)
            passes = on_no_image == "pass"
            prune = partial(_prune, model, pruner, positions, record, pass_by, passes)
            _wrap(model, prune, stack)
        vars(model)["_lofi"] = pruner, stack.pop_all()


def _prune(
    model: "PreTrainedModel",
    pruner: Pruner,
    positions: Positions,
    record: Callable[[Iterable[ImageReport]], None],
    pass_by: Callable[[], None],
    passes: bool,
    named: dict[str, Any],
) -> PrunedInputs | None:
    """Prune the inputs of one call; None if it brings no image and may pass."""
    if passes and not family_of(model).consumed(model, named):
        ids = named.get("input_ids")
        known = any(
            named.get(name) is not None for name in ("past_key_values", "mm_encoder_outputs")
        )
        if known or not isinstance(ids, Tensor) or not _placeholders(model, ids).any():
            pass_by()
            return None
    pruned = encode_inputs(model, named, pruner.needs).prune(pruner, positions)
    record(pruned.report.images)
    return pruned


def _placeholders(model: "PreTrainedModel", ids: Tensor) -> Tensor:
    names = ("image_token_id", "video_token_id")
    tokens = [t for name in names if (t := getattr(model.config, name, None)) is not None]
    return torch.isin(ids, ids.new_tensor(tokens))


def _wrap(
    model: "PreTrainedModel",
    prune: Callable[[dict[str, Any]], PrunedInputs | None],
    stack: ExitStack,
) -> None:
    """Put pruning in front of ``forward`` and ``generate``; the stack takes it away again."""
    forward, generate = model.forward, model.generate
    own = {name: vars(model)[name] for name in ("forward", "generate") if name in vars(model)}

    @wraps(forward)
    def pruned_forward(*args: Any, **kwargs: Any) -> Any:
        if id(model) in _GENERATING.get():
            return forward(*args, **kwargs)
        pruned = prune(_by_name(forward, args, kwargs))
        return forward(*args, **kwargs) if pruned is None else forward(**pruned)

    @wraps(generate)
    def pruned_generate(*args: Any, **kwargs: Any) -> Any:
        named = _by_name(generate, args, kwargs)
        if "inputs" in named:  # what generate calls its first argument
            named["input_ids"] = named.pop("inputs")
        pruned = prune(named)
        if pruned is not None:
            check_padding(pruned.get("attention_mask"))
            named_or_pruned = with_limits(model, named, dict(pruned))
        token = _GENERATING.set(_GENERATING.get() | {id(model)})
        try:
            output = generate(*args, **kwargs) if pruned is None else generate(**named_or_pruned)
        finally:
            _GENERATING.reset(token)
        if pruned is None:
            return output
        prompt, length = named["input_ids"], pruned["input_ids"].shape[1]
        if isinstance(output, Tensor):
            return as_given(output, prompt, length)
        output.sequences = as_given(output.sequences, prompt, length)
        return output

    def restore() -> None:
        del model.forward, model.generate
        vars(model).update(own)

    model.forward, model.generate = pruned_forward, pruned_generate
    stack.callback(restore)


def _by_name(
    function: Callable[..., Any], args: tuple[Any, ...], kwargs: Mapping[str, Any]
) -> dict[str, Any]:
    return dict(zip(signature(function).parameters, args, strict=False)) | dict(kwargs)
