"""Between pixels as they are stored and as the networks see them."""

import numpy as np
import numpy.typing as npt


def to_model_range(images: npt.ArrayLike) -> np.ndarray:
    """uint8 [0, 255] to float32 [-1, 1]: x / 127.5 - 1, any shape."""
    out = np.asarray(images).astype(np.float32)
    out /= 127.5
    out -= 1.0
    return out


def to_uint8(images: npt.ArrayLike) -> np.ndarray:
    """float [-1, 1] to uint8 [0, 255], clipped and rounded; inverts `to_model_range` exactly."""
    scaled = (np.asarray(images, np.float32) + 1.0) * 127.5
    return np.rint(np.clip(scaled, 0.0, 255.0)).astype(np.uint8)
