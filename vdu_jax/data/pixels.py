"""Conversion of pixels between uint8 in [0, 255] and the networks' float32 in [-1, 1]."""

import numpy as np
import numpy.typing as npt


def to_model_range(images: npt.ArrayLike) -> np.ndarray:
    """Convert pixels from [0, 255] to [-1, 1]: x / 127.5 − 1.

    Args:
      images: uint8 in [0, 255], of any shape.

    Returns:
      float32 in [-1, 1], of the same shape.
    """
    out = np.asarray(images).astype(np.float32)
    out /= 127.5
    out -= 1.0
    return out


def to_uint8(images: npt.ArrayLike) -> np.ndarray:
    """Convert pixels from [-1, 1] to [0, 255], clipped and rounded.

    It inverts `to_model_range` exactly.

    Args:
      images: floats, of any shape; values outside [-1, 1] are clipped.

    Returns:
      uint8 in [0, 255], of the same shape.
    """
    scaled = (np.asarray(images, np.float32) + 1.0) * 127.5
    return np.rint(np.clip(scaled, 0.0, 255.0)).astype(np.uint8)
