"""Single images: from file bytes to arrays, and to PNG."""

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
# PostScript is a program to be run, and of the others Pillow knows the header alone.
_NOT_READ = {"BUFR", "EPS", "GRIB", "HDF5", "MPEG", "WMF"}
_FORMATS = tuple(sorted(set(Image.OPEN) - _NOT_READ))
# Suffixes, in lower case, of the image types that are read. MPO is JPEG with further pictures.
SUFFIXES = frozenset(
    suffix
    for suffix, kind in Image.registered_extensions().items()
    if kind in _FORMATS or kind == "MPO"
)
# Types whose first frame is the picture, and the others are its views, layers or thumbnails.
_FIRST_IS_ALL = ("MPO", "PSD")
_OPAQUE_MODES = ("1", "L", "P", "RGB", "RGBX", "HSV", "YCbCr")
_ALPHA_MODES = ("LA", "La", "PA", "RGBA", "RGBa")
_SAMPLES = 277  # the TIFF tag of the number of channels
_PNG = b"\x89PNG\r\n\x1a\n"
_LOOK_FURTHER = 1000  # files that are looked at after one that is refused

T = TypeVar("T")


def read_image(
    path: str | os.PathLike, image_size: int, channels: int = 3, background: str = ""
) -> np.ndarray:
    """Reads one image file as (image_size, image_size, channels) uint8.

    An image of another size is cropped to the central square and resized (Lanczos); one that
    already has the size is kept to the bit.

    Args:
      background: see `decode_image`.
    """
    try:
        data = Path(path).read_bytes()
    except OSError as error:
        raise UserError(f"cannot read {path}: {error.strerror}; check the file") from error
    return decode_image(data, str(path), channels, image_size, background)


def decode_image(
    data: bytes, where: str, channels: int, image_size: int | None = None, background: str = ""
) -> np.ndarray:
    """Decodes image bytes to (H, W, channels) uint8; `where` names them in an error.

    Args:
      image_size: turn the image as its EXIF tag says, crop it and resize it; None for neither.
      background: "white" or "black": what transparent pixels are put on. "" refuses them.

    Raises:
      UserError: the bytes are damaged, or hold what cannot become 8-bit RGB without a guess:
        transparent pixels, more than 8 bits in a grey channel, CMYK or LAB, several frames.
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
                # A phone stores the turn of the camera as a tag beside the pixels.
                image = ImageOps.exif_transpose(image)
            image = _flatten(image, data, where, background)
            image = image.convert("L" if channels == 1 else "RGB")
    except UserError:
        raise
    except (Image.DecompressionBombError, Image.DecompressionBombWarning) as error:
        raise UserError(f"{where} is too large an image; make it smaller") from error
    except Exception as error:  # what a damaged file raises depends on its type
        reason = str(error) or type(error).__name__
        if "BytesIO object" in reason:  # Pillow's words, with an address
            reason = "the image type cannot be told from its bytes"
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
            f"{where} holds {frames} frames (an animation or several pages); save the one that "
            "is meant as a file of its own"
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
            f"{where} has a channel beside {image.mode}, and does not say whether it is "
            "transparency; save it as RGB, or as RGBA"
        )


def _flatten(image: Image.Image, data: bytes, where: str, background: str) -> Image.Image:
    """The image on its background; an opaque one as it is, whatever its mode."""
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
        image.info.pop("transparency")  # or Pillow looks for it as it converts
        rgba = image.convert("RGB")
        rgba.putalpha(Image.fromarray(alpha))
    if rgba.getchannel("A").getextrema()[0] == 255:
        return rgba.convert("RGB")
    if not background:
        raise UserError(
            f"{where} has transparent pixels; set data.background to 'white' or 'black', what "
            "they are to be put on, or save it without transparency"
        )
    under = Image.new("RGBA", rgba.size, background)
    return Image.alpha_composite(under, rgba).convert("RGB")


def _fourth_channel(image: Image.Image, data: bytes) -> np.ndarray | None:
    """(H, W) uint8 of a channel that may be alpha or nothing, for its type does not say which."""
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
    """(H, W) uint8, 0 where the pixel has the one colour that a header declares transparent."""
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
    """Yields `read(item)` of each item.

    Raises:
      UserError: of the first item that is refused. The items after it are read, too, and the
        error says how many of them are refused: they can be mended together.
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
