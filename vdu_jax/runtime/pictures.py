"""Grids of images as PNG files."""

import io
from pathlib import Path

import numpy as np
from PIL import Image

from vdu_jax.runtime import artifacts


def grid(images: np.ndarray, columns: int = 10, pad: int = 1, min_side: int = 32) -> Image.Image:
    """uint8 images (N, H, W, C) as one picture; small ones are enlarged by whole factors."""
    count, height, width, channels = images.shape
    factor = max(1, -(-min_side // height))
    images = images.repeat(factor, 1).repeat(factor, 2)
    height, width, pad = height * factor, width * factor, pad * max(1, factor // 2)
    rows = -(-count // columns)
    canvas = np.full(
        (rows * (height + pad) + pad, columns * (width + pad) + pad, channels), 96, np.uint8
    )
    for i, image in enumerate(images):
        top = pad + (i // columns) * (height + pad)
        left = pad + (i % columns) * (width + pad)
        canvas[top : top + height, left : left + width] = image
    return Image.fromarray(canvas[..., 0] if channels == 1 else canvas)


def side_by_side(pictures: list[Image.Image], columns: int = 4, gap: int = 24) -> Image.Image:
    """Pictures of one size beside each other on white, `columns` in a row."""
    width, height = pictures[0].width + gap, pictures[0].height + gap
    columns = min(columns, len(pictures))
    rows = -(-len(pictures) // columns)
    whole = Image.new(pictures[0].mode, (columns * width - gap, rows * height - gap), "white")
    for i, picture in enumerate(pictures):
        whole.paste(picture, (i % columns * width, i // columns * height))
    return whole


def png_bytes(picture: Image.Image) -> bytes:
    buffer = io.BytesIO()
    picture.save(buffer, format="PNG", optimize=True)
    return buffer.getvalue()


def save(path: Path, picture: Image.Image) -> None:
    artifacts.write_bytes(path, png_bytes(picture))
