"""Shorter token sequences: drop columns row by row, keep padding on its side, renumber."""

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor

from lofi_core.errors import LofiError

__all__ = ["compact_positions", "drop_tokens"]


def drop_tokens(inputs: Mapping[str, Any], keep: Tensor, pad_token_id: int) -> dict[str, Any]:
    """Drop tokens from everything in ``inputs`` that has one entry a token.

    Rows that become shorter than others are padded on the side where the batch is padded; on the
    left, where generation needs it, if it was not. Padding that all rows had stays.

    Parameters
    ----------
    inputs : mapping
        With ``input_ids`` and ``attention_mask``, (B, L); whatever else is an integer tensor of
        shape (..., B, L) is shortened too.
    keep : Tensor, shape (B, L), bool
        False for the tokens to drop.
    pad_token_id : int
        For new padding.

    Examples
    --------
    >>> import torch
    >>> ids = torch.tensor([[5, 7, 7, 6], [0, 0, 5, 6]])
    >>> inputs = {"input_ids": ids, "attention_mask": (ids > 0).long()}
    >>> drop_tokens(inputs, ids != 7, pad_token_id=0)["input_ids"]
    tensor([[5, 6],
            [5, 6]])
    """
    ids, mask = inputs["input_ids"], inputs["attention_mask"].bool()
    left, right = ~mask.cummax(-1).values, ~mask.flip(-1).cummax(-1).values.flip(-1)
    if left.any() and right.any():
        raise LofiError(
            "prune_inputs: attention_mask pads some rows on the left and some on the right; "
            "expected one side: tokenise with padding_side='left'"
        )
    text = ~(left | right)
    real = keep & text
    lengths = real.sum(-1, keepdim=True)
    width = int(lengths.max() + (~text).sum(-1).min())
    # Row b of `order` lists its real columns first; place them, and point the rest at a column of
    # padding appended behind the last.
    order = torch.argsort(real, dim=-1, descending=True, stable=True)
    place = torch.arange(width, device=ids.device).expand(len(ids), width)
    if not right.any():
        place = place - (width - lengths)
    source = order.gather(1, place.clamp(0, ids.shape[1] - 1))
    source = source.masked_fill((place < 0) | (place >= lengths), ids.shape[1])

    fill = {"input_ids": pad_token_id, "labels": -100, "shift_labels": -100}
    shorter = dict(inputs)
    for name, value in inputs.items():
        if isinstance(value, Tensor) and value.shape[-2:] == ids.shape:
            padded = torch.nn.functional.pad(value, (0, 1), value=fill.get(name, 0))
            shorter[name] = padded.gather(-1, source.to(value.device).expand(*value.shape[:-1], -1))
    columns = inputs.get("logits_to_keep")
    if isinstance(columns, Tensor):
        shorter["logits_to_keep"] = _moved(columns.to(ids.device), source, ids.shape[1])
    return shorter


def _moved(columns: Tensor, source: Tensor, L: int) -> Tensor:
    """Return where some of the L original columns went, if all rows agree on it."""
    B, width = source.shape
    places = source.new_full((B, L + 1), -1)
    places.scatter_(1, source, torch.arange(width, device=source.device).expand(B, -1))
    moved = places[:, :L][:, columns]
    if (moved != moved[:1]).any() or (moved < 0).any():
        raise LofiError(
            f"prune_inputs: logits_to_keep={columns.tolist()}, columns of the unpruned prompt that "
            "are dropped or padding in some row, or move by different amounts; expected columns of "
            "text that end up in one place: keep all logits, or run the rows one by one"
        )
    return moved[0]


def compact_positions(position_ids: Tensor, mask: Tensor) -> Tensor:
    """Renumber positions without gaps: each value becomes its rank among its row's values.

    Plain positions, (B, L), become 0, 1, 2, ... For M-RoPE, (3, B, L), the three coordinates are
    ranked together: text keeps three equal ones, patches keep their order along each axis.

    Examples
    --------
    >>> import torch
    >>> compact_positions(torch.tensor([[0, 0, 3, 7]]), torch.tensor([[0, 1, 1, 1]]))
    tensor([[0, 0, 1, 2]])
    """
    compact = torch.zeros_like(position_ids)
    for row, real in enumerate(mask.bool()):
        values = position_ids[..., row, real]
        compact[..., row, real] = values.unique(return_inverse=True)[1]
    return compact
