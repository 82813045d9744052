"""A made folder of own images: letters in Pillow's own font, at random sizes."""

from __future__ import annotations

import random
from collections.abc import Sequence
from pathlib import Path

from PIL import Image, ImageDraw, ImageFont

LETTERS = "ABCDEFGHKX"


def glyph(letter: str, rng: random.Random, mode: str = "L") -> Image.Image:
    """A white letter on black, somewhere in an image of 20 to 40 pixels a side."""
    width, height = rng.randint(20, 40), rng.randint(20, 40)
    image = Image.new("L", (width, height))
    font = ImageFont.load_default(rng.randint(14, 20))
    at = (rng.uniform(1, width - 18), rng.uniform(-3, height - 20))
    ImageDraw.Draw(image).text(at, letter, fill=rng.randint(150, 255), font=font)
    return image.convert(mode)


def write_glyphs(
    root: Path, count: int = 12, *, letters: Sequence[str] = LETTERS, seed: int = 0, first: int = 0, suffix: str = "png"
) -> Path:
    """Write `count` images of each letter as ROOT/LETTER/NUMBER.png, and return the root."""
    rng = random.Random(seed)
    for letter in letters:
        (root / letter).mkdir(parents=True, exist_ok=True)
        for number in range(first, first + count):
            glyph(letter, rng).save(root / letter / f"{number:03}.{suffix}")
    return root


def write_splits(root: Path, *, letters: Sequence[str] = LETTERS[:3], **counts: int) -> Path:
    """Write folders of splits, such as train=6, test=2, with images of each letter."""
    for seed, (name, count) in enumerate(counts.items()):
        write_glyphs(root / name, count, letters=letters, seed=seed)
    return root
