"""SceneVLM, the small LLaVA that ships with the package, and how it was trained.

``PATH`` is a standard Hugging Face folder: ``AutoModelForImageTextToText.from_pretrained(PATH)``
and ``AutoProcessor.from_pretrained(PATH)`` load it; ``CLIP_PATH`` holds the CLIP, text tower
included, that its vision tower comes from.
"""

from pathlib import Path

PATH = Path(__file__).parent / "model"
CLIP_PATH = PATH / "clip"
