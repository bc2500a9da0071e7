"""CLIP's features of every photo, computed once: ``python -m book.training.photo.features``.

Row i of ``features.npy`` (n, 196, 768), float16, holds the patches of photo i at the layer that the
connector reads. Blocks that are done are listed beside it, so that a killed run goes on.
"""

import json
import sys
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import torch
from tqdm import tqdm
from transformers import CLIPImageProcessorPil

from book.training.photo.assemble import clip_tower
from book.training.photo.parts import cache_folder
from book.training.photo.photos import open_photo, read_photos

__all__ = ["Features", "extract"]

SPLITS = ("train", "validation", "test")
BLOCK = 16
PATCHES, WIDTH, LAYER = 196, 768, -2


class Features:
    """The features by name of the photo, read from the memory map."""

    def __init__(self, folder: Path | None = None) -> None:
        folder = folder or cache_folder() / "photo"
        self.order = {name: i for i, (name, _) in enumerate(json.loads(_index(folder).read_text()))}
        self.values = np.load(folder / "features.npy", mmap_mode="r")

    def __call__(self, names: Sequence[str]) -> torch.Tensor:
        """Return (len(names), 196, 768), float32."""
        rows = [self.values[self.order[name]] for name in names]
        return torch.from_numpy(np.stack(rows)).float()


def _index(folder: Path) -> Path:
    return folder / "order.json"


@torch.inference_mode()
def extract(folder: Path | None = None, device: str = "cpu") -> Path:
    """Compute what is missing of the features of all photos; return the folder."""
    folder = folder or cache_folder() / "photo"
    folder.mkdir(parents=True, exist_ok=True)
    photos = [(photo.name, split) for split in SPLITS for photo in read_photos(split)]
    _index(folder).write_text(json.dumps(photos))
    path, done = folder / "features.npy", folder / "done.txt"
    if not path.exists():
        shape = (len(photos), PATCHES, WIDTH)
        np.lib.format.open_memmap(path, "w+", np.float16, shape).flush()
        done.write_text("0")
    values = np.load(path, mmap_mode="r+")
    tower, processor = clip_tower().to(device), CLIPImageProcessorPil()
    start = int(done.read_text())
    for first in tqdm(range(start, len(photos), BLOCK), "features"):
        images = [open_photo(name) for name, _ in photos[first : first + BLOCK]]
        pixels = processor(images, return_tensors="pt")["pixel_values"].to(device)
        states = tower.vision_model(pixels, output_hidden_states=True).hidden_states[LAYER]
        values[first : first + BLOCK] = states[:, 1:].cpu().numpy()
        values.flush()
        done.write_text(str(first + BLOCK))
    return folder


if __name__ == "__main__":
    extract(device=sys.argv[1] if len(sys.argv) > 1 else "cpu")
