"""Grids of images as PNG files."""

import io
from collections.abc import Mapping
from pathlib import Path

import numpy as np
from PIL import Image, ImageDraw, ImageFont

from vdu_jax.runtime import artifacts

MIN_SIDE = 32
LARGEST = 128  # pixels a side in comparisons; larger images are shrunk
FONT_SIZE = 15


def grid(
    images: np.ndarray, columns: int = 10, pad: int = 1, min_side: int = MIN_SIDE
) -> Image.Image:
    """uint8 images (N, H, W, C) as one picture; small ones are enlarged by whole factors."""
    count, height, width, channels = images.shape
    factor = _factor(height, min_side)
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


def _factor(side: int, min_side: int = MIN_SIDE) -> int:
    """By how much a side is enlarged, to be at least `min_side`."""
    return max(1, -(-min_side // side))


def across(side: int) -> int:
    """How many images of so many pixels a side `compared` has in a row, 20, 10 or 5.

    With its models' names a row is about as wide as a GitHub page, 830 pixels, and images of ten
    classes in turn have a column for each class.
    """
    shown = min(_factor(side) * side, LARGEST)
    return next((columns for columns in (20, 10) if columns * shown <= 720), 5)


def compared(images: np.ndarray, lines: int) -> Image.Image:
    """The first images of (N, H, W, C) uint8, in at most `lines` rows of at most `across`."""
    columns = across(max(images.shape[1:3]))
    shown = images[: columns * lines]
    rows = -(-len(shown) // columns)
    return grid(_shrunk(shown), -(-len(shown) // rows))


def labelled(models: Mapping[str, np.ndarray], lines: int = 2) -> Image.Image:
    """A block of images for each model, one below another, with its name on the left.

    Args:
      models: name -> images (N, H, W, C) uint8, of one shape; the same place in each block has the
        same index.
      lines: rows of images in a block, at most.
    """
    blocks = {name: compared(images, lines) for name, images in models.items()}
    first = next(iter(blocks.values()))
    font = ImageFont.load_default(FONT_SIZE)
    left = 12 + max(round(font.getlength(name)) for name in blocks)
    height = first.height + FONT_SIZE // 2
    whole = Image.new(first.mode, (left + first.width, height * len(blocks)), "white")
    draw = ImageDraw.Draw(whole)
    for i, (name, block) in enumerate(blocks.items()):
        whole.paste(block, (left, i * height))
        place = (left - 8, i * height + first.height / 2)
        draw.text(place, name, fill="black", font=font, anchor="rm")
    return whole


def _shrunk(images: np.ndarray) -> np.ndarray:
    height, width = images.shape[1:3]
    if max(height, width) <= LARGEST:
        return images
    share = LARGEST / max(height, width)
    size = (round(share * width), round(share * height))
    shrunk = [
        np.asarray(Image.fromarray(image.squeeze()).resize(size, Image.Resampling.LANCZOS))
        for image in images
    ]
    return np.stack(shrunk).reshape(len(images), size[1], size[0], images.shape[-1])


def png_bytes(picture: Image.Image) -> bytes:
    buffer = io.BytesIO()
    picture.save(buffer, format="PNG", optimize=True)
    return buffer.getvalue()


def save(path: Path, picture: Image.Image) -> None:
    artifacts.write_bytes(path, png_bytes(picture))
