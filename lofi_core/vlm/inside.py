r"""Drop visual tokens between layers of a language model, by removable hooks.

Before layer l of each stage, the tokens that the pruner doesn't keep leave the sequence:

    hidden <- hidden[S],    positions <- positions[S], or the first |S| of them

(the latter for methods that renumber), so later layers compute on, and cache, just what was kept.
The attention that a method reads is computed for the rows it asks for, from the queries and keys of
one layer; everything else runs on the model's own attention back-end. A method sees one row of a
batch, padding left out, and all visual tokens of a row, of however many images, are one set to
choose from.
"""

import threading
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any
from weakref import WeakKeyDictionary

from torch import Tensor

from lofi_core.errors import LofiError
from lofi_core.pruners.inside import InsidePruner
from lofi_core.vlm.families import check_model
from lofi_core.vlm.hooks import Hooks
from lofi_core.vlm.rows import Batch

if TYPE_CHECKING:
    from transformers import PreTrainedModel

__all__ = ["LIKE_LLAMA", "InsideReport", "prune_inside", "pruning_inside"]

# Decoders whose layers differ from Llama's in nothing that matters here.
LIKE_LLAMA = ("llama", "mistral", "qwen2", "qwen3")


@dataclass(eq=False)
class InsideReport:
    """Visual tokens that entered each layer, measured.

    Parameters
    ----------
    entered : list of Tensor, shape (B, layers), int64
        One a prompt batch.
    kept : list of tuples of Tensor, int64, on the CPU
        For each prompt batch and row: which of the row's visual tokens entered the last layer,
        ascending; merged ones are not among them.
    seconds : float
        Time of selection: computing the attention that the method reads, and choosing.
    """

    entered: list[Tensor] = field(default_factory=list)
    kept: list[tuple[Tensor, ...]] = field(default_factory=list)
    seconds: float = 0.0
    lock: Any = field(default_factory=threading.Lock, repr=False)

    @property
    def tokens_before(self) -> int:
        """Visual tokens of all prompts."""
        return sum(int(counts[:, 0].sum()) for counts in self.entered)

    @property
    def tokens_after(self) -> float:
        """Visual tokens that entered a layer, averaged over layers and summed over prompts."""
        return sum(float(counts.double().mean(1).sum()) for counts in self.entered)

    @property
    def keep(self) -> float:
        """Share of the visual tokens that entered a layer, averaged over layers and prompts."""
        return self.tokens_after / self.tokens_before

    def add(self, counts: Tensor, kept: tuple[Tensor, ...], seconds: float) -> None:
        """Enter a batch of prompts: visual tokens by layer, what is left, time of selection."""
        with self.lock:
            self.entered.append(counts)
            self.kept.append(kept)
            self.seconds += seconds


@contextmanager
def pruning_inside(model: "PreTrainedModel", pruner: InsidePruner) -> Iterator[InsideReport]:
    """Drop visual tokens inside the language model of every prompt that runs in a ``with`` block.

    Works for ``model(...)``, whose outputs are then as short as the last layer's sequence, with the
    padding on the side where the prompts are padded, and for ``model.generate(...)``. On leaving
    the block, also by an exception, all hooks are gone.

    Parameters
    ----------
    model : PreTrainedModel
        A vision-language model whose language model is built like Llama.
    pruner : InsidePruner
        What to drop, and where.

    Yields
    ------
    InsideReport
        Grows with every prompt.

    Raises
    ------
    LofiError
        If the language model is built otherwise, too shallow or on several devices, if images come
        without ``input_ids``, or if the cache is not a ``DynamicCache`` filled inside this block.
    """
    report = InsideReport()
    with ExitStack() as stack:
        prune_inside(model, pruner, report.add, stack)
        yield report


def prune_inside(
    model: "PreTrainedModel",
    pruner: InsidePruner,
    record: Callable[[Tensor, tuple[Tensor, ...], float], None],
    stack: ExitStack,
) -> None:
    """Register the hooks of `pruning_inside`; the stack removes them."""
    if not isinstance(pruner, InsidePruner):
        raise LofiError(
            f"pruning_inside: {type(pruner).__name__} acts before the language model; expected an "
            "InsidePruner: use lofi_core.pruning(model, pruner)"
        )
    decoder = _decoder(model)
    devices = {parameter.device for parameter in decoder.parameters()}
    if len(devices) > 1:
        raise LofiError(
            f"pruning_inside: a language model on {len(devices)} devices; expected one, as its "
            "layers' tokens are compared: load it with device_map='cuda', or choose a pruner that "
            "acts before it"
        )
    pruner.schedule(576, len(decoder.layers))  # refuses models that are too shallow
    caches: WeakKeyDictionary[Any, list[Batch]] = WeakKeyDictionary()
    for handle in Hooks(model, decoder, pruner, record, caches).attach():
        stack.callback(handle.remove)


def _decoder(model: "PreTrainedModel") -> Any:
    """Find the language model of a vision-language model, if its layers are built like Llama's."""
    check_model(model, "pruning_inside")
    decoder = model.get_decoder()
    if decoder is model.base_model:
        raise LofiError(
            f"pruning_inside: a {type(model).__name__} is a language model of type "
            f"{model.config.model_type!r} alone; expected a vision-language model, whose decoder "
            "sees images"
        )
    kind = decoder.config.model_type
    if kind not in LIKE_LLAMA:
        raise LofiError(
            f"pruning_inside: a language model of type {kind!r}, whose layers this library cannot "
            f"take apart; expected one built like {LIKE_LLAMA}: choose a pruner that acts before "
            "the language model"
        )
    return decoder
