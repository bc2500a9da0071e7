"""The hooks behind `lofi_core.vlm.inside.pruning_inside`, and what they know of the running prompt.

Before the first layer the prompt's visual tokens are found; before the layers of a method's stages
each row is shortened; behind them every layer gets the mask and the positions that fit its own
sequence. What entered each layer is tied to the cache that the prompt filled, so that tokens
generated later meet the right masks.
"""

import threading
from collections.abc import Callable, Iterator
from typing import Any
from weakref import WeakKeyDictionary

import torch
from torch import Tensor, nn

from lofi_core.errors import LofiError
from lofi_core.pruners.inside import InsidePruner, LayerView, Stage
from lofi_core.vlm.images import clock
from lofi_core.vlm.masks import causal_mask
from lofi_core.vlm.rows import Batch, Row, RowAttention, pad_rows, shorten

__all__ = ["Hooks"]


class Hooks(threading.local):
    """Hooks on one model for one pruner. Every thread has its own running prompt.

    Parameters
    ----------
    model, decoder
        A vision-language model, and the decoder in it.
    pruner : InsidePruner
        What to drop, and where.
    record : callable
        Told for each batch of prompts how many visual tokens entered each layer, (B, layers), which
        were left in the last, and how many seconds the choices took.
    caches : WeakKeyDictionary
        What entered each layer of the prompts that caches hold; shared by all threads, since a
        cache may go on in another one.
    """

    def __init__(
        self,
        model: Any,
        decoder: Any,
        pruner: InsidePruner,
        record: Callable[[Tensor, tuple[Tensor, ...], float], None],
        caches: "WeakKeyDictionary[Any, list[Batch]]",
    ) -> None:
        """Attach nothing yet; `threading.local` calls this anew in each thread."""
        self.model, self.decoder, self.pruner, self.record = model, decoder, pruner, record
        self.layers = list(decoder.layers)
        self.ids: Tensor | None = None
        self.caches = caches
        self.through: list[Batch] = []  # what entered each layer of the prompt
        self.prompt = self.right = False
        self.seconds = 0.0
        self.inputs: list[tuple[Tensor, Tensor]] = []
        self.stages: list[list[Stage]] = []
        self.attended: tuple[Tensor, Any] | None = None  # input of the last attention module

    def attach(self) -> Iterator[Any]:
        """Register all hooks, and yield their handles."""
        yield self.model.register_forward_pre_hook(self._see_ids, with_kwargs=True)
        yield self.decoder.register_forward_pre_hook(self._start, with_kwargs=True)
        for index, layer in enumerate(self.layers):
            yield layer.register_forward_pre_hook(self._before(index), with_kwargs=True)
            yield layer.self_attn.register_forward_pre_hook(self._see_input, with_kwargs=True)

    def _see_ids(self, module: nn.Module, args: Any, kwargs: dict[str, Any]) -> None:
        self.ids = kwargs.get("input_ids", args[0] if args else None)

    def _see_input(self, module: nn.Module, args: Any, kwargs: dict[str, Any]) -> None:
        if self.prompt:
            self.attended = kwargs["hidden_states"], kwargs["position_embeddings"]

    def _start(self, module: nn.Module, args: Any, kwargs: dict[str, Any]) -> None:
        """Tell a prompt from the continuation of one, and find its visual tokens."""
        embeds, cache = kwargs["inputs_embeds"], kwargs.get("past_key_values")
        past = 0 if cache is None else cache.get_seq_length()
        self.prompt = past == 0
        if not self.prompt:
            if cache not in self.caches:
                raise LofiError(
                    "pruning_inside: a cache that was not filled inside this block; expected one "
                    "that was: run the prompt inside it too"
                )
            self.through = self.caches[cache]
            return
        B, L, _ = embeds.shape
        if self.ids is None or self.ids.shape != (B, L):
            raise LofiError("pruning_inside: no input_ids; expected them, to find images by")
        mask = kwargs.get("attention_mask")
        if mask is not None and (not isinstance(mask, Tensor) or mask.ndim != 2):
            raise LofiError("pruning_inside: attention_mask is not 2-D; expected (B, L), or none")
        positions = kwargs.get("position_ids")
        positions = torch.arange(L)[None] if positions is None else positions
        if positions.ndim != 2:
            raise LofiError("pruning_inside: position_ids along several axes; expected one id each")
        ids, positions = self.ids.to(embeds.device), positions.to(embeds.device).expand(B, L)
        real = torch.ones_like(ids, dtype=torch.bool) if mask is None else mask[:, :L].bool()
        real = real.to(embeds.device)
        self.right = bool((~real[:, -1]).any())
        names = ("image_token_id", "video_token_id")
        tokens = [t for name in names if (t := getattr(self.model.config, name, None)) is not None]
        visual = torch.isin(ids, ids.new_tensor(tokens))
        after = real & ~visual.flip(-1).cummax(-1).values.flip(-1)
        origin = (visual.cumsum(-1) - 1).where(visual, -1)
        self.through = [Batch(real, visual, after, positions, origin, ids.new_zeros(B, 1))]
        self.inputs = [(x[v], x[a]) for x, v, a in zip(embeds, visual, after, strict=True)]
        counts = visual.sum(-1).tolist()
        schedule, depth = self.pruner.schedule, len(self.layers)
        whole = self.pruner.keep == 1  # some methods always drop a token; this says drop none
        self.stages = [[] if whole or not n else schedule(n, depth) for n in counts]
        self.seconds = 0.0

    def _remember(self, cache: Any) -> None:
        """Tie what is known of the prompt to the cache that holds it."""
        from transformers import DynamicCache

        if not isinstance(cache, DynamicCache):
            raise LofiError(
                f"pruning_inside: a {type(cache).__name__}; expected a DynamicCache, whose layers "
                "may differ in length"
            )
        self.caches[cache] = self.through

    def _before(self, index: int) -> Callable[..., Any]:
        def hook(module: nn.Module, args: Any, kwargs: dict[str, Any]) -> Any:
            hidden = args[0]
            if self.prompt:
                if index:
                    hidden = self._enter(index, hidden)
                elif kwargs.get("past_key_values") is not None:
                    self._remember(kwargs["past_key_values"])
                if index == len(self.layers) - 1:
                    counts = [batch.visual.sum(-1).cpu() for batch in self.through]
                    self.record(torch.stack(counts, 1), self.through[-1].left(), self.seconds)
            batch = self.through[index]
            if not self.prompt:
                batch.new += hidden.shape[1]
            if not batch.changed:
                return None  # the layer's own arguments fit
            return (hidden, *args[1:]), kwargs | self._arguments(batch, hidden, kwargs)

        return hook

    def _arguments(self, batch: Batch, hidden: Tensor, kwargs: dict[str, Any]) -> dict[str, Any]:
        """Mask and positions for a layer of a shortened sequence."""
        B = len(batch.real)
        positions = batch.positions
        if not self.prompt:
            positions = kwargs["position_ids"].expand(B, -1) - batch.removed
        columns = torch.cat((batch.real, batch.real.new_ones(B, batch.new)), 1)
        backend = self.decoder.config._attn_implementation
        return {
            "attention_mask": causal_mask(columns, hidden, backend),
            "position_embeddings": self.decoder.rotary_emb(hidden, position_ids=positions),
            # FlashAttention would take gaps in the positions for borders of packed sequences; the
            # rotary embedding above holds all that a layer needs of them.
            "position_ids": None if "flash" in backend else positions,
        }

    def _enter(self, index: int, hidden: Tensor) -> Tensor:
        """Drop what the rows' stages drop before this layer."""
        old = self.through[-1]
        present = old.visual.sum(-1).tolist()
        due = [
            [s for s in stages if s.layer == index and s.count - s.merged < n]
            for stages, n in zip(self.stages, present, strict=True)
        ]
        if not any(due):
            self.through.append(Batch(**vars(old) | {"new": 0}))
            return hidden
        start, rows = clock(hidden.device), []
        for b, stages in enumerate(due):
            row, places = old.row(b, hidden)
            rows.append(self._drop(index, b, stages[0], row, places) if stages else row)
        self.seconds += clock(hidden.device) - start
        self.attended = None
        padded, real = pad_rows(rows, self.right)
        removed = old.removed
        if self.pruner.renumbers:
            removed = removed + (old.real.sum(-1) - real.sum(-1))[:, None]
        hidden = padded.pop("hidden")
        visual, after = padded["visual"], padded["after"]
        positions, origin = padded["positions"], padded["origin"]
        self.through.append(Batch(real, visual, after, positions, origin, removed, True))
        return hidden

    def _drop(self, index: int, b: int, stage: Stage, row: Row, places: Tensor) -> Row:
        """Let the pruner choose, and shorten one row."""
        assert self.attended is not None
        seen, rotary = self.attended
        cos, sin = (x[min(b, len(x) - 1), places] for x in rotary)
        before = RowAttention(self.layers[index - 1], seen[b, places], cos, sin)
        following = self.layers[index]
        after = RowAttention(following, following.input_layernorm(row["hidden"]), cos, sin)
        view = LayerView(
            hidden=row["hidden"],
            normed=lambda: self.decoder.norm(row["hidden"]),
            visual=row["visual"].nonzero()[:, 0],
            after=row["after"].nonzero()[:, 0],
            positions=row["positions"],
            inputs=self.inputs[b],
            previous=before.rows,
            following=after.rows,
            keys=before.keys,
        )
        kept, merged = self.pruner.pick(view, stage)
        return shorten(row, kept, merged, self.pruner.renumbers)
