"""Pictures in a prompt: where each image or video stands, and which of its tokens stay."""

import time
from collections import defaultdict
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from itertools import accumulate
from typing import Any

import torch
from torch import Tensor

from lofi_core.errors import LofiError
from lofi_core.pruners.base import Pruner
from lofi_core.pruners.tokens import VisualTokens
from lofi_core.vlm.families import Layout
from lofi_core.vlm.masks import leave
from lofi_core.vlm.report import ImageReport
from lofi_core.vlm.taps import as_batch

__all__ = ["Choice", "Picture", "Stopwatch", "choose", "clock", "locate"]


@dataclass(frozen=True, eq=False)
class Picture:
    """One image or video: n features, where their placeholders stand, what the encoder knows."""

    modality: str
    row: int
    columns: Tensor  # (n,)
    features: Tensor  # (n, D)
    layout: Layout
    known: Mapping[str, Tensor]  # (N, C) each


@dataclass(frozen=True, eq=False)
class Choice:
    """What is left of a picture: indices among its n features, ascending, and their values."""

    picture: Picture
    chosen: Tensor
    features: Tensor
    report: ImageReport


def locate(
    modality: str,
    slots: Tensor,
    features: Sequence[Tensor],
    layouts: Sequence[Layout],
    known: Mapping[str, Sequence[Tensor]],
) -> list[Picture]:
    """Match features with placeholders, (row, column) pairs in ``slots``, in order.

    Raises
    ------
    LofiError
        If there are not as many placeholders as features, if a picture would begin in one row and
        end in another, or if what was recorded in the encoder does not fit the tokens.
    """
    lengths = [len(picture) for picture in features]
    if sum(lengths) != len(slots):
        raise LofiError(
            f"prune_inputs: {len(slots)} {modality} tokens in input_ids, {sum(lengths)} features "
            f"from the encoder, {lengths}; expected as many: do processor and model belong "
            "together, and was the prompt cut off?"
        )
    stops = list(accumulate(lengths))
    starts = [stop - length for stop, length in zip(stops, lengths, strict=True)]
    ends = torch.tensor([starts, [stop - 1 for stop in stops]], dtype=torch.int64)
    rows, last_rows = slots[ends.to(slots.device), 0].tolist()  # one look for all pictures
    pictures = []
    for i, (part, row, last) in enumerate(zip(slots.split(lengths), rows, last_rows, strict=True)):
        if row != last:
            raise LofiError(
                f"prune_inputs: the placeholders of {modality} {i} begin in row {row} and end in "
                f"row {last}; expected one row: give images in the order of the prompts"
            )
        N = len(layouts[i].patches)
        for name, values in known.items():
            if len(values) != len(features) or values[i].ndim != 2 or len(values[i]) != N:
                raise LofiError(
                    f"prune_inputs: the pruner needs {name}, one row for each of {N} tokens; the "
                    f"encoder gave {[tuple(x.shape) for x in values]}, since this model merges or "
                    "resizes patches: choose a pruner that does without"
                )
        facts = {name: values[i] for name, values in known.items()}
        pictures.append(Picture(modality, row, part[:, 1], features[i], layouts[i], facts))
    return pictures


def choose(
    pruner: Pruner, pictures: Sequence[Picture], modules: Mapping[str, Callable[[], Any]]
) -> list[Choice]:
    """Let the pruner choose, in one call for all pictures of equal grids and number of tokens.

    ``modules`` finds, by the name of the need, parts of the model for pruners that need them.
    """
    groups = defaultdict(list)
    for i, picture in enumerate(pictures):
        groups[len(picture.layout.patches), picture.layout.grids].append(i)
    choices: dict[int, Choice] = {}
    for (_, grids), members in groups.items():
        group = [pictures[i] for i in members]
        X = torch.stack([_patches(picture) for picture in group])
        look = X.detach()
        facts = _known(group, [name for name in pruner.needs if name not in modules])
        facts |= {name: find() for name, find in modules.items() if name in pruner.needs}
        tokens = VisualTokens(projected=look, grids=grids, **facts)
        watch = Stopwatch(X.device)
        with torch.no_grad():
            selection = pruner(tokens)
        watch.stop()
        if selection.tokens is not None and X.requires_grad:
            raise LofiError(
                f"prune_inputs: {type(pruner).__name__} merges tokens, which lets no gradient "
                "through to the vision encoder; expected a pruner that keeps tokens as they are, "
                "or torch.no_grad(), or model.eval()"
            )
        for b, picture in enumerate(group):
            kept, merged = selection.kept[b], selection.tokens
            new = X[b, kept] if merged is None else merged[b].to(X.dtype)
            chosen, features = _shorten(picture, kept, new)
            report = ImageReport(
                row=picture.row,
                modality=picture.modality,
                tokens_before=len(picture.features),
                tokens_after=len(features),
                chosen=kept,
                grids=grids,
                held=[_patches(picture).detach(), *([] if merged is None else [new])],
                took=partial(watch.seconds, len(group)),
            )
            choices[members[b]] = Choice(picture, chosen, features, report)
    return [choices[i] for i in range(len(pictures))]


def _patches(picture: Picture) -> Tensor:
    """Visual tokens of a picture, without separators; a view where there are none."""
    patches = picture.layout.patches
    whole = len(patches) == len(picture.features)
    return picture.features if whole else picture.features[patches]


def _shorten(picture: Picture, kept: Tensor, new: Tensor) -> tuple[Tensor, Tensor]:
    """Indices of the features that stay, and their values; separators stay as they are."""
    patches = picture.layout.patches
    if len(patches) == len(picture.features):
        return kept, new
    stays = torch.ones(len(picture.features), dtype=torch.bool, device=new.device)
    leave(stays, patches, kept)
    return stays.nonzero()[:, 0], picture.features.index_copy(0, patches[kept], new)[stays]


def _known(group: Sequence[Picture], needs: Sequence[str]) -> dict[str, Any]:
    if missing := [name for name in needs if name not in group[0].known]:
        raise LofiError(
            f"prune: the pruner needs {missing}, which were not recorded; expected "
            f"encode_inputs(model, inputs, needs={tuple(needs)})"
        )
    device = group[0].features.device  # a sharded encoder may have recorded facts elsewhere
    facts = {name: as_batch(name, [picture.known[name] for picture in group]) for name in needs}
    return {name: fact.detach().to(device) for name, fact in facts.items()}


class Stopwatch:
    """Time of a piece of a device's work; on CUDA without waiting for it until somebody asks."""

    def __init__(self, device: torch.device) -> None:
        """Start."""
        self.device = device
        self.start = self.end = self._now()

    def _now(self) -> Any:
        if self.device.type != "cuda":
            return clock(self.device)
        event = torch.cuda.Event(enable_timing=True)
        event.record(torch.cuda.current_stream(self.device))
        return event

    def stop(self) -> None:
        """Stop."""
        self.end = self._now()

    def seconds(self, parts: int = 1) -> float:
        """Seconds between start and stop, divided by the number of parts."""
        if self.device.type != "cuda":
            return (self.end - self.start) / parts
        self.end.synchronize()
        return self.start.elapsed_time(self.end) / 1e3 / parts


def clock(device: torch.device) -> float:
    """Read the time when a device has done its work."""
    if device.type != "cpu":
        torch.accelerator.synchronize(device)
    return time.perf_counter()
