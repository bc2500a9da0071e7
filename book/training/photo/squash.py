"""Make the 224-pixel photos from originals: ``python -m book.training.photo.squash ORIGINALS``.

``ORIGINALS`` holds COCO's files under their official names: ``COCO_val2014_000000000042.jpg``
or ``000000000042.jpg``. Photos are squashed, not cropped, as those of this project were; the
resampling filter of the latter is not known, so files agree in content, not byte by byte.
"""

import argparse
import json
import re
from pathlib import Path

from PIL import Image

from book.training.photo.photos import photo_folder
from lofi_core.errors import LofiError

__all__ = ["squash"]

SIDE, QUALITY = 224, 75
NUMBER = re.compile(r"(?:COCO_\w+?_)?(\d{12})\.jpg")


def squash(originals: Path, folder: Path) -> int:
    """Write ``folder/images/coco-<id>.jpg`` for each listed photo found; return how many.

    Raises
    ------
    LofiError
        If ``originals`` holds none of the photos that ``folder/photos.jsonl`` lists.
    """
    rows = [json.loads(line) for line in (folder / "photos.jsonl").read_text().splitlines()]
    # Files whose short side was cropped to the middle are listed as such.
    listed = {row["image"]: row.get("resize") == "crop" for row in rows}
    (folder / "images").mkdir(exist_ok=True)
    made = 0
    for path in sorted(originals.rglob("*.jpg")):
        found = NUMBER.fullmatch(path.name)
        if not found or (name := f"coco-{found[1]}.jpg") not in listed:
            continue
        with Image.open(path) as original:
            photo = original.convert("RGB")
        if listed[name]:
            short = min(photo.size)
            left, top = ((side - short) // 2 for side in photo.size)
            photo = photo.crop((left, top, left + short, top + short))
        photo = photo.resize((SIDE, SIDE), Image.Resampling.BICUBIC)
        photo.save(folder / "images" / name, quality=QUALITY)
        made += 1
    if not made:
        raise LofiError(
            f"squash: none of {len(listed)} listed photos in {originals}; expected files named as "
            "COCO names them: unpack the official archive there"
        )
    return made


def main(argv: list[str] | None = None) -> None:
    """Run the command line."""
    parser = argparse.ArgumentParser("book.training.photo.squash", description=__doc__)
    parser.formatter_class = argparse.RawDescriptionHelpFormatter
    parser.add_argument("originals", type=Path)
    print(squash(parser.parse_args(argv).originals, photo_folder()), "photos")


if __name__ == "__main__":
    main()
