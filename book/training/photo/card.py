"""PhotoVLM's model card, from the files that training and evaluation left in its folder."""

import json
from pathlib import Path

from book.training.photo.figures import table_of

__all__ = ["card"]

TEXT = """# PhotoVLM: connector and adapters

A CLIP ViT-B/16 vision tower (OpenAI, MIT; 8 bits, dequantised) and SmolLM2-135M-Instruct
(Apache-2.0; 4 bits, dequantised), joined by a two-layer connector and low-rank adapters trained in
this repository. Only connector and adapters are in this folder;
`python -m book.training.photo.assemble` joins them with the two parts. The vision tower was frozen,
and nothing was said about single patches.

`python -m book.training.photo.evaluate` wrote this card.

## Training

{recipe}

## Does it look?

The first {photos} test photos by name. Every question was asked with its own photo, and with a
wrong one: the next photo of a random cycle through the photos of the same source. Percentages, with
95 % bootstrap intervals that cluster questions by photo.

{table}

Blind models score about 50 % on yes/no; SugarCrepe's captions can be told apart without the photo
(about 75 %). POPE is the part of it whose photos are at hand, so scores do not compare with
published ones. `captions.json` holds greedy captions of {captions} photos, by COCO id.

## Spectrum of the tokens

Penultimate layer of the tower, centred, mean over the same photos: effective rank
{effective_rank}, {directions_for_90_percent} directions for 90 % of the energy.

## Limits

A small model, trained for an hour and a half on two CPU cores. It is for experiments on pruning,
not for use. The features of the training photos were computed in bfloat16 (autocast), those of
validation and test in float32; the table was made in bfloat16 (autocast). Which of four captions
fits is answered with a letter in `four-captions`, and by comparing how likely the four captions are
in `four-captions-ranked`, which no bar is about.
"""


def card(folder: Path) -> str:
    """Return the card of the model in ``folder``, which `evaluate` has written the figures into."""
    figures = json.loads((folder / "figures.json").read_text())
    captions = json.loads((folder / "captions.json").read_text())
    recipe = folder / "recipe.json"
    lines = [f"- {k.replace('_', ' ')}: {v}" for k, v in json.loads(recipe.read_text()).items()]
    return TEXT.format(
        recipe="\n".join(lines),
        photos=figures["photos"],
        table=table_of(figures["parts"]),
        captions=len(captions),
        **figures["spectra"],
    )
