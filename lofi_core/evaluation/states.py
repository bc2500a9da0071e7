"""Read a model's tokens at every site, and compare a pruned model's with the unpruned one's.

The sites are the encoder's output, the projector's, and what each language-model layer gives;
`lofi_core.evaluation.sites` says what is measured there.
"""

from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from torch.nn.functional import cosine_similarity

from lofi_core.errors import LofiError
from lofi_core.evaluation.sites import SiteReference, text_iprs
from lofi_core.pruners import Pruner
from lofi_core.vlm.images import Picture
from lofi_core.vlm.packing import Packed, PackedOutput

__all__ = ["Figures", "Reference", "Sites", "read_sites", "sites_of"]


@dataclass(frozen=True, eq=False)
class Sites:
    """Tokens at every site, of B images with Q questions in all.

    Parameters
    ----------
    visual : dict of str to list of B Tensors, shape (m_b, D)
        Visual tokens by site: "encoder", "projector", "layer 1", ... The last layer is read after
        the final norm. A merging pruner's tokens have no counterpart at the encoder.
    text : dict of str to list of Q Tensors, shape (L_q, D)
        The tokens after the image, by layer.
    last : Tensor, shape (Q, D)
        Final hidden state of each question's last token.
    images : list of Q int
        Which image each question is about, ascending.
    """

    visual: dict[str, list[Tensor]]
    text: dict[str, list[Tensor]]
    last: Tensor
    images: list[int]


def read_sites(packed: Packed, pruner: Pruner) -> Sites:
    """Run a model under a pruner and read its tokens at every site.

    Parameters
    ----------
    packed : Packed
        Images encoded with ``needs`` of the pruner and ``"encoded"``, and questions about them.
    pruner : Pruner
        One that acts before the language model; for the unpruned model, one that keeps everything.

    Raises
    ------
    LofiError
        If there is nothing to read at the encoder.
    """
    return sites_of(packed, packed.run(pruner, hidden=True))


def sites_of(packed: Packed, output: PackedOutput) -> Sites:
    """Sort the hidden states of packed questions by site; see `read_sites`."""
    pictures = packed.encoded.pictures
    if missing := [picture.row for picture in pictures if "encoded" not in picture.known]:
        raise LofiError(
            f"read_sites: nothing recorded at the encoder of prompts {missing}; expected "
            "encode_inputs(model, inputs, needs=[..., 'encoded'])"
        )
    layers = [f"layer {i}" for i in range(1, len(output.hidden))]
    visual = {
        site: [states[b, output.visual[b]] for b in range(len(pictures))]
        for site, states in zip(["projector", *layers], output.hidden, strict=True)
    }
    kept = [image.chosen for image in output.report.images]
    pairs = list(zip(pictures, kept, strict=True))
    unmerged = [_features(picture, which) for picture, which in pairs]
    if all(torch.equal(X, Y) for X, Y in zip(visual["projector"], unmerged, strict=True)):
        visual = {"encoder": [picture.known["encoded"][which] for picture, which in pairs]} | visual
    images, places = [], []
    for b, numbers in enumerate(output.question):
        for j in range(1, int(numbers.max()) + 1):
            images.append(b)
            places.append(numbers == j)
    # The projector's site has no text: there, words are rows of the embedding table.
    text = {
        site: [states[b, place] for b, place in zip(images, places, strict=True)]
        for site, states in zip(layers, output.hidden[1:], strict=True)
    }
    return Sites(visual, text, torch.stack([words[-1] for words in text[layers[-1]]]), images)


def _features(picture: Picture, kept: Tensor) -> Tensor:
    """What the language model receives of a picture if nothing was merged."""
    patches = picture.layout.patches
    stays = torch.ones(len(picture.features), dtype=torch.bool, device=patches.device)
    stays[patches] = False
    stays[patches[kept]] = True
    return picture.features[stays]


@dataclass(frozen=True, eq=False)
class Figures:
    """How a pruned model's representations compare with the unpruned one's.

    Parameters
    ----------
    sites : list of lists of dict
        Per image, one dictionary per site and kind of token: ``site``, ``tokens`` ("visual" or
        "text") and the figures of `lofi_core.evaluation.sites`; for text, the means over questions
        of the two IPRs by energy.
    hidden_distance, text_ipr_change : list of Q float
        Per question: cosine distance of the last token's final hidden state; relative change of the
        centred IPR of its tokens in the last layer.
    """

    sites: list[list[dict[str, Any]]]
    hidden_distance: list[float]
    text_ipr_change: list[float]


class Reference:
    """Representations in the unpruned model, to compare others with.

    Parameters
    ----------
    before : Sites
        Of the unpruned model, with equally many visual tokens in all images.
    """

    def __init__(self, before: Sites) -> None:
        """Decompose the tokens of every site."""
        self.sites = {site: SiteReference(torch.stack(X)) for site, X in before.visual.items()}
        self.text = text_iprs([*before.text.values()][-1])[:, 1]
        self.last = before.last

    def compare(self, after: Sites, images: int) -> Figures:
        """Compare the first images under a pruner with themselves unpruned.

        Parameters
        ----------
        after : Sites
            Of the same questions.
        images : int
            How many images to compare.
        """
        asked = [q for q, image in enumerate(after.images) if image < images]
        sites: list[list[dict[str, Any]]] = [[] for _ in range(images)]
        for site, tokens in after.visual.items():
            for image, figures in _by_length(self.sites[site], tokens[:images]):
                sites[image].append({"site": site, "tokens": "visual", **figures})
        iprs = torch.empty(0, 2)
        for site, words in after.text.items():
            iprs = text_iprs([words[q] for q in asked])
            for image in range(images):
                about = [j for j, q in enumerate(asked) if after.images[q] == image]
                plain, centred = iprs[about].mean(0).tolist()
                figures = {"ipr": plain, "ipr_centered": centred}
                sites[image].append({"site": site, "tokens": "text", **figures})
        cosine = cosine_similarity(self.last[asked].double(), after.last[asked].double(), dim=-1)
        change = iprs[:, 1] / self.text[asked] - 1
        return Figures(sites, (1 - cosine).tolist(), change.tolist())


def _by_length(
    reference: SiteReference, tokens: Sequence[Tensor]
) -> list[tuple[int, dict[str, float]]]:
    """Return each image's figures; images with equally many tokens are worked on together."""
    groups = defaultdict(list)
    for image, Y in enumerate(tokens):
        groups[len(Y)].append(image)
    found = []
    for members in groups.values():
        figures = reference[members].figures(torch.stack([tokens[i] for i in members]))
        columns = {name: values.tolist() for name, values in figures.items()}
        found += [(i, {n: v[j] for n, v in columns.items()}) for j, i in enumerate(members)]
    return found
