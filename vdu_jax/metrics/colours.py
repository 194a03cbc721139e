"""Classify images by colour, from their pixels alone."""

import numpy as np


def nearest_colour(images: np.ndarray, palette: np.ndarray) -> np.ndarray:
    """Find the palette colour nearest to each image.

    The colour of an image is the direction of its summed pixels in RGB: bright pixels count most, a
    black background not at all. The nearest colour has the largest cosine with it.

    Args:
      images: (N, H, W, 3) uint8.
      palette: (K, 3) colours in [0, 255], none of them black.

    Returns:
      (N,) indices into the palette; −1 for a black image.

    Raises:
      ValueError: for images without three channels, or a black colour in the palette.
    """
    palette = np.asarray(palette, np.float64)
    if images.ndim != 4 or images.shape[-1] != 3:
        raise ValueError(f"images of the shape {images.shape}; the shape must be (N, H, W, 3)")
    if not palette.any(axis=1).all():
        raise ValueError("the palette has black, which has no direction in RGB; remove it")
    light = images.sum((1, 2), dtype=np.float64)
    directions = palette / np.linalg.norm(palette, axis=1, keepdims=True)
    nearest = (light @ directions.T).argmax(1)
    return np.where(light.any(axis=1), nearest, -1)
