"""Read a model's tokens at every site, and compare a pruned model's with the unpruned one's.

The sites are the encoder's output, the projector's, and what each language-model layer gives;
`lofi_core.evaluation.sites` says what is measured there. Of the prompt as a whole, the cosine
distance of the last token's final hidden state is measured.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from torch.nn.functional import cosine_similarity

from lofi_core.errors import LofiError, extra
from lofi_core.evaluation.sites import SiteReference, text_iprs
from lofi_core.leverage import EnergyRank, RankRule
from lofi_core.pruners import Pruner
from lofi_core.vlm.encoding import EncodedInputs
from lofi_core.vlm.images import Picture

with extra("eval"):
    import pandas as pd

__all__ = ["Sites", "compare_sites", "read_sites"]


@dataclass(frozen=True, eq=False)
class Sites:
    """Tokens of B prompts with one image each, at every site.

    Parameters
    ----------
    visual : dict of str to list of B Tensors, shape (m_b, D)
        Visual tokens by site: "encoder", "projector", "layer 1", ... The last layer is read after
        the final norm. A merging pruner's tokens have no counterpart at the encoder.
    text : dict of str to list of B Tensors, shape (L_b, D)
        The tokens after the image, by layer.
    last : Tensor, shape (B, D)
        Final hidden state of each prompt's last token.
    """

    visual: dict[str, list[Tensor]]
    text: dict[str, list[Tensor]]
    last: Tensor


@torch.inference_mode()
def read_sites(encoded: EncodedInputs, pruner: Pruner) -> Sites:
    """Run a model under a pruner and read its tokens at every site.

    Parameters
    ----------
    encoded : EncodedInputs
        One image a prompt, encoded with ``needs`` of the pruner and ``"encoded"``. For the unpruned
        model let the pruner keep everything.
    pruner : Pruner
        One that acts before the language model.

    Raises
    ------
    LofiError
        If a prompt does not hold exactly one image, or there is nothing to read at the encoder.
    """
    rows = [picture.row for picture in encoded.pictures]
    if rows != [*range(len(encoded.inputs["input_ids"]))]:
        raise LofiError(
            f"read_sites: pictures in rows {rows} of {len(encoded.inputs['input_ids'])} prompts; "
            "expected one image each"
        )
    if missing := [p.row for p in encoded.pictures if "encoded" not in p.known]:
        raise LofiError(
            f"read_sites: nothing recorded at the encoder of prompts {missing}; expected "
            "encode_inputs(model, inputs, needs=[..., 'encoded'])"
        )
    model, inputs = encoded.model, encoded.prune(pruner)
    output = model(**inputs, output_hidden_states=True, use_cache=False, logits_to_keep=1)
    ids, mask = inputs["input_ids"], inputs.get("attention_mask")
    real = torch.ones_like(ids, dtype=torch.bool) if mask is None else mask.bool()
    visual = ids == model.config.image_token_id
    after = real & ~visual.flip(-1).cummax(-1).values.flip(-1)
    ends = torch.arange(ids.shape[1], device=ids.device).mul(real).argmax(-1)
    last = output.hidden_states[-1][torch.arange(len(ids)), ends]
    states = dict(zip(_names(output.hidden_states), output.hidden_states, strict=True))
    seen = {site: [h[b, visual[b]] for b in range(len(h))] for site, h in states.items()}
    kept = [image.kept for image in inputs.report.images]
    pairs = list(zip(encoded.pictures, kept, strict=True))
    unmerged = [_features(picture, which) for picture, which in pairs]
    if all(torch.equal(X, Y) for X, Y in zip(seen["projector"], unmerged, strict=True)):
        encoder = [picture.known["encoded"][which.to(ids.device)] for picture, which in pairs]
        seen = {"encoder": encoder} | seen
    del states["projector"]  # there, words are rows of the embedding table
    words = {site: [h[b, after[b]] for b in range(len(h))] for site, h in states.items()}
    return Sites(seen, words, last)


def _names(hidden: Sequence[Tensor]) -> list[str]:
    return ["projector", *(f"layer {i}" for i in range(1, len(hidden)))]


def _features(picture: Picture, kept: Tensor) -> Tensor:
    """What the language model receives of a picture if nothing was merged."""
    patches = picture.layout.patches
    stays = torch.ones(len(picture.features), dtype=torch.bool, device=patches.device)
    stays[patches] = False
    stays[patches[kept.to(patches.device)]] = True
    return picture.features[stays]


def compare_sites(before: Sites, after: Sites, rank: RankRule = EnergyRank(0.9)) -> pd.DataFrame:
    """Compare a pruned model with the unpruned one at every site.

    Parameters
    ----------
    before, after : Sites
        Of the same prompts, unpruned and pruned.
    rank : RankRule
        See `SiteReference`.

    Returns
    -------
    DataFrame
        One row a prompt, site and kind of token: ``row``, ``site``, ``tokens`` ("visual" or
        "text"), the figures of `SiteReference` (for text just the two IPRs by energy), and
        ``hidden_distance``, the cosine distance of the last hidden state, the same for all of a
        prompt's rows.
    """
    hidden = (1 - cosine_similarity(before.last.float(), after.last.float(), dim=-1)).tolist()
    rows: list[dict[str, Any]] = []
    for site, states in after.visual.items():
        for b, Y in enumerate(states):
            figures = SiteReference(before.visual[site][b][None], rank).figures(Y[None])
            values = {name: value.item() for name, value in figures.items()}
            rows.append({"row": b, "site": site, "tokens": "visual", **values})
    for site, states in after.text.items():
        for b, (plain, centred) in enumerate(text_iprs(states).tolist()):
            values = {"ipr": plain, "ipr_centered": centred}
            rows.append({"row": b, "site": site, "tokens": "text", **values})
    return pd.DataFrame([row | {"hidden_distance": hidden[row["row"]]} for row in rows])
