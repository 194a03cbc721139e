"""Classifier-free guidance."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from vdu_jax.diffusion import guidance, process


def score_fn(params, xt, t, cond=None, *, dropout_key=None):
    """Another number for every image, time and condition."""
    return params * xt + t[:, None, None, None] + cond.sum((1, 2))[:, None, None, None]


@pytest.mark.parametrize("scale", [0.0, 1.0, 7.5])
def test_the_difference_of_two_predictions_is_stretched(scale):
    draw = np.random.default_rng(0)
    xt, t = draw.normal(size=(3, 4, 2, 1)), jnp.array([0, 5, 9])
    text, negative = draw.normal(size=(2, 3, 7, 2))
    given, away = (score_fn(0.5, xt, t, cond) for cond in (text, negative))
    found = guidance.guided(score_fn, scale)(0.5, xt, t, (text, negative))
    np.testing.assert_allclose(found, away + scale * (given - away), rtol=1e-5, atol=1e-5)
    alone = {0.0: away, 1.0: given}.get(scale)
    if alone is not None:
        np.testing.assert_allclose(found, alone, rtol=1e-5, atol=1e-5)


def part(count):
    draw = np.random.default_rng(1)
    arrays = {name: draw.normal(size=(count, 3, 2)) for name in ("cond", "negative")}
    return {"image": draw.normal(size=(count, 2, 2, 1)), **arrays}


def test_a_share_of_images_has_no_condition():
    given = part(4000)
    found = guidance.drop_condition(jax.random.key(0), given, 0.3)
    dropped = (found["cond"] == given["negative"]).all((1, 2))
    kept = (found["cond"] == given["cond"]).all((1, 2))
    assert (dropped ^ kept).all() and abs(dropped.mean() - 0.3) < 0.03
    assert found["image"] is given["image"]


def test_the_same_images_lose_theirs_in_parts_of_a_batch():
    given, key = part(8), jax.random.key(2)
    whole = guidance.drop_condition(key, given, 0.5)["cond"]
    with process.part_of_batch(2, lambda a: a[4:]):
        half = guidance.drop_condition(key, {k: a[4:] for k, a in given.items()}, 0.5)["cond"]
    np.testing.assert_array_equal(half, whole[4:])
