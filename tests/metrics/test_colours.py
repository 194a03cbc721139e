import numpy as np
import pytest

from vdu_jax.metrics.colours import nearest_colour

PALETTE = [(255, 0, 0), (0, 0, 255), (255, 255, 255)]


def image(*pixels):
    shown = np.zeros((3, 3, 3), np.uint8)
    for place, pixel in enumerate(pixels):
        shown[0, place] = pixel
    return shown


def test_bright_pixels_count_and_the_background_does_not():
    images = np.stack(
        [
            image((200, 10, 10)),
            image((9, 9, 80)),
            image((90, 99, 95)),
            image((250, 0, 0), (0, 0, 90)),  # a small blue spot on something red
            image(),
        ]
    )
    np.testing.assert_array_equal(nearest_colour(images, PALETTE), [0, 1, 2, 0, -1])
    dim = (images // 3).astype(np.uint8)
    np.testing.assert_array_equal(nearest_colour(dim, PALETTE), [0, 1, 2, 0, -1])


def test_what_has_no_colour_is_refused():
    with pytest.raises(ValueError, match="must be .N, H, W, 3."):
        nearest_colour(np.zeros((2, 3, 3, 1), np.uint8), PALETTE)
    with pytest.raises(ValueError, match="black"):
        nearest_colour(np.zeros((2, 3, 3, 3), np.uint8), [(0, 0, 0), (1, 1, 1)])
