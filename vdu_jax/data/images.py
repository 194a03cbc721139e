"""Decode image files to arrays, and encode arrays as PNG."""

import io
import itertools
import os
import struct
import warnings
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import TypeVar

import numpy as np
from PIL import Image, ImageOps, TiffImagePlugin

from vdu_jax.errors import UserError

BACKGROUNDS = ("white", "black")  # `data.background` may be one of these, or "" to refuse

Image.init()
# EPS is a program that Pillow would run; for the others it reads no more than the header.
_NOT_READ = {"BUFR", "EPS", "GRIB", "HDF5", "MPEG", "WMF"}
_FORMATS = tuple(sorted(set(Image.OPEN) - _NOT_READ))
# MPO is JPEG with further pictures.
SUFFIXES = frozenset(
    suffix
    for suffix, kind in Image.registered_extensions().items()
    if kind in _FORMATS or kind == "MPO"
)
# Types whose first frame is the picture; the other frames are views, layers or thumbnails.
_FIRST_IS_ALL = ("MPO", "PSD")
_OPAQUE_MODES = ("1", "L", "P", "RGB", "RGBX", "HSV", "YCbCr")
_ALPHA_MODES = ("LA", "La", "PA", "RGBA", "RGBa")
_SAMPLES = 277  # the TIFF tag of the number of channels
_PNG = b"\x89PNG\r\n\x1a\n"
_LOOK_FURTHER = 1000  # images that are checked after one that is refused

T = TypeVar("T")


def read_image(
    path: str | os.PathLike, image_size: int, channels: int = 3, background: str = ""
) -> np.ndarray:
    """Read an image file, cropped to the central square and resized (Lanczos).

    An image that already has the size keeps its pixels exactly.

    Args:
      path: the file.
      image_size: side of the result in pixels.
      channels: 1 (grayscale) or 3 (RGB).
      background: colour under transparent pixels, "white" or "black"; "" refuses such images.

    Returns:
      (image_size, image_size, channels) uint8 in [0, 255].

    Raises:
      UserError: if the file cannot be read, or see `decode_image`.
    """
    try:
        data = Path(path).read_bytes()
    except OSError as error:
        raise UserError(f"cannot read {path}: {error.strerror}; check the file") from error
    return decode_image(data, str(path), channels, image_size, background)


def decode_image(
    data: bytes, where: str, channels: int, image_size: int | None = None, background: str = ""
) -> np.ndarray:
    """Decode the bytes of an image file.

    Args:
      data: contents of the file.
      where: name of the image in errors.
      channels: 1 (grayscale) or 3 (RGB).
      image_size: side in pixels to which the image is cropped and resized, after rotation by its
        EXIF tag; None for neither.
      background: colour under transparent pixels, "white" or "black"; "" refuses such images.

    Returns:
      (H, W, channels) uint8 in [0, 255].

    Raises:
      UserError: if the bytes are damaged, or cannot become 8-bit RGB without a guess: transparent
        pixels, more than 8 bits in a channel, CMYK or LAB, several frames.
    """
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            warnings.simplefilter("error", Image.DecompressionBombWarning)
            image: Image.Image = Image.open(io.BytesIO(data), formats=_FORMATS)
            _check_frames(image, where)
            image.load()
            _check_mode(image, where)
            if image_size is not None:
                # Phones store the camera's rotation as a tag and leave the pixels unrotated.
                image = ImageOps.exif_transpose(image)
            image = _flatten(image, data, where, background)
            image = image.convert("L" if channels == 1 else "RGB")
    except UserError:
        raise
    except (Image.DecompressionBombError, Image.DecompressionBombWarning) as error:
        raise UserError(f"{where} is too large an image; make it smaller") from error
    except Exception as error:  # the exception for a damaged file depends on its type
        reason = str(error) or type(error).__name__
        if "BytesIO object" in reason:  # Pillow's message has an address in it
            reason = "its bytes are of no known image type"
        raise UserError(f"{where} is not a readable image ({reason}); replace or remove it") from (
            error
        )
    if image_size is not None and image.size != (image_size, image_size):
        image = ImageOps.fit(image, (image_size, image_size), Image.Resampling.LANCZOS)
    return np.asarray(image).reshape(image.size[1], image.size[0], channels).copy()


def _check_frames(image: Image.Image, where: str) -> None:
    frames = 1 if image.format in _FIRST_IS_ALL else getattr(image, "n_frames", 1)
    if frames > 1:
        raise UserError(
            f"{where} holds {frames} frames (an animation or several pages); save the one to be "
            "used as a file of its own"
        )


def _check_mode(image: Image.Image, where: str) -> None:
    # Pillow's conversion from 16 bits clips at 255 instead of rescaling.
    if image.mode[0] in "IF":
        raise UserError(f"{where} has more than 8 bits per channel; convert it to 8 bits")
    if image.mode not in _OPAQUE_MODES + _ALPHA_MODES:
        raise UserError(f"{where} has the colour mode {image.mode}; convert it to RGB")
    tags = image.tag_v2 if isinstance(image, TiffImagePlugin.TiffImageFile) else {}
    if tags.get(_SAMPLES, 1) > len(image.getbands()):
        raise UserError(
            f"{where} has a channel beside {image.mode} that may or may not be transparency; save "
            "it as RGB or as RGBA"
        )


def _flatten(image: Image.Image, data: bytes, where: str, background: str) -> Image.Image:
    """Put an image with transparent pixels on the background; other images stay as they are."""
    palette = image.palette.mode if image.mode == "P" and image.palette else ""
    fourth = _fourth_channel(image, data)
    if fourth is not None and (fourth.min(), fourth.max()) not in ((0, 0), (255, 255)):
        rgba = image.convert("RGB")
        rgba.putalpha(Image.fromarray(fourth))
    elif image.mode in _ALPHA_MODES or palette.endswith("A"):
        rgba = image.convert("LA") if image.mode == "La" else image
        rgba = rgba.convert("RGBA")
    elif "transparency" not in image.info:
        return image
    elif image.mode == "P":
        rgba = image.convert("RGBA")
    else:
        alpha = _key_alpha(image, data, where)
        image.info.pop("transparency")  # Pillow would apply it again while it converts
        rgba = image.convert("RGB")
        rgba.putalpha(Image.fromarray(alpha))
    if rgba.getchannel("A").getextrema()[0] == 255:
        return rgba.convert("RGB")
    if not background:
        raise UserError(
            f"{where} has transparent pixels; set data.background to 'white' or 'black', the "
            "colour to put under them, or save it without transparency"
        )
    under = Image.new("RGBA", rgba.size, background)
    return Image.alpha_composite(under, rgba).convert("RGB")


def _fourth_channel(image: Image.Image, data: bytes) -> np.ndarray | None:
    """(H, W) uint8, the fourth channel of a type in which it may be alpha or unused, or None."""
    if image.mode == "RGBX":
        return np.asarray(image)[..., 3].copy()
    if image.mode == "RGB" and data.startswith(b"BM"):
        start, _, _, height, _, bits, compression = struct.unpack_from("<IIiiHHI", data, 10)
        if bits == 32 and compression == 0:
            width, rows = image.size
            pixels = np.frombuffer(data, np.uint8, 4 * width * rows, start)
            fourth = pixels.reshape(rows, width, 4)[..., 3]
            return (fourth if height < 0 else fourth[::-1]).copy()
    return None


def _key_alpha(image: Image.Image, data: bytes, where: str) -> np.ndarray:
    """(H, W) uint8: 0 where a pixel has the colour that the header declares transparent."""
    key = np.asarray(image.info["transparency"], np.int64)
    if data.startswith(_PNG):
        # Pillow scales the pixels to 8 bits, but not the key.
        depth = data[24]
        if depth == 16:
            key = key >> 8
        elif image.mode != "RGB":
            key = key * 255 // (2**depth - 1)
    pixels = np.asarray(image.convert("RGB" if image.mode == "RGB" else "L"))
    same = (pixels == key).reshape(*pixels.shape[:2], -1).all(-1)
    if same.any() and data.startswith(_PNG) and data[24] == 16:
        raise UserError(
            f"{where} has 16 bits per channel and a transparent colour; convert it to 8 bits"
        )
    return np.where(same, 0, 255).astype(np.uint8)


def read_all(items: Iterable[T], read: Callable[[T], np.ndarray]) -> Iterator[np.ndarray]:
    """Yield `read(item)` for each item.

    Args:
      items: arguments of `read`, e.g. paths.
      read: returns an image, or raises a UserError.

    Raises:
      UserError: for the first item that is refused. The error counts the refused ones among the
        next 1000 items, so that the user can correct them together.
    """
    items = iter(items)
    for item in items:
        try:
            image = read(item)
        except UserError as error:
            looked, refused = 0, 0
            for other in itertools.islice(items, _LOOK_FURTHER):
                looked += 1
                try:
                    read(other)
                except UserError:
                    refused += 1
            more = f" (of the {looked} images after it {refused} are refused, too)"
            raise UserError(f"{error}{more if refused else ''}") from error
        yield image


def encode_png(image: np.ndarray) -> io.BytesIO:
    """Encode an image as PNG.

    Args:
      image: (H, W, 1) or (H, W, 3) uint8 in [0, 255].

    Returns:
      A file object at its start. TFDS stores its bytes unchanged; to store an array it would need
      TensorFlow.

    Raises:
      ValueError: for another shape or type.
    """
    if image.dtype != np.uint8 or image.ndim != 3 or image.shape[-1] not in (1, 3):
        raise ValueError(f"expected (H, W, 1 or 3) uint8, got {image.shape} {image.dtype}")
    out = io.BytesIO()
    pixels = image[..., 0] if image.shape[-1] == 1 else image
    Image.fromarray(np.ascontiguousarray(pixels)).save(out, "PNG")
    out.seek(0)
    return out
