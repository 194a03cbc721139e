"""What is said of figures, and what those of earlier versions are of."""

import numpy as np
import pytest

from vdu_jax.metrics import quality
from vdu_jax.stages import comparison, evaluate


@pytest.mark.parametrize(
    ("count", "features", "shift", "said"),
    [
        (40, 64, 9, "of 40 images against 300 in 64 features; real images are expected at"),
        (40, 64, 9, "raise evaluate.images"),
        (1000, 5, 0, "compare it only with u-FIDs of as many images, or read KID"),
        (1, 5, 0, "1 images show what is retained, and u-FID and KID need 2, precision"),
        (1000, 5, 9, ""),
        (400, 64, 9, ""),
    ],
)
def test_too_few_images_for_a_u_fid_are_warned_of(capsys, count, features, shift, said):
    """Fewer than features, or so few that the bias is a third of the figure, or none."""
    rng = np.random.default_rng(0)
    retained = quality.make_reference(rng.normal(size=(300, features)), 300, 0)
    figures = quality.quality(rng.normal(size=(count, features)) + shift, retained, 0)
    evaluate.warn_of_bias("plain", "evaluate.images", figures, retained)
    lines = capsys.readouterr().err.splitlines()
    assert len(lines) == bool(said)
    for line in lines:
        assert line.startswith("vdu: warning: plain: ") and said in line
        assert ("raise" in line) == (count < 300)


def test_a_curve_is_not_told_to_read_a_figure_that_it_has_not(capsys):
    rng = np.random.default_rng(0)
    retained = quality.make_reference(rng.normal(size=(200, 5)), 60, 0)
    figures = quality.counted_distance(retained.some[:4], retained)
    evaluate.warn_of_bias("curve of plain", "curve.images", figures, retained)
    line = capsys.readouterr().err
    assert "raise curve.images" in line and "KID" not in line


def test_the_images_of_earlier_files_are_counted_from_the_histogram():
    figures = {"histogram": [10, 20, 30]}
    assert comparison.image_count("plain", figures, (1,)) == 60
    assert comparison.image_count("original", figures, (1,)) == 40
    assert comparison.image_count("original", figures | {"images": 5}, (1,)) == 5
