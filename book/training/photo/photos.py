"""The photographs with their captions and questions, read from a folder that is not in git.

``LOFI_PHOTOS`` names the folder, by default ``data/photos``: ``images/coco-<id>.jpg`` (224 x 224),
``photos.jsonl``, ``captions.jsonl`` and ``questions.jsonl``. The repository refers to photos by
their COCO id and to questions by their id; neither pixels nor texts are in it.
"""

import json
import os
from collections import defaultdict
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

from PIL import Image

from lofi_core.errors import LofiError

__all__ = ["Photo", "open_photo", "photo_folder", "read_photos"]

ROOT = Path(__file__).resolve().parents[3]


@dataclass(frozen=True)
class Photo:
    """One photo: its file's name, its captions and its questions, as the files hold them."""

    name: str
    captions: tuple[str, ...]
    questions: tuple[dict[str, Any], ...]


def photo_folder() -> Path:
    """Return the folder of the photos.

    Raises
    ------
    LofiError
        If there is none.
    """
    folder = Path(os.environ.get("LOFI_PHOTOS", ROOT / "data" / "photos"))
    if not (folder / "photos.jsonl").exists():
        raise LofiError(
            f"photo_folder: no photos.jsonl in {folder}; expected the folder that "
            "book/photo_vlm.md describes: set LOFI_PHOTOS to it"
        )
    return folder


@cache
def read_photos(split: str) -> tuple[Photo, ...]:
    """Photos of a split ("train", "validation" or "test") in order of their names."""
    folder = photo_folder()
    captions: dict[str, list[str]] = defaultdict(list)
    questions: dict[str, list[dict[str, Any]]] = defaultdict(list)
    for row in _lines(folder / "captions.jsonl"):
        captions[row["image"]].append(row["caption"])
    for row in _lines(folder / "questions.jsonl"):
        questions[row["image"]].append(row)
    names = sorted(r["image"] for r in _lines(folder / "photos.jsonl") if r["split"] == split)
    return tuple(Photo(name, tuple(captions[name]), tuple(questions[name])) for name in names)


def open_photo(name: str) -> Image.Image:
    """Open a photo by its file's name."""
    return Image.open(photo_folder() / "images" / name).convert("RGB")


def _lines(path: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in path.read_text().splitlines()]
