"""Pictures in a prompt: where each image or video stands, and which of its tokens stay."""

import time
from collections import defaultdict
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from lofi_core.errors import LofiError
from lofi_core.families import Layout
from lofi_core.pruners.base import Pruner
from lofi_core.pruners.tokens import VisualTokens
from lofi_core.report import ImageReport
from lofi_core.spectrum import ipr
from lofi_core.vision import as_batch

__all__ = ["Choice", "Picture", "choose", "clock", "locate"]


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
    pictures = []
    for i, part in enumerate(slots.split(lengths)):
        row = int(part[0, 0])
        if row != int(part[-1, 0]):
            raise LofiError(
                f"prune_inputs: the placeholders of {modality} {i} begin in row {row} and end in "
                f"row {int(part[-1, 0])}; expected one row: give images in the order of the prompts"
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
        facts = _known(group, [name for name in pruner.needs if name not in modules])
        facts |= {name: find() for name, find in modules.items() if name in pruner.needs}
        tokens = VisualTokens(projected=X, grids=grids, **facts)
        start = clock(X)
        selection = pruner(tokens)
        seconds = (clock(X) - start) / len(group)
        given = selection.tokens or [x[kept] for x, kept in zip(X, selection.kept, strict=True)]
        new = [x.to(X.dtype) for x in given]
        # What the report needs comes from the device at once, not picture by picture.
        iprs = torch.stack([ipr(X), torch.stack([ipr(x) for x in new])]).tolist()
        kept = torch.cat(selection.kept).cpu().split([len(k) for k in selection.kept])
        for b, picture in enumerate(group):
            chosen, features = _shorten(picture, selection.kept[b], new[b])
            report = ImageReport(
                row=picture.row,
                modality=picture.modality,
                tokens_before=len(picture.features),
                tokens_after=len(features),
                kept=kept[b],
                grids=grids,
                ipr_before=iprs[0][b],
                ipr_after=iprs[1][b],
                seconds=seconds,
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
    stays[patches] = False
    stays[patches[kept]] = True
    return stays.nonzero()[:, 0], picture.features.index_copy(0, patches[kept], new)[stays]


def _known(group: Sequence[Picture], needs: Sequence[str]) -> dict[str, Any]:
    if missing := [name for name in needs if name not in group[0].known]:
        raise LofiError(
            f"prune: the pruner needs {missing}, which were not recorded; expected "
            f"encode_inputs(model, inputs, needs={tuple(needs)})"
        )
    device = group[0].features.device  # a sharded encoder may have recorded facts elsewhere
    facts = {name: as_batch(name, [picture.known[name] for picture in group]) for name in needs}
    return {name: fact.to(device) for name, fact in facts.items()}


def clock(X: Tensor) -> float:
    """Read the time when the tokens' device has done its work."""
    if X.device.type != "cpu":
        torch.accelerator.synchronize(X.device)
    return time.perf_counter()
