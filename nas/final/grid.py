"""A picture of predictions: the images as the network saw them, each above its class and probability."""

from __future__ import annotations

import io
import math
from collections.abc import Sequence
from pathlib import Path

import numpy as np
from PIL import Image, ImageDraw, ImageFont

from nas.files import write_atomic
from nas.final.pictures import Pixels
from nas.final.predict import Prediction

GRID_IMAGES = 400
"""Most images of a grid; the first ones are shown."""

_SIDE = 84  # pixels of a tile, at least
_TEXT = 30  # pixels below it
_GAP = 6


def write_grid(path: Path, predictions: Sequence[Prediction], pixels: Sequence[Pixels]) -> int:
    """Write a PNG with the first `GRID_IMAGES` images and their predictions; return how many it shows.

    Raises `StorageError` if it cannot be written.
    """
    shown = list(zip(predictions, pixels, strict=True))[:GRID_IMAGES]
    columns = max(1, math.ceil(math.sqrt(len(shown))))
    height, width = pixels[0].shape[1:] if shown else (1, 1)
    factor = max(1, round(_SIDE / max(height, width)))
    wide, high = max(_SIDE, width * factor) + _GAP, height * factor + _TEXT + _GAP
    sheet = Image.new("RGB", (columns * wide + _GAP, max(1, math.ceil(len(shown) / columns)) * high + _GAP), "white")
    draw, font = ImageDraw.Draw(sheet), ImageFont.load_default(12)
    for index, (prediction, image) in enumerate(shown):
        left, top = _GAP + index % columns * wide, _GAP + index // columns * high
        tile = Image.fromarray(np.ascontiguousarray(image.transpose(1, 2, 0)).squeeze())
        sheet.paste(tile.resize((width * factor, height * factor), Image.Resampling.NEAREST), (left, top))
        text = f"{prediction.label} {100 * prediction.probability:.1f} %\n({prediction.runner_up})"
        draw.multiline_text((left, top + height * factor + 1), text, fill="black", font=font, spacing=1)
    content = io.BytesIO()
    sheet.save(content, "PNG")
    write_atomic(path, content.getvalue())
    return len(shown)
