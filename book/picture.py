"""Write the picture of the README, `book/static/flip.png`, from chapter 1 as it was last built.

python -m book.picture
"""

import base64
import sys
from pathlib import Path

import nbformat

ROOT = Path(__file__).resolve().parents[1]
SOURCE = ROOT / "_build" / "stage" / "notebooks" / "01-what-a-vlm-sees.ipynb"
TARGET = ROOT / "book" / "static" / "flip.png"
FIGURE = "fig-flip"


def main() -> int:
    """Find the figure among the outputs of the built chapter and save it."""
    if not SOURCE.exists():
        print(f"{SOURCE} is missing: run 'make book' first", file=sys.stderr)
        return 1
    for cell in nbformat.read(SOURCE, as_version=4).cells:
        named = cell.metadata.get("mystnb", {}).get("figure", {}).get("name")
        for output in cell.get("outputs", []):
            if named == FIGURE and "image/png" in output.get("data", {}):
                TARGET.write_bytes(base64.b64decode(output["data"]["image/png"]))
                print(TARGET)
                return 0
    print(f"{SOURCE} has no figure named {FIGURE}", file=sys.stderr)
    return 1


if __name__ == "__main__":
    sys.exit(main())
