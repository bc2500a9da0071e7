r"""DART: drop what duplicates a few pivots (arXiv 2502.11494).

Pivots are the 4 visual tokens and the 4 tokens after the image whose keys in layer K - 1 (rotated,
heads side by side) have the largest L1 norm. Each pivot p in turn takes, of the visual tokens not
taken yet, the t of lowest cosine similarity,

    cos(h_i, h_p),   h: what enters layer K, after the model's final RMSNorm,

and 4 + 8 t visual tokens go on to layer K, in their order and at their original positions.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn.functional import normalize

from lofi_core.errors import LofiError
from lofi_core.pruners.inside import InsidePruner, LayerView, Stage, solve

__all__ = ["DART"]


@dataclass(frozen=True, kw_only=True)
class DART(InsidePruner, name="dart"):
    """Keep pivots and what is least like them.

    Parameters
    ----------
    layer : int >= 1
        K.
    max_tokens : int or None
        Each pivot takes ``t = floor(max_tokens / 8)``; so 128 keeps 132.
    reduction : float in (0, 1)
        Where ``max_tokens`` is None, ``t = floor(N (1 - reduction) / 8)``.
    image_pivots, text_pivots : int >= 0
        How many of each.
    bug_compatible : bool
        Let pivots take turns in the order in which CPython iterates over a set of their places, as
        the code does, instead of by the norm of their keys, visual ones first.
    """

    layer: int = 2
    max_tokens: int | None = 128
    reduction: float = 0.778
    image_pivots: int = 4
    text_pivots: int = 4
    bug_compatible: bool = False

    paper = "2502.11494"
    reads = "keys of layer K - 1, normed output of layer K - 1"
    follows = "code"
    deviations = (
        "pivots take turns by the norm of their keys, where the code leaves their order to the "
        "hash table of a set, unless bug_compatible; norms of rotated keys depend on absolute "
        "positions, so padding matters where it is given ids; keep is met from below, to 8 tokens"
    )

    def __post_init__(self) -> None:
        """Refuse numbers of pivots that mean nothing."""
        super().__post_init__()
        if (
            self.image_pivots < 0
            or self.text_pivots < 0
            or not self.image_pivots + self.text_pivots
        ):
            raise LofiError(
                f"DART: image_pivots={self.image_pivots}, text_pivots={self.text_pivots}; expected "
                "at least one pivot in all"
            )

    def share(self, N: int) -> int:
        """Visual tokens t that each pivot takes."""
        pivots = self.image_pivots + self.text_pivots
        total = N * (1 - self.reduction) if self.max_tokens is None else self.max_tokens
        return int(total / pivots)

    def schedule(self, N: int, layers: int) -> list[Stage]:
        """Drop once; with ``keep``, to the largest number of tokens within the budget."""
        pivots = self.image_pivots + self.text_pivots

        def stages(t: int) -> list[Stage]:
            return self.checked([Stage(self.layer, min(N, self.image_pivots + pivots * t))], layers)

        if self.keep is None:
            return stages(self.share(N))
        return solve(lambda x: stages(int(x * N / pivots + 1)), self.keep, N, layers, "DART")

    def pick(self, view: LayerView, stage: Stage) -> tuple[Tensor, None]:
        """Choose by keys of the layer before and by what enters the next."""
        image, text = self.pivots(view.keys(), view.visual, view.after)
        pivots = self.image_pivots + self.text_pivots
        t = (stage.count - self.image_pivots) // pivots
        return self.choose(view.normed(), view.visual, image, self.turns(image, text), t), None

    def pivots(self, keys: Tensor, visual: Tensor, text: Tensor) -> tuple[Tensor, Tensor]:
        """Choose visual and text pivots, where they stand, by falling norm of their keys.

        Parameters
        ----------
        keys : Tensor, shape (H, L, d)
            Keys of layer K - 1, after rotary embedding.
        visual, text : Tensor, shape (n,) and (M,), int64
            Where the visual tokens, and those after them, stand.
        """
        norms = keys.float().abs().sum((0, 2))

        def top(places: Tensor, count: int) -> Tensor:
            return places[norms[places].argsort(descending=True, stable=True)[:count]]

        return top(visual, self.image_pivots), top(text, self.text_pivots)

    def turns(self, image: Tensor, text: Tensor) -> list[int]:
        """Return the order in which pivots take their tokens."""
        if self.bug_compatible:
            return list(set(image.tolist() + text.tolist()))
        return image.tolist() + text.tolist()

    def choose(
        self, hidden: Tensor, visual: Tensor, image: Tensor, turns: Sequence[int], t: int
    ) -> Tensor:
        """Choose among the n visual tokens: indices in 0..n-1, ascending.

        Parameters
        ----------
        hidden : Tensor, shape (L, D)
            What enters the layer, after the final norm.
        visual : Tensor, shape (n,), int64
            Where the visual tokens stand.
        image : Tensor, int64
            Visual pivots, where they stand.
        turns : sequence of int
            All pivots, where they stand, in their order.
        t : int
            Tokens that each takes.
        """
        unit = normalize(hidden.float(), dim=-1)
        kept = torch.isin(visual, image)
        for pivot in turns:
            similarity = (unit[visual] @ unit[pivot]).masked_fill(kept, torch.inf)
            free = len(visual) - int(kept.sum())
            kept[similarity.argsort(stable=True)[: min(t, free)]] = True
        return kept.nonzero()[:, 0]
