"""What a pruner looks at, `VisualTokens`, and what it returns, a `Selection`."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from lofi_core.errors import LofiError, check_tokens

__all__ = [
    "Grid",
    "Selection",
    "VisualTokens",
    "check_scores",
    "check_selection",
    "check_visual",
]

Grid = tuple[int, ...]


@dataclass(frozen=True, eq=False)
class VisualTokens:
    """The visual tokens of B images of N tokens each, and what the encoder knows about them.

    Parameters
    ----------
    projected : Tensor, shape (B, N, D)
        Tokens as the language model would receive them.
    encoded : Tensor, shape (B, N, C), optional
        The same tokens as the projector received them.
    cls_attention : Tensor, shape (B, H, N), optional
        Attention of the CLS token to the patches, by head, in the encoder layer that gives the
        features. The CLS token's attention to itself is left out, so rows sum to less than 1.
    first_cls_attention : Tensor, shape (B, H, N), optional
        The same in the encoder's first layer.
    last_cls_attention : Tensor, shape (B, N), optional
        The same in the encoder's last layer, with all heads taken as one wide head.
    keys : Tensor, shape (B, N, d), optional
        Keys of the layer that gives the features, averaged over heads.
    last_keys : Tensor, shape (B, N, C), optional
        Keys of the encoder's last layer, all heads side by side.
    cls_encoded : Tensor, shape (B, N, C), optional
        For each token the CLS token of its crop, in the layer that gives the features.
    crops : Tensor, shape (B, N), int64, optional
        Which of the image's crops each token is from; 0 is the overview.
    project : callable, optional
        The projector: tokens (..., C) as ``encoded`` to tokens (..., D) as ``projected``.
    pixels : Tensor, shape (B, 3, H, W), optional
        The images as the encoder received them, where it takes each in one piece.
    encode : callable, optional
        Encoder and projector: pixels (B, 3, h, w) to tokens (B, n, D) as ``projected``.
    grids : tuple of tuples of int
        Shapes whose sizes add up to N: ``((24, 24),)`` for one image in one piece, several for an
        image in crops, ``((T, h, w),)`` for a video; ``((N,),)`` where tokens have no grid.
    """

    projected: Tensor
    encoded: Tensor | None = None
    cls_attention: Tensor | None = None
    first_cls_attention: Tensor | None = None
    last_cls_attention: Tensor | None = None
    keys: Tensor | None = None
    last_keys: Tensor | None = None
    cls_encoded: Tensor | None = None
    crops: Tensor | None = None
    project: Callable[[Tensor], Tensor] | None = None
    pixels: Tensor | None = None
    encode: Callable[[Tensor], Tensor] | None = None
    grids: tuple[Grid, ...] = ()

    def require(self, name: str, caller: str) -> Any:
        """Return the optional field ``name``.

        Raises
        ------
        LofiError
            If the encoder did not provide it.
        """
        value = getattr(self, name)
        if value is None:
            raise LofiError(
                f"{caller}: needs VisualTokens.{name}, which was not given; expected it: "
                "through a model, declare the field in the pruner's `needs`"
            )
        return value


@dataclass(frozen=True, eq=False)
class Selection:
    """Which tokens stay, image by image.

    Parameters
    ----------
    kept : tuple of B Tensors, shape (m_b,), int64
        Indices in 0..N-1, strictly ascending: tokens stay in their original order.
    tokens : tuple of B Tensors, shape (m_b, D), optional
        What takes the kept tokens' places, for methods that merge; by default the tokens
        themselves.
    scores : Tensor, shape (B, N), optional
        What the choice was based on; higher is kept.
    """

    kept: tuple[Tensor, ...]
    tokens: tuple[Tensor, ...] | None = None
    scores: Tensor | None = None

    @classmethod
    def first(
        cls, order: Tensor, counts: int | Tensor, scores: Tensor | None = None
    ) -> "Selection":
        """Keep the first ``counts`` tokens of each image's order of preference, shape (B, N).

        Examples
        --------
        >>> import torch
        >>> Selection.first(torch.tensor([[3, 0, 2, 1]]), 2).kept
        (tensor([0, 3]),)
        """
        if isinstance(counts, int):
            return cls(order[:, :counts].sort(-1).values.unbind(), scores=scores)
        lengths = counts.tolist()
        kept = tuple(row[:m].sort().values for row, m in zip(order, lengths, strict=True))
        return cls(kept, scores=scores)


# How each fact's shape begins and ends: B images, N tokens, and any number where it says None.
_SHAPES: dict[str, tuple[str | None, ...]] = {
    "encoded": ("B", "N", None),
    "cls_attention": ("B", None, "N"),
    "first_cls_attention": ("B", None, "N"),
    "last_cls_attention": ("B", "N"),
    "keys": ("B", "N", None),
    "last_keys": ("B", "N", None),
    "cls_encoded": ("B", "N", None),
    "crops": ("B", "N"),
    "pixels": ("B", None, None, None),
}


def check_visual(tokens: Any, needs: Sequence[str], caller: str) -> None:
    """Raise LofiError unless these are `VisualTokens` whose needed facts fit the tokens.

    Values are checked on the CPU, where looking at them is free; on an accelerator,
    `check_selection` sees what non-finite ones lead to.
    """
    if not isinstance(tokens, VisualTokens):
        raise LofiError(
            f"{caller}: called on a {type(tokens).__name__}; expected VisualTokens(projected) with "
            "projected of shape (B, N, D)"
        )
    X = tokens.projected
    check_tokens(X, caller)
    if X.ndim != 3:
        raise LofiError(
            f"{caller}: projected tokens of shape {tuple(X.shape)}; expected (B, N, D): add the "
            "batch dimension, tokens[None], for one image"
        )
    sizes = {"B": X.shape[0], "N": X.shape[1]}
    for name in needs:
        fact = tokens.require(name, caller)
        if name not in _SHAPES:
            continue
        expected = tuple(sizes.get(axis or "") for axis in _SHAPES[name])
        got = tuple(fact.shape) if isinstance(fact, Tensor) else ()
        if len(got) != len(expected) or any(
            want not in (None, size) for size, want in zip(got, expected, strict=True)
        ):
            axes = ", ".join("*" if size is None else str(size) for size in expected)
            raise LofiError(
                f"{caller}: VisualTokens.{name} of shape {got}; expected ({axes}), where * may be "
                f"any number, for tokens of shape {tuple(X.shape)}"
            )
        if fact.device.type == "cpu" and not _finite(fact):
            raise LofiError(
                f"{caller}: VisualTokens.{name} holds NaN or Inf; expected finite values: look for "
                "overflow in the vision encoder"
            )


def check_scores(scores: Any, X: Tensor, caller: str) -> None:
    """Raise LofiError unless there is one score per token, (B, N)."""
    if not isinstance(scores, Tensor) or scores.shape != X.shape[:2]:
        got = tuple(scores.shape) if isinstance(scores, Tensor) else type(scores).__name__
        raise LofiError(
            f"{caller}: scores of shape {got} for tokens of shape {tuple(X.shape)}; expected one "
            f"score per token, {tuple(X.shape[:2])}"
        )


def check_selection(selection: Any, X: Tensor, caller: str) -> None:
    """Raise LofiError if a selection breaks its promise; waits for the device once.

    Raises
    ------
    LofiError
        Unless there is one set of indices per image, ascending and in range, with finite scores,
        one per token, and finite tokens, one per index, where it has any.
    """
    B, N, D = X.shape
    if not isinstance(selection, Selection):
        raise LofiError(f"{caller}: select returned {selection!r:.80}; expected a Selection")
    lengths = [len(kept) for kept in selection.kept]
    if len(lengths) != B or 0 in lengths:
        raise LofiError(
            f"{caller}: kept {lengths} tokens; expected at least one of each of {B} images"
        )
    if wrong := {x.dtype for x in selection.kept} - {torch.int64}:
        raise LofiError(f"{caller}: kept indices of {wrong}; expected torch.int64")
    merged = selection.tokens or ()
    shapes = [tuple(x.shape) for x in merged]
    expected = [(m, D) for m in lengths]
    if merged and shapes != expected:
        raise LofiError(
            f"{caller}: tokens of shapes {shapes} for {lengths} kept indices; expected "
            f"{', '.join(map(str, expected))}: one token per index"
        )
    flat = torch.cat(selection.kept)
    image = torch.repeat_interleave(torch.tensor(lengths)).to(flat.device)
    ordered = ((flat >= 0) & (flat < N)).all() & ((flat + image * N).diff() >= 1).all()
    flags = [ordered, *(_finite(x).to(flat.device) for x in merged)]
    if selection.scores is not None:
        check_scores(selection.scores, X, caller)
        flags.append(_finite(selection.scores).to(flat.device))
    in_order, *finite = torch.stack(flags).tolist()
    if not in_order:
        raise LofiError(
            f"{caller}: kept indices {[kept.tolist() for kept in selection.kept]}; expected them "
            f"strictly ascending, in 0..{N - 1}: sort them before returning"
        )
    if not all(finite[: len(merged)]):
        raise LofiError(
            f"{caller}: merged tokens hold NaN or Inf; expected finite values: look for a division "
            "by a sum of weights that is zero, or for overflow"
        )
    if not all(finite):
        bad = int((~selection.scores.isfinite()).sum())  # type: ignore[union-attr]
        raise LofiError(
            f"{caller}: {bad} scores of {B * N} are NaN or Inf; expected finite scores: tokens "
            "would be kept in an arbitrary order. Compute them in float32, or rescale the tokens"
        )


def _finite(x: Tensor) -> Tensor:
    """Whether all values are finite, as a tensor: the largest of numbers with a NaN is NaN."""
    return x.detach().abs().amax().isfinite()
