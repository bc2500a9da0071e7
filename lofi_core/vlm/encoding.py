"""Encode a prompt's images once, then drop tokens from everything that has one entry a token.

What is left goes to the model as ``mm_encoder_outputs``: features that the encoder computed, which
current transformers takes in place of pixels, with as many placeholders in ``input_ids``.
"""

import warnings
from collections import UserDict
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from copy import copy
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any, Literal

import torch
from torch import Tensor, nn

from lofi_core.errors import LofiError
from lofi_core.pruners.base import Pruner
from lofi_core.pruners.inside import InsidePruner
from lofi_core.vlm.families import Family, family_of
from lofi_core.vlm.images import Picture, choose, locate
from lofi_core.vlm.masks import leave
from lofi_core.vlm.report import Report
from lofi_core.vlm.sequences import compact_positions, drop_tokens
from lofi_core.vlm.taps import watching

if TYPE_CHECKING:
    from transformers import PreTrainedModel

__all__ = ["EncodedInputs", "Positions", "PrunedInputs", "check_acts_before", "encode_inputs"]

Positions = Literal["original", "compact"]


class PrunedInputs(UserDict[str, Any]):
    """Inputs for ``model(**x)`` and ``model.generate(**x)``, with a report of what was dropped.

    Parameters
    ----------
    inputs : mapping
        The inputs.
    report : Report
        Tokens before and after, image by image.
    images_end : int
        Number of columns up to the last visual token.
    """

    def __init__(self, inputs: Mapping[str, Any], report: Report, images_end: int) -> None:
        """Hold the inputs, and what was done to them."""
        super().__init__(inputs)
        self.report = report
        self.images_end = images_end

    def __getitem__(self, key: str) -> Any:
        """Return an input; encoder outputs as copies, because beam search changes them in place."""
        value = super().__getitem__(key)
        if key == "mm_encoder_outputs":
            return {modality: copy(output) for modality, output in value.items()}
        return value

    def __or__(self, other: Mapping[str, Any]) -> dict[str, Any]:  # type: ignore[override]
        """Merge into a plain dictionary, ``other`` going first."""
        return {**self, **other}

    def continuing(self, cache: Any) -> dict[str, Any]:
        """Return the inputs for ``generate`` to go on from a cache that holds the images.

        To ask a second question about an image, prune the longer conversation (the same image keeps
        the same tokens) and call ``model.generate(**x.continuing(cache))`` with the cache of the
        first answer.

        Raises
        ------
        LofiError
            If the cache ends before the last image.
        """
        if cache.get_seq_length() < self.images_end:
            raise LofiError(
                f"continuing: a cache of {cache.get_seq_length()} tokens for a prompt with images "
                f"up to token {self.images_end}; expected them all in the cache: run without it"
            )
        inputs = {key: value for key, value in self.items() if key != "mm_encoder_outputs"}
        return inputs | {"past_key_values": cache}


@dataclass(frozen=True, eq=False)
class EncodedInputs:
    """Inputs whose images went through the encoder, to be pruned in as many ways as you like.

    Parameters
    ----------
    model, family, inputs
        What `encode_inputs` was given.
    outputs : dict
        What the encoder returned, by modality.
    consumed : dict
        Names of the inputs that the encoder consumed, its pixels first, by modality.
    pictures : list of Picture
        All images, then all videos, in the order of the prompts.
    """

    model: "PreTrainedModel"
    family: Family
    inputs: Mapping[str, Any]
    outputs: Mapping[str, Any]
    consumed: Mapping[str, Sequence[str]]
    pictures: Sequence[Picture]

    def prune(self, pruner: Pruner, positions: Positions = "original") -> PrunedInputs:
        """Choose visual tokens and drop the others, see `prune_inputs`."""
        check_acts_before(pruner)
        if positions not in ("original", "compact"):
            raise LofiError(
                f"prune_inputs: positions={positions!r}; expected 'original' or 'compact'"
            )
        modules = {
            "project": lambda: self.family.project(self.model),
            "encode": lambda: self.family.encoder(self.model),
        }
        keep = torch.ones_like(self.inputs["input_ids"], dtype=torch.bool)
        with _gradients(self.model):
            choices = choose(pruner, self.pictures, modules)
            for choice in choices:
                leave(keep[choice.picture.row], choice.picture.columns, choice.chosen)
            outputs = {
                modality: self.family.rebuild(
                    output, [c for c in choices if c.picture.modality == modality]
                )
                for modality, output in self.outputs.items()
            }
        shorter = self._drop(keep, positions)
        shorter["mm_encoder_outputs"] = outputs
        tokens = [getattr(self.model.config, f"{modality}_token_id") for modality in self.outputs]
        visual = torch.isin(shorter["input_ids"], torch.tensor(tokens, device=keep.device))
        images_end = int(visual.any(0).nonzero().max()) + 1
        return PrunedInputs(shorter, Report([c.report for c in choices]), images_end)

    def _drop(self, keep: Tensor, positions: Positions) -> dict[str, Any]:
        """Shorten everything that has one entry a token; leave out what the encoder consumed."""
        if keep.all():  # then positions are left to the model: bit for bit what it does unpruned
            pixels = {names[0] for names in self.consumed.values()}
            return {key: value for key, value in self.inputs.items() if key not in pixels}
        consumed = {name for names in self.consumed.values() for name in names}
        inputs = {key: value for key, value in self.inputs.items() if key not in consumed}
        # The mask is never left out, see `_as_one_sequence`.
        if inputs.get("attention_mask") is None:
            inputs["attention_mask"] = torch.ones_like(inputs["input_ids"])
        if inputs.get("position_ids") is None:
            inputs["position_ids"] = self.family.positions(
                self.model, self.inputs, inputs["attention_mask"]
            )
        pad = getattr(self.model.config.get_text_config(), "pad_token_id", None) or 0
        shorter = drop_tokens(inputs, keep, pad_token_id=max(0, pad))  # some configurations say -1
        if positions == "compact":
            shorter["position_ids"] = compact_positions(
                shorter["position_ids"], shorter["attention_mask"]
            )
        elif shorter["position_ids"].ndim == 2 and (shorter["attention_mask"] == 1).all():
            shorter = _as_one_sequence(shorter, self.model.config.get_text_config(), max(0, pad))
        _warn_of_windows(self.model.config.get_text_config(), keep.shape[1])
        return shorter


def encode_inputs(
    model: "PreTrainedModel",
    inputs: Mapping[str, Any],
    needs: Sequence[str] = (),
    family: Family | None = None,
) -> EncodedInputs:
    """Run the vision encoder once, to prune its output in several ways.

    Parameters
    ----------
    model : PreTrainedModel
        A vision-language model of a known family, see `lofi_core.vlm.families.FAMILIES`.
    inputs : mapping
        What its processor returned: ``input_ids``, pixels, and so on.
    needs : sequence of str
        Fields of `VisualTokens` to record, beyond ``projected``: the union of the pruners' needs.
    family : Family, optional
        How to drive the model, where it is not the one registered for it: to try one out.

    Raises
    ------
    LofiError
        As `prune_inputs`.
    """
    family = family_of(model, family)
    if not isinstance(inputs, Mapping | UserDict):
        raise LofiError(
            f"prune_inputs: inputs are a {type(inputs).__name__}; expected the mapping that the "
            "model's processor returns"
        )
    inputs = dict(inputs.items())
    if inputs.get("inputs_embeds") is not None:
        raise LofiError(
            "prune_inputs: inputs hold inputs_embeds; expected input_ids alone, since placeholders "
            "are found by their ids and both would be embedded: leave inputs_embeds out"
        )
    ids = inputs.get("input_ids")
    if not isinstance(ids, Tensor) or ids.ndim != 2:
        raise LofiError(
            "prune_inputs: inputs without input_ids of shape (B, L); expected what the model's "
            "processor returns with return_tensors='pt'"
        )
    mask = inputs.get("attention_mask")
    if mask is not None and mask.shape != ids.shape:
        raise LofiError(
            f"prune_inputs: attention_mask of shape {tuple(mask.shape)}; expected that of "
            f"input_ids, {tuple(ids.shape)}: pass the processor's 2-D mask"
        )
    by_token = [name for name in needs if name not in ("project", "encode", "pixels")]
    names = family.consumed(model, inputs)
    outputs: dict[str, Any] = {}
    pictures: list[Picture] = []
    for modality in ("image", "video"):
        token_id = getattr(model.config, f"{modality}_token_id", None)
        slots = (ids == token_id).nonzero() if token_id is not None else ids.new_zeros(0, 2)
        if modality not in names:
            if len(slots):
                raise LofiError(
                    f"prune_inputs: {len(slots)} {modality} tokens in input_ids but no pixels; "
                    "expected both, as the processor returns them. For a cached conversation see "
                    "PrunedInputs.continuing"
                )
            continue
        arguments = {name: inputs[name] for name in names[modality]}
        with _own_parameters(model.base_model), _gradients(model):
            with watching(model, family, by_token) as found:
                outputs[modality] = family.encode(model, modality, arguments)
            features = family.features(model, outputs[modality])
            layouts = family.layouts(model, modality, arguments, features)
        known = {name: family.align(model, arguments, found[name]) for name in by_token}
        found_here = locate(modality, slots, features, layouts, known)
        if "pixels" in needs:
            family.encoder(model)  # refuses where images come in several pieces
            found_here = [
                replace(picture, known={**picture.known, "pixels": pixels})
                for picture, pixels in zip(found_here, inputs[names[modality][0]], strict=True)
            ]
        pictures += found_here
    if not pictures:
        raise LofiError(
            "prune_inputs: no image in the prompt: neither pixels nor image tokens in input_ids; "
            "expected at least one: call the model itself for text alone"
        )
    return EncodedInputs(model, family, inputs, outputs, names, pictures)


def check_acts_before(pruner: Any) -> None:
    """Raise LofiError unless this is a pruner, and one that acts before the language model."""
    if not isinstance(pruner, Pruner):
        raise LofiError(
            f"prune_inputs: {pruner!s:.80} is no pruner; expected one, such as LoFi(keep=0.25) "
            "or lofi_core.get_pruner('random')"
        )
    if isinstance(pruner, InsidePruner):
        raise LofiError(
            f"prune_inputs: {type(pruner).__name__} acts inside the language model, so no inputs "
            "are shorter; expected a pruner that acts before it: run this one as "
            "`with pruning(model, pruner): model(**inputs)`"
        )


@contextmanager
def _gradients(model: "PreTrainedModel") -> Iterator[None]:
    """Let gradients through to encoder and projector in training, and compute none otherwise."""
    with torch.set_grad_enabled(torch.is_grad_enabled() and model.training):
        yield


def _as_one_sequence(inputs: dict[str, Any], text: Any, pad: int) -> dict[str, Any]:
    """Say by the mask that a batch without padding holds whole sequences, not packed ones.

    transformers takes gaps in the positions for borders of sequences packed into a row, unless a
    mask speaks against it, and `generate` leaves out a mask that is 1 everywhere. To the other
    back-ends' masks anything but 0 means "attend", so a 2 is kept and changes nothing.
    FlashAttention looks for a 0: a single row gets one column of padding on its left, because
    positions are read there whenever several tokens follow a cache.
    """
    mask = inputs["attention_mask"]
    if "flash" not in (text._attn_implementation or "") or len(mask) > 1:
        return inputs | {"attention_mask": 2 * mask}
    fill = {"input_ids": pad, "labels": -100, "shift_labels": -100}
    columns = inputs.get("logits_to_keep")
    moved = {"logits_to_keep": columns + 1} if isinstance(columns, Tensor) else {}
    return {
        name: torch.nn.functional.pad(value, (1, 0), value=fill.get(name, 0))
        if isinstance(value, Tensor) and value.shape[-2:] == mask.shape
        else value
        for name, value in inputs.items()
    } | moved


def _warn_of_windows(text: Any, L: int) -> None:
    """Warn where attention reaches a fixed number of tokens, fewer than the unpruned prompt has."""
    kinds = set(getattr(text, "layer_types", None) or ())
    for kind, name in (
        ("sliding_attention", "sliding_window"),
        ("chunked_attention", "attention_chunk_size"),
    ):
        reach = getattr(text, name, None)
        if kind in kinds and reach and reach < L:
            warnings.warn(
                f"prune_inputs: {kind} over {reach} tokens and a prompt of {L}: the window counts "
                "the tokens that are left, so it reaches further back in a pruned prompt, and "
                "dropping is not exactly masking",
                stacklevel=4,
            )


@contextmanager
def _own_parameters(module: nn.Module) -> Iterator[None]:
    """Have a module's own parameters at hand where accelerate offloads them, as in its forward."""
    if not hasattr(module, "_hf_hook"):
        yield
        return
    from accelerate.utils import align_module_device

    with align_module_device(module):
        yield
