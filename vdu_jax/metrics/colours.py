"""Which of a few named colours an image has, by its pixels alone."""

import numpy as np


def nearest_colour(images: np.ndarray, palette: np.ndarray) -> np.ndarray:
    """(N,) places in the palette, or −1 for an image without light.

    An image's colour is the direction of its summed pixels in RGB, so that bright pixels count most
    and a black background not at all; the nearest colour is the one with the largest cosine to it.

    Args:
      images: (N, H, W, 3) uint8. palette: (K, 3) in [0, 255], none of them black.

    Raises:
      ValueError: for images without three channels, or a black colour.
    """
    palette = np.asarray(palette, np.float64)
    if images.ndim != 4 or images.shape[-1] != 3:
        raise ValueError(f"images (N, H, W, 3) are needed, not {images.shape}")
    if not palette.any(axis=1).all():
        raise ValueError("black is no direction in RGB")
    light = images.sum((1, 2), dtype=np.float64)
    directions = palette / np.linalg.norm(palette, axis=1, keepdims=True)
    nearest = (light @ directions.T).argmax(1)
    return np.where(light.any(axis=1), nearest, -1)
