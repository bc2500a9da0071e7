"""Ask PhotoVLM about a photo, pruned and not: ``python -m book.training.photo.ask``.

Without arguments the photo is scikit-image's cat, which its package ships. The picture that is
saved shows which patches LoFi kept.
"""

import argparse
from pathlib import Path
from typing import Any

import torch
from PIL import Image
from transformers import AutoModelForImageTextToText, AutoProcessor

from book.training.photo.assemble import assemble
from book.training.photo.parts import cache_folder
from lofi_core.errors import LofiError
from lofi_core.pruners import LoFi
from lofi_core.pruning import prune_inputs
from lofi_core.vlm.overlay import overlay, seen
from lofi_core.vlm.prompts import chat_inputs

__all__ = ["answer", "ask", "cat"]


def cat() -> Image.Image:
    """Return scikit-image's cat.

    Raises
    ------
    LofiError
        If scikit-image is not installed.
    """
    try:
        from skimage.data import chelsea
    except ImportError as error:
        raise LofiError(
            "cat: scikit-image is not installed; expected the package that ships the photo: "
            "`pip install scikit-image`, or pass --photo"
        ) from error
    return Image.fromarray(chelsea())


def answer(model: Any, processor: Any, inputs: Any) -> str:
    """Generate greedily; pruned inputs count their own prompt tokens."""
    with torch.inference_mode():
        out = model.generate(**inputs, max_new_tokens=30, do_sample=False)
    # Prompts that are passed as embeddings are not repeated in the output.
    start = inputs["input_ids"].shape[1] if "input_ids" in inputs else 0
    return processor.decode(out[0, start:], skip_special_tokens=True).strip()


def ask(photo: Image.Image, question: str, keep: float, out: Path) -> tuple[str, str]:
    """Answer with all visual tokens and with a share of them; draw the latter into ``out``."""
    folder = cache_folder() / "photo-vlm"
    if not (folder / "config.json").exists():
        assemble(folder)
    model = AutoModelForImageTextToText.from_pretrained(folder).eval()
    processor = AutoProcessor.from_pretrained(folder)
    inputs = chat_inputs(processor, [(photo, question)])
    pruned = prune_inputs(model, inputs, LoFi(keep=keep))
    figure = overlay(seen(processor, photo), pruned.report.images)
    figure.savefig(out, dpi=150, bbox_inches="tight")
    return answer(model, processor, inputs), answer(model, processor, pruned)


def main(argv: list[str] | None = None) -> int:
    """Run the command line."""
    parser = argparse.ArgumentParser("book.training.photo.ask", description=__doc__)
    parser.formatter_class = argparse.RawDescriptionHelpFormatter
    parser.add_argument("question", nargs="?", default="Is there a cat in the picture?")
    parser.add_argument("--photo", type=Path, help="a photo (default: scikit-image's cat)")
    parser.add_argument("--keep", type=float, default=0.25, help="share of the patches that stays")
    parser.add_argument("--out", type=Path, default=Path("kept.png"))
    options = parser.parse_args(argv)
    try:
        photo = Image.open(options.photo).convert("RGB") if options.photo else cat()
        full, short = ask(photo, options.question, options.keep, options.out)
    except LofiError as error:
        parser.exit(2, f"error: {error}\n")
    print(f"all patches:          {full}")
    print(f"{options.keep:.0%} kept by LoFi:     {short}")
    print(f"what was kept:        {options.out}")
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
