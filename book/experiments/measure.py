"""Representations under a pruner, site by site, beside those of the unpruned model."""

from collections import defaultdict
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from torch.nn.functional import cosine_similarity

from lofi_core.evaluation.block import Block, Reply
from lofi_core.evaluation.sites import SiteReference, text_iprs

__all__ = ["Before", "site_rows"]


@dataclass(frozen=True, eq=False)
class Before:
    """What the unpruned model showed, to compare with.

    Parameters
    ----------
    references : dict of str to list of SiteReference
        One an image, by site.
    projected : list of Tensors, shape (N, D)
    text_ipr : Tensor, shape (Q,)
        Centred IPR of each question's tokens in the last layer.
    last : Tensor, shape (Q, D)
        Final hidden state of each question's last token.
    """

    references: dict[str, SiteReference]
    projected: list[Tensor]
    text_ipr: Tensor
    last: Tensor


@torch.inference_mode()
def site_rows(
    block: Block, reply: Reply, before: Before | None, images: int
) -> tuple[Before, list[dict[str, Any]], dict[str, Tensor]]:
    """Measure the first images of a block.

    Parameters
    ----------
    block, reply
        What was asked, and what came back, with hidden states.
    before : Before, optional
        What this function returned for the unpruned model; None for that model itself.
    images : int
        How many of the block's images.

    Returns
    -------
    tuple
        What to compare later arms with; one row an image, site and kind of token; and by name one
        figure a question of the block, NaN for those about other images.
    """
    assert reply.packed is not None
    output = reply.packed
    names = ["projector", *(f"layer {i}" for i in range(1, len(output.hidden)))]
    states = {
        name: [hidden[i, output.visual[i]] for i in range(images)]
        for name, hidden in zip(names, output.hidden, strict=True)
    }
    kept = [report.kept for _, report in reply.reports[:images]]
    if before is None or all(
        torch.equal(Y, X[k])
        for Y, X, k in zip(states["projector"], before.projected, kept, strict=True)
    ):  # merged tokens have no counterpart at the encoder
        encoded = [picture.known["encoded"] for picture in block.encoded.pictures[:images]]
        states["encoder"] = [x[k] for x, k in zip(encoded, kept, strict=True)]
    words, last = _questions(output.hidden[1:], output.question, images)
    iprs = torch.stack([text_iprs(layer) for layer in words])  # (layers, Q, 2)
    if before is None:
        references = {name: SiteReference(torch.stack(X)) for name, X in states.items()}
        before = Before(references, states["projector"], iprs[-1, :, 1], last)
    rows = []
    for site, tokens in states.items():
        rows += [
            {"image": i, "site": site, "tokens": "visual", **figures}
            for i, figures in enumerate(_figures(before.references[site], tokens))
        ]
    per_image = iprs.unflatten(1, (images, -1)).mean(2).tolist()
    for layer, means in zip(names[1:], per_image, strict=True):
        for i, (plain, centred) in enumerate(means):
            figures = {"ipr": plain, "ipr_centered": centred}
            rows.append({"image": i, "site": layer, "tokens": "text", **figures})
    lacking = torch.full((len(block.rows) - len(last),), torch.nan)
    distance = 1 - cosine_similarity(before.last.double(), last.double(), dim=-1).float()
    change = iprs[-1, :, 1] / before.text_ipr - 1
    extra = {"hidden_distance": distance, "text_ipr_change": change}
    return before, rows, {name: torch.cat((x, lacking)) for name, x in extra.items()}


def _questions(
    hidden: tuple[Tensor, ...], question: Tensor, images: int
) -> tuple[list[list[Tensor]], Tensor]:
    """Sort the text tokens by layer and question; the last layer's last token of each question."""
    layers = []
    for states in hidden:
        layers.append(
            [
                states[i, question[i] == number]
                for i in range(images)
                for number in range(1, int(question[i].max()) + 1)
            ]
        )
    return layers, torch.stack([tokens[-1] for tokens in layers[-1]])


def _figures(reference: SiteReference, tokens: list[Tensor]) -> list[dict[str, float]]:
    """Figures image by image; images with equally many tokens are worked on together."""
    groups = defaultdict(list)
    for i, Y in enumerate(tokens):
        groups[len(Y)].append(i)
    result: list[dict[str, float]] = [{} for _ in tokens]
    for members in groups.values():
        figures = reference[members].figures(torch.stack([tokens[i] for i in members]))
        values = {name: value.tolist() for name, value in figures.items()}
        for j, i in enumerate(members):
            result[i] = {name: value[j] for name, value in values.items()}
    return result
