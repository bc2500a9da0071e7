"""Evaluate PhotoVLM and write its card: ``python -m book.training.photo.evaluate --photos 390``.

Into the folder of the trained weights go ``evaluation.parquet`` (records by id), ``figures.json``,
``captions.json`` (what the model says about 50 photos, by COCO id) and ``README.md``, the card.
Nothing in them is typed by hand but the words around the numbers.
"""

import argparse
import json
from pathlib import Path
from typing import Any

import pandas as pd
import torch

from book.training.photo.adapters import merge_trained
from book.training.photo.assemble import SHIPPED, base_model
from book.training.photo.card import card
from book.training.photo.features import Features
from book.training.photo.figures import figures_of
from book.training.photo.photos import Photo, open_photo, read_photos
from book.training.photo.records import ask_twice, items_of, rank_captions
from lofi_core.spectrum import spectrum
from lofi_core.vlm.prompts import chat_inputs

__all__ = ["captions_of", "evaluate", "spectra_of"]

DESCRIBE = "Describe the photo in one sentence."
ENERGY = 0.9


def evaluate(photos: int | None, folder: Path) -> dict[str, Any]:
    """Ask about the first ``photos`` test photos by name (all by default), and write the files."""
    model, processor = base_model()
    merge_trained(model, folder)
    model.eval().set_attn_implementation("eager")
    features, asked = Features(), list(read_photos("test")[:photos])
    tokenizer = processor.tokenizer
    tables = [ask_twice(model, tokenizer, features, items_of(asked))]
    tables.append(rank_captions(model, tokenizer, features, asked))
    records = pd.concat(tables, ignore_index=True)
    figures = {
        "photos": len(asked),
        "parts": figures_of(records),
        "spectra": spectra_of(features, asked),
    }
    records.to_parquet(folder / "evaluation.parquet", index=False)
    (folder / "figures.json").write_text(json.dumps(figures, indent=1) + "\n")
    captions = captions_of(model, processor, [photo for photo in asked if photo.captions][:50])
    (folder / "captions.json").write_text(json.dumps(captions, indent=1) + "\n")
    (folder / "README.md").write_text(card(folder))
    return figures


@torch.inference_mode()
def captions_of(model: Any, processor: Any, photos: list[Photo]) -> dict[str, str]:
    """Greedy captions through the ordinary path: pixels, chat template, ``generate``."""
    said = {}
    for photo in photos:
        inputs = chat_inputs(processor, [(open_photo(photo.name), DESCRIBE)])
        out = model.generate(**inputs, max_new_tokens=30, do_sample=False)
        text = processor.decode(out[0, inputs["input_ids"].shape[1] :], skip_special_tokens=True)
        said[Path(photo.name).stem] = text.strip()
    return said


def spectra_of(features: Features, photos: list[Photo]) -> dict[str, float]:
    """Effective rank, and directions for 90 % of the energy, centred; means over photos."""
    ranks, directions = [], []
    for photo in photos:
        found = spectrum(features([photo.name])[0], center=True)
        ranks.append(found.effective_rank.item())
        directions.append(int((found.energies.cumsum(-1) < ENERGY).sum()) + 1)
    return {
        "effective_rank": round(sum(ranks) / len(ranks), 2),
        "directions_for_90_percent": round(sum(directions) / len(directions), 1),
    }


def main(argv: list[str] | None = None) -> None:
    """Run the command line."""
    parser = argparse.ArgumentParser("book.training.photo.evaluate", description=__doc__)
    parser.formatter_class = argparse.RawDescriptionHelpFormatter
    parser.add_argument("--photos", type=int, help="the first so many test photos (default: all)")
    parser.add_argument("--folder", type=Path, default=SHIPPED, help="where the weights lie")
    options = parser.parse_args(argv)
    evaluate(options.photos, options.folder)
    print((options.folder / "README.md").read_text())


if __name__ == "__main__":
    main()
