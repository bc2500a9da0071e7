"""Random visual tokens with everything that pruners may ask for."""

import torch
from torch import Tensor

from lofi_core.pruners import VisualTokens

# Of pruners that read the question.
TEXT = {
    name: {
        "text_embeds": torch.randn(1, 6, generator=torch.Generator().manual_seed(9)),
        "embed": lambda x: x[..., :6],
    }
    for name in ("trim", "cdpruner")
}


def make(B: int = 3, N: int = 36, seed: int = 0, D: int = 12) -> VisualTokens:
    """Random tokens with everything that a CLIP encoder and a linear projector know about them."""
    g = torch.Generator().manual_seed(seed)

    def rand(*shape: int) -> Tensor:
        return torch.randn(*shape, generator=g)

    X, W = rand(B, N, 8) + 0.5, rand(8, D)
    side = int(N**0.5)
    return VisualTokens(
        X @ W,
        encoded=X,
        cls_attention=(3 * rand(B, 4, N + 1)).softmax(-1)[..., 1:],
        first_cls_attention=rand(B, 4, N + 1).softmax(-1)[..., 1:],
        last_cls_attention=(3 * rand(B, N + 1)).softmax(-1)[..., 1:],
        keys=rand(B, N, 5),
        last_keys=rand(B, N, 8),
        cls_encoded=rand(B, 1, 8).expand(-1, N, -1),
        crops=torch.zeros(B, N, dtype=torch.int64),
        project=lambda x: x @ W,
        grids=((side, side) if side * side == N else (N,),),
    )


def image(tokens: VisualTokens, b: int) -> VisualTokens:
    """One image of a batch."""
    facts = {k: v[b : b + 1] if isinstance(v, Tensor) else v for k, v in vars(tokens).items()}
    return VisualTokens(**facts)
