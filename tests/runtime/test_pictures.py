import numpy as np
import pytest

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


@pytest.mark.parametrize("side, columns", [(8, 20), (28, 10), (32, 20), (64, 10), (512, 5)])
def test_a_row_of_a_comparison_is_as_wide_as_a_page(side, columns):
    images = np.zeros((50, side, side, 1), np.uint8)
    picture = pictures.compared(images, lines=2)
    assert pictures.across(side) == columns
    assert 560 <= picture.width <= 720
    assert picture.height == pytest.approx(2 * picture.width / columns, abs=4)


def test_a_last_row_of_a_comparison_is_not_left_almost_empty():
    picture = pictures.compared(np.zeros((21, 32, 32, 1), np.uint8), lines=3)
    assert picture.size == (11 * 33 + 1, 2 * 33 + 1)


def test_every_block_of_a_comparison_has_its_models_name_on_the_left():
    models = {
        name: np.full((4, 8, 8, 3), value, np.uint8)
        for name, value in {"original": 10, "a_longer_name": 200}.items()
    }
    picture = np.asarray(pictures.labelled(models)).astype(int)
    block = np.asarray(pictures.compared(models["original"], 2))
    height, width = block.shape[:2]
    left = picture.shape[1] - width
    np.testing.assert_array_equal(picture[:height, left:], block)
    below = picture[-height - 7 : -7, left:]
    np.testing.assert_array_equal(below, pictures.compared(models["a_longer_name"], 2))
    # The names are black on white, end at the pictures, and the longer one takes more room.
    names = [picture[:height, :left], picture[-height - 7 : -7, :left]]
    ink = [np.flatnonzero((name < 128).any((0, 2))) for name in names]
    assert all(left - 12 <= columns.max() < left for columns in ink)
    assert ink[1].min() < ink[0].min() and np.median(picture[:, :left]) == 255


def test_large_images_of_a_comparison_are_shrunk_and_small_ones_stay_sharp():
    large = pictures.compared(np.full((1, 512, 512, 3), 77, np.uint8), lines=1)
    assert large.height == 130 and (np.asarray(large)[1:-1, 1:129] == 77).all()
    pixels = np.array([[0, 255], [255, 0]], np.uint8).reshape(1, 2, 2, 1)
    small = np.asarray(pictures.compared(pixels, lines=1))
    assert set(np.unique(small)) == {0, 96, 255}  # black, the rules, and white: no grey between
