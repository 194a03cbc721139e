import numpy as np

from vdu_jax.runtime import pictures


def test_grid_holds_every_pixel_in_its_place():
    images = np.arange(3 * 32 * 32, dtype=np.uint8).reshape(3, 32, 32, 1)
    canvas = np.asarray(pictures.grid(images, columns=2, pad=1))
    assert canvas.shape == (2 * 33 + 1, 2 * 33 + 1)
    np.testing.assert_array_equal(canvas[1:33, 34:66], images[1, ..., 0])
    np.testing.assert_array_equal(canvas[34:66, 1:33], images[2, ..., 0])


def test_small_images_are_enlarged():
    picture = pictures.grid(np.zeros((1, 8, 8, 3), np.uint8), columns=1)
    assert picture.mode == "RGB" and min(picture.size) >= 32
