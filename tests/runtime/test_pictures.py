import numpy as np
from PIL import Image

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


def test_pictures_beside_each_other_are_wrapped():
    parts = [Image.new("L", (10, 20), value) for value in (10, 20, 30, 40, 50)]
    whole = np.asarray(pictures.side_by_side(parts, columns=2, gap=3))
    assert whole.shape == (3 * 20 + 2 * 3, 2 * 10 + 3)
    assert (whole[:20, 13:] == 20).all() and (whole[46:, :10] == 50).all()
    assert (whole[20:23] == 255).all() and (whole[46:, 13:] == 255).all()
    assert pictures.side_by_side(parts[:1]).size == (10, 20)
