"""Drawing scenes: textured background, clutter, objects, pixel noise.

Only integer draws of the generator and Pillow's integer rasteriser are used, so that a scene has
the same pixels on every machine.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cache

import numpy as np
from numpy.random import Generator
from PIL import Image, ImageDraw

from lofi_core.errors import extra

IMAGE_SIZE = 144
COLORS = {
    "red": (214, 48, 49),
    "green": (38, 166, 91),
    "blue": (45, 98, 214),
    "yellow": (240, 200, 40),
    "purple": (150, 70, 190),
    "white": (240, 240, 240),
}
SHAPES = ("circle", "square", "triangle", "diamond", "cross")
SIZES = {"small": 9, "large": 15}
SPLITS = {"train": 65_536, "validation": 2_048, "test": 2_048}


@dataclass(frozen=True)
class SceneObject:
    """One object: what it is, and where its centre lies (pixels, origin at the top left)."""

    shape: str
    color: str
    size: str
    x: int
    y: int
    digit: int | None = None

    @property
    def radius(self) -> int:
        """Half the width of the object's bounding box, in pixels."""
        return SIZES[self.size]

    @property
    def phrase(self) -> str:
        """The exact description, for example ``"small red circle"`` or ``"large blue digit 7"``."""
        value = "" if self.digit is None else f" {self.digit}"
        return f"{self.size} {self.color} {self.shape}{value}"


@cache
def handwritten_digits(split: str) -> tuple[np.ndarray, ...]:
    """Scikit-learn's 8 x 8 handwritten digits of one split: ten uint8 arrays (n, 8, 8), by class.

    Three fifths of the 1,797 scans belong to train, a fifth each to validation and test.
    """
    with extra("scenes"):
        from sklearn.datasets import load_digits

    data = load_digits()
    part = np.array([0, 0, 0, 1, 2])[np.arange(len(data.target)) % 5]
    mine = part == list(SPLITS).index(split)
    scans = np.round(data.images / 16 * 255).astype(np.uint8)
    return tuple(scans[mine & (data.target == c)] for c in range(10))


def draw_scene(objects: Sequence[SceneObject], rng: Generator, split: str) -> Image.Image:
    """Draw background, clutter, objects and noise on an ``IMAGE_SIZE`` square RGB image."""
    base = rng.integers(50, 110, 3)
    coarse = np.clip(base + rng.integers(-30, 31, (7, 7, 1)), 0, 255).astype(np.uint8)
    image = Image.fromarray(coarse).resize((IMAGE_SIZE, IMAGE_SIZE), Image.Resampling.BICUBIC)
    draw = ImageDraw.Draw(image)
    for _ in range(int(rng.integers(3, 9))):
        x, y = rng.integers(0, IMAGE_SIZE, 2).tolist()
        dx, dy = rng.integers(-18, 19, 2).tolist()
        draw.line((x, y, x + dx, y + dy), tuple(rng.integers(40, 200, 3).tolist()), 1)
    for o in objects:
        color = np.clip(np.array(COLORS[o.color]) + rng.integers(-18, 19, 3), 0, 255)
        image.paste(tuple(color.tolist()), (o.x - o.radius, o.y - o.radius), _mask(o, rng, split))
    noise = rng.integers(-22, 23, (IMAGE_SIZE, IMAGE_SIZE, 3))
    return Image.fromarray(np.clip(np.asarray(image) + noise, 0, 255).astype(np.uint8))


def _mask(o: SceneObject, rng: Generator, split: str) -> Image.Image:
    """Return the object's coverage (mode L, 2r x 2r), drawn four times larger and reduced."""
    side = 2 * o.radius
    if o.digit is not None:
        scans = handwritten_digits(split)[o.digit]
        scan = scans[rng.integers(len(scans))]
        return Image.fromarray(scan).resize((side, side), Image.Resampling.BICUBIC)
    n = 4 * side - 1
    mask = Image.new("L", (n + 1, n + 1))
    draw, h, t = ImageDraw.Draw(mask), n // 2, n // 3
    if o.shape == "circle":
        draw.ellipse((0, 0, n, n), 255)
    elif o.shape == "square":
        draw.rectangle((n // 16, n // 16, n - n // 16, n - n // 16), 255)
    elif o.shape == "triangle":
        draw.polygon([(h, 0), (n, n), (0, n)], 255)
    elif o.shape == "diamond":
        draw.polygon([(h, 0), (n, h), (h, n), (0, h)], 255)
    else:
        draw.rectangle((t, 0, n - t, n), 255)
        draw.rectangle((0, t, n, n - t), 255)
    return mask.reduce(4)
