"""Single images: from file bytes to arrays, and to PNG."""

import io
import os
import warnings
import zlib
from pathlib import Path

import numpy as np
from PIL import Image, ImageOps, UnidentifiedImageError

from vdu_jax.errors import UserError


def read_image(path: str | os.PathLike, image_size: int, channels: int = 3) -> np.ndarray:
    """Reads one image file as (image_size, image_size, channels) uint8.

    An image of another size is cropped to the central square and resized (Lanczos); one that
    already has the size is kept to the bit.
    """
    try:
        data = Path(path).read_bytes()
    except OSError as error:
        raise UserError(f"cannot read {path}: {error.strerror}; check the file") from error
    return decode_image(data, str(path), channels, image_size)


def decode_image(
    data: bytes, where: str, channels: int, image_size: int | None = None
) -> np.ndarray:
    """Decodes image bytes to (H, W, channels) uint8; `where` names them in an error."""
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("error", Image.DecompressionBombWarning)
            image = Image.open(io.BytesIO(data))
            image.load()
    except (UnidentifiedImageError, OSError, SyntaxError, ValueError, zlib.error) as error:
        raise UserError(
            f"{where} is not a readable image ({error}); replace or remove it"
        ) from error
    except (Image.DecompressionBombError, Image.DecompressionBombWarning) as error:
        raise UserError(f"{where} is too large an image; make it smaller") from error
    # Pillow's conversion from 16 bits clips at 255 instead of rescaling.
    if image.mode[0] in "IF":
        raise UserError(f"{where} has more than 8 bits per channel; convert it to 8 bits")
    if image_size is not None:
        # A phone stores the turn of the camera as a tag beside the pixels.
        image = ImageOps.exif_transpose(image)
    image = image.convert("L" if channels == 1 else "RGB")
    if image_size is not None and image.size != (image_size, image_size):
        image = ImageOps.fit(image, (image_size, image_size), Image.Resampling.LANCZOS)
    return np.asarray(image).reshape(image.size[1], image.size[0], channels).copy()


def encode_png(image: np.ndarray) -> io.BytesIO:
    """PNG of a (H, W, 1) or (H, W, 3) uint8 array, as a file object at its start.

    TFDS stores a file object's bytes as they are; given an array it would need TensorFlow.
    """
    if image.dtype != np.uint8 or image.ndim != 3 or image.shape[-1] not in (1, 3):
        raise ValueError(f"expected (H, W, 1 or 3) uint8, got {image.shape} {image.dtype}")
    out = io.BytesIO()
    pixels = image[..., 0] if image.shape[-1] == 1 else image
    Image.fromarray(np.ascontiguousarray(pixels)).save(out, "PNG")
    out.seek(0)
    return out
