r"""Rows of a batch on their way through a language model's layers, and what they attend to.

    A[h, i, :] = softmax(q_i K^T / sqrt(d)),    keys up to i

for the few rows i that somebody asks for, from the queries and keys of one layer: the model itself
keeps its own attention back-end.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from torch.nn.utils.rnn import pad_sequence

from lofi_core.vlm.masks import leave

__all__ = ["Batch", "RowAttention", "pad_rows", "shorten"]

Row = dict[str, Tensor]


@dataclass(eq=False)
class Batch:
    """What is known of the sequences that enter a layer: (B, W) each, unless it says otherwise."""

    real: Tensor  # not padding
    visual: Tensor
    after: Tensor  # behind the last visual token
    positions: Tensor
    origin: Tensor  # which of the prompt's visual tokens it is; -1 for text and merged tokens
    removed: Tensor  # (B, 1): how far new tokens' ids shift down
    changed: bool = False  # from what entered the model
    new: int = 0  # tokens that came after the prompt

    def row(self, b: int, hidden: Tensor) -> tuple[Row, Tensor]:
        """One row without its padding, with its hidden states; and where its tokens stand."""
        places = self.real[b].nonzero()[:, 0]
        facts = {name: getattr(self, name) for name in ("visual", "after", "positions", "origin")}
        return {k: x[b, places] for k, x in {"hidden": hidden, **facts}.items()}, places

    def left(self) -> tuple[Tensor, ...]:
        """Which of each row's visual tokens are still there, ascending, on the CPU."""
        return tuple(row[row >= 0].cpu() for row in self.origin.where(self.visual, -1))


def shorten(row: Row, kept: Tensor, merged: Tensor | None, renumber: bool) -> Row:
    """Leave one row with the visual tokens ``kept`` and, behind them, the merged ones.

    Parameters
    ----------
    row : dict of Tensor
        From `Batch.row`.
    kept : Tensor, int64
        Which of its visual tokens stay.
    merged : Tensor, shape (c, D), optional
        New ones.
    renumber : bool
        Give the row the first of its position ids, without gaps.
    """
    visual = row["visual"].nonzero()[:, 0]
    stays = torch.ones_like(row["visual"])
    leave(stays, visual, kept)
    short = {name: x[stays] for name, x in row.items()}
    if merged is not None:  # before the text that follows the images
        at = int(stays[: int(visual[-1]) + 1].sum())
        made = merged.to(row["hidden"])
        new = {
            "hidden": made,
            "visual": row["visual"].new_ones(len(made)),
            "after": row["after"].new_zeros(len(made)),
            "positions": row["positions"].new_zeros(len(made)),  # renumbered below
            "origin": row["origin"].new_full((len(made),), -1),
        }
        short = {k: torch.cat((x[:at], new[k], x[at:])) for k, x in short.items()}
    if renumber:
        short["positions"] = row["positions"][: len(short["hidden"])]
    return short


def pad_rows(rows: Sequence[Row], right: bool) -> tuple[Row, Tensor]:
    """Batch rows of unequal lengths, padded on one side; and say which places are real, (B, W)."""
    side = "right" if right else "left"
    padded = {
        name: pad_sequence([row[name] for row in rows], batch_first=True, padding_side=side)
        for name in rows[0]
    }
    hidden = padded["hidden"]
    lengths = torch.tensor([len(row["hidden"]) for row in rows], device=hidden.device)
    real = torch.arange(hidden.shape[1], device=hidden.device) < lengths[:, None]
    return padded, real if right else real.flip(-1)


class RowAttention:
    """Queries and keys of one layer for one row, as far as somebody asks for them.

    Parameters
    ----------
    layer
        A decoder layer built like Llama's.
    x : Tensor, shape (L, D)
        What its attention module receives.
    cos, sin : Tensor, shape (L, d)
        Rotary embedding of the row's positions.
    """

    def __init__(self, layer: Any, x: Tensor, cos: Tensor, sin: Tensor) -> None:
        """Compute nothing yet."""
        self.module, self.x, self.cos, self.sin = layer.self_attn, x, cos, sin

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
