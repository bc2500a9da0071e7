"""Synthetic visual tokens with the spectrum of real ones: a mean, and a power law about it."""

import torch
from torch import Tensor

from lofi_core.pruners import VisualTokens
from lofi_core.pruners.inside import LayerView


def make_tokens(
    B: int, N: int, D: int, seed: int = 0, decay: float = 0.75, device: torch.device | str = "cpu"
) -> Tensor:
    """Draw tokens with singular values ``j^-decay`` about a common mean, (B, N, D), float32.

    With Gaussian factors in place of orthogonal ones, which would take an SVD's time to make, the
    power law holds approximately.
    """
    g = torch.Generator().manual_seed(seed)
    r = min(N, D)
    left, right = torch.randn(B, N, r, generator=g), torch.randn(r, D, generator=g)
    s = torch.arange(1, r + 1) ** -decay
    mean = torch.randn(D, generator=g)
    return ((left * s) @ right / r**0.5 + mean).to(device)


def make_visual(B: int, N: int, D: int, grid: tuple[int, ...], seed: int = 0) -> VisualTokens:
    """Give a pruner all that an encoder could know, so that every method of the registry runs."""
    g = torch.Generator().manual_seed(seed + 1)
    C, H = D // 4, 16

    def draw(*shape: int) -> Tensor:
        return torch.randn(*shape, generator=g)

    return VisualTokens(
        projected=make_tokens(B, N, D, seed),
        encoded=make_tokens(B, N, C, seed + 2),
        cls_attention=draw(B, H, N).softmax(-1),
        first_cls_attention=draw(B, H, N).softmax(-1),
        last_cls_attention=draw(B, N).softmax(-1),
        keys=draw(B, N, 64),
        last_keys=draw(B, N, C),
        cls_encoded=draw(B, 1, C).expand(B, N, C),
        crops=torch.zeros(B, N, dtype=torch.int64),
        project=torch.nn.Linear(C, D),
        grids=(grid,),
    )


def make_view(N: int, D: int, device: torch.device | str = "cpu", seed: int = 0) -> LayerView:
    """Give a pruner inside a language model what it reads of a prompt with 32 + 32 tokens of text.

    Attention, keys and normed states are there already, so that what is timed is the choice.
    """
    g = torch.Generator().manual_seed(seed + 3)
    L, heads, d = N + 64, 16, 64
    hidden = make_tokens(1, L, D, seed, device=device)[0]
    attention = torch.randn(heads, 32, L, generator=g).softmax(-1).to(device)
    keys = torch.randn(heads, L, d, generator=g).to(device)

    def attend(rows: Tensor) -> Tensor:
        return attention[:, : len(rows)]

    return LayerView(
        hidden=hidden,
        normed=lambda: hidden,
        visual=torch.arange(32, 32 + N, device=device),
        after=torch.arange(32 + N, L, device=device),
        positions=torch.arange(L, device=device),
        inputs=(hidden[32 : 32 + N], hidden[32 + N :]),
        previous=attend,
        following=attend,
        keys=lambda: keys,
    )
