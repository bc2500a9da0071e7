r"""Drop visual tokens between layers of a language model, by removable hooks.

Before layer l of each stage, the tokens that the pruner doesn't keep leave the sequence:

    hidden <- hidden[S],    positions <- positions[S], or the first |S| of them

(the latter for methods that renumber), so later layers compute on, and cache, just what was kept.
The attention that a method reads is computed for the rows it asks for, from the queries and keys of
one layer; everything else runs on the model's own attention back-end. A method sees one row of a
batch, padding left out, and all visual tokens of a row, of however many images, are one set to
choose from.
"""

from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any
from weakref import WeakKeyDictionary

import torch
from torch import Tensor, nn
from torch.nn.utils.rnn import pad_sequence

from lofi_core.errors import LofiError
from lofi_core.pruners.inside import InsidePruner, LayerView, Stage

if TYPE_CHECKING:
    from transformers import PreTrainedModel

__all__ = ["InsideReport", "pruning_inside"]

# Decoders whose layers differ from Llama's in nothing that matters here.
LIKE_LLAMA = ("llama", "mistral", "qwen2", "qwen3")


@dataclass(eq=False)
class InsideReport:
    """Visual tokens that entered each layer, measured.

    Parameters
    ----------
    entered : list of Tensor, shape (B, layers), int64
        One a prompt batch.
    """

    entered: list[Tensor] = field(default_factory=list)

    @property
    def keep(self) -> float:
        """Share of the visual tokens that entered a layer, averaged over layers and prompts."""
        counts = torch.cat(self.entered).double()
        return float(counts.mean() / counts[:, 0].mean())


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
        If the language model is built otherwise or too shallow, if images come without
        ``input_ids``, or if the cache is not a ``DynamicCache`` filled inside this block.
    """
    if not isinstance(pruner, InsidePruner):
        raise LofiError(
            f"pruning_inside: {type(pruner).__name__} acts before the language model; expected an "
            "InsidePruner: use lofi_core.models.pruning"
        )
    kind = getattr(model.config.get_text_config(), "model_type", None)
    decoder = getattr(model.base_model, "language_model", None)
    if decoder is None or kind not in LIKE_LLAMA:
        raise LofiError(
            f"pruning_inside: a language model of type {kind!r}; expected one of {LIKE_LLAMA}, as "
            "part of a vision-language model"
        )
    pruner.schedule(576, len(decoder.layers))  # refuses models that are too shallow
    report = InsideReport()
    with ExitStack() as stack:
        for handle in _Engine(model, decoder, pruner, report).attach():
            stack.callback(handle.remove)
        yield report


@dataclass(eq=False)
class _Sequence:
    """A batch on its way through the layers: (B, W) each."""

    real: Tensor  # not padding
    visual: Tensor
    after: Tensor  # behind the last visual token
    positions: Tensor
    removed: Tensor  # (B, 1): how far new tokens' ids shift down
    changed: bool = False  # from what entered the model
    new: int = 0  # tokens that came after the prompt


class _Engine:
    """The hooks, and what they know of the prompt that is running."""

    def __init__(
        self, model: Any, decoder: Any, pruner: InsidePruner, report: InsideReport
    ) -> None:
        self.model, self.decoder, self.pruner, self.report = model, decoder, pruner, report
        self.layers = list(decoder.layers)
        self.ids: Tensor | None = None
        self.caches: WeakKeyDictionary[Any, list[_Sequence]] = WeakKeyDictionary()
        self.through: list[_Sequence] = []  # what entered each layer of the prompt
        self.prompt = False
        self.right = False
        self.inputs: list[tuple[Tensor, Tensor]] = []
        self.stages: list[list[Stage]] = []
        self.attended: tuple[Tensor, Any] | None = None  # input of the last attention module

    def attach(self) -> Iterator[Any]:
        """Register all hooks."""
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
        real = torch.ones(B, L, dtype=torch.bool) if mask is None else mask[:, :L].bool()
        real = real.to(embeds.device)
        names = ("image_token_id", "video_token_id")
        tokens = [t for name in names if (t := getattr(self.model.config, name, None)) is not None]
        visual = torch.isin(self.ids.to(embeds.device), torch.tensor(tokens).to(embeds.device))
        behind = visual.flip(-1).cummax(-1).values.flip(-1)
        after = real & ~behind
        self.right = bool((~real[:, -1]).any())
        positions = kwargs.get("position_ids")
        positions = torch.arange(L)[None] if positions is None else positions
        if positions.ndim != 2:
            raise LofiError("pruning_inside: position_ids along several axes; expected one id each")
        positions = positions.to(embeds.device).expand(B, L)
        removed = torch.zeros(B, 1, dtype=torch.int64, device=embeds.device)
        self.through = [_Sequence(real, visual, after, positions, removed)]
        self.inputs = [(x[v], x[a]) for x, v, a in zip(embeds, visual, after, strict=True)]
        counts = visual.sum(-1).tolist()
        self.stages = [self.pruner.schedule(n, len(self.layers)) if n else [] for n in counts]

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
                    counts = [sequence.visual.sum(-1).cpu() for sequence in self.through]
                    self.report.entered.append(torch.stack(counts, 1))
            sequence = self.through[index]
            if not self.prompt:
                sequence.new += hidden.shape[1]
            if not sequence.changed:
                return None  # the layer's own arguments fit
            return (hidden, *args[1:]), kwargs | self._arguments(sequence, hidden, kwargs)

        return hook

    def _arguments(
        self, sequence: _Sequence, hidden: Tensor, kwargs: dict[str, Any]
    ) -> dict[str, Any]:
        """Mask and positions for a layer of a shortened sequence."""
        B = len(sequence.real)
        positions = sequence.positions
        if not self.prompt:
            positions = kwargs["position_ids"].expand(B, -1) - sequence.removed
        embeddings = self.decoder.rotary_emb(hidden, position_ids=positions)
        columns = torch.cat((sequence.real, sequence.real.new_ones(B, sequence.new)), 1)
        return {
            "attention_mask": self._mask(columns, hidden),
            "position_embeddings": embeddings,
            "position_ids": positions,
        }

    def _mask(self, columns: Tensor, hidden: Tensor) -> Tensor | None:
        """Let the last tokens attend to all real ones up to themselves, in the back-end's form."""
        (B, K), Q = columns.shape, hidden.shape[1]
        backend = self.decoder.config._attn_implementation
        if "flash" in backend:
            return None if columns.all() else columns
        if backend == "sdpa" and columns.all() and Q in (1, K):
            return None
        allowed = torch.ones(Q, K, dtype=torch.bool, device=hidden.device).tril(K - Q)
        allowed = (allowed & columns[:, None])[:, None]
        itself = torch.ones(Q, K, dtype=torch.bool, device=hidden.device).tril(K - Q)
        allowed = allowed | (itself & ~itself.tril(K - Q - 1))  # no empty rows of padding
        if backend == "sdpa":
            return allowed
        low = torch.finfo(hidden.dtype).min
        return torch.zeros(B, 1, Q, K).to(hidden).masked_fill(~allowed, low)

    def _enter(self, index: int, hidden: Tensor) -> Tensor:
        """Drop what the rows' stages drop before this layer."""
        old = self.through[-1]
        present = old.visual.sum(-1).tolist()
        due = [
            [s for s in stages if s.layer == index and s.count - s.merged < n]
            for stages, n in zip(self.stages, present, strict=True)
        ]
        if not any(due):
            self.through.append(_copy(old))
            return hidden
        rows = []
        for b, stages in enumerate(due):
            places = old.real[b].nonzero()[:, 0]
            row = {
                "hidden": hidden[b, places],
                "visual": old.visual[b, places],
                "after": old.after[b, places],
                "positions": old.positions[b, places],
            }
            if stages:
                row = self._drop(b, stages[0], row, places, index)
            rows.append(row)
        self.attended = None
        side = "right" if self.right else "left"
        padded = {
            name: pad_sequence([row[name] for row in rows], batch_first=True, padding_side=side)
            for name in rows[0]
        }
        lengths = torch.tensor([len(row["hidden"]) for row in rows], device=hidden.device)[:, None]
        real = torch.arange(int(lengths.max()), device=hidden.device) < lengths
        real = real if self.right else real.flip(-1)
        removed = old.removed
        if self.pruner.renumbers:
            removed = removed + old.real.sum(-1, keepdim=True) - lengths
        self.through.append(
            _Sequence(real, padded["visual"], padded["after"], padded["positions"], removed, True)
        )
        return padded["hidden"]

    def _drop(
        self, b: int, stage: Stage, row: dict[str, Tensor], places: Tensor, index: int
    ) -> dict[str, Tensor]:
        """Let the pruner choose, and shorten one row."""
        visual = row["visual"].nonzero()[:, 0]
        assert self.attended is not None
        seen, (cos, sin) = self.attended
        before = _Attention(self.layers[index - 1], seen[b, places], cos, sin, b, places)
        following = self.layers[index]
        after = _Attention(following, following.input_layernorm(row["hidden"]), cos, sin, b, places)
        view = LayerView(
            hidden=row["hidden"],
            normed=lambda: self.decoder.norm(row["hidden"]),
            visual=visual,
            after=row["after"].nonzero()[:, 0],
            positions=row["positions"],
            inputs=self.inputs[b],
            previous=before.rows,
            following=after.rows,
            keys=before.keys,
        )
        kept, merged = self.pruner.pick(view, stage)
        stays = ~row["visual"]
        stays[visual[kept]] = True
        short = {name: x[stays] for name, x in row.items()}
        if merged is not None:  # behind the kept visual tokens, before the text that follows
            at = int(stays[: int(visual[-1]) + 1].sum())
            made = merged.to(row["hidden"])
            new = {
                "hidden": made,
                "visual": row["visual"].new_ones(len(made)),
                "after": row["after"].new_zeros(len(made)),
                "positions": row["positions"].new_zeros(len(made)),  # renumbered below
            }
            short = {k: torch.cat((x[:at], new[k], x[at:])) for k, x in short.items()}
        if self.pruner.renumbers:
            short["positions"] = row["positions"][: len(short["hidden"])]
        return short


class _Attention:
    """Queries and keys of one layer for one row, as far as somebody asks for them."""

    def __init__(
        self, layer: Any, x: Tensor, cos: Tensor, sin: Tensor, b: int, places: Tensor
    ) -> None:
        self.module, self.x = layer.self_attn, x
        row = min(b, len(cos) - 1)
        self.cos, self.sin = cos[row, places], sin[row, places]

    def _project(self, name: str, rows: Tensor) -> Tensor:
        from transformers.models.llama.modeling_llama import rotate_half

        y = getattr(self.module, f"{name}_proj")(self.x[rows])
        y = y.unflatten(-1, (-1, self.module.head_dim))
        norm = getattr(self.module, f"{name}_norm", None)
        y = (y if norm is None else norm(y)).transpose(0, 1)
        return y * self.cos[rows] + rotate_half(y) * self.sin[rows]

    def keys(self) -> Tensor:
        """Keys after rotary embedding, (H', L, d)."""
        return self._project("k", torch.arange(len(self.x), device=self.x.device))

    def rows(self, rows: Tensor) -> Tensor:
        """Softmaxed attention of some rows to all tokens up to them, (H, R, L), float32."""
        q, K = self._project("q", rows), self.keys()
        K = K.repeat_interleave(len(q) // len(K), 0)
        logits = (q @ K.mT).float() * self.module.scaling
        later = torch.arange(len(self.x), device=rows.device) > rows[:, None]
        return logits.masked_fill(later, -torch.inf).softmax(-1)


def _copy(s: _Sequence) -> _Sequence:
    return _Sequence(s.real, s.visual, s.after, s.positions, s.removed, s.changed)
