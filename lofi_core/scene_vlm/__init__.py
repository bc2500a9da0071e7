"""SceneVLM, the small LLaVA that ships with the package, and how it was trained.

``PATH`` is a standard Hugging Face folder: ``AutoModelForImageTextToText.from_pretrained(PATH)``
and ``AutoProcessor.from_pretrained(PATH)`` load it, and so does `load`; ``CLIP_PATH`` holds the
CLIP, text tower included, that its vision tower comes from.
"""

from pathlib import Path
from typing import Any

__all__ = ["CLIP_PATH", "PATH", "load"]

PATH = Path(__file__).parent / "model"
CLIP_PATH = PATH / "clip"


def load() -> tuple[Any, Any]:
    """Load the shipped model, in evaluation mode on the CPU, and its processor.

    Examples
    --------
    >>> model, processor = load()
    >>> type(model).__name__, type(processor).__name__
    ('LlavaForConditionalGeneration', 'LlavaProcessor')
    """
    from transformers import AutoModelForImageTextToText, AutoProcessor

    model = AutoModelForImageTextToText.from_pretrained(PATH).eval()
    return model, AutoProcessor.from_pretrained(PATH)
