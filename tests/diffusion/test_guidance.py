"""Classifier-free guidance, and guidance away from the forget data."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from vdu_jax.diffusion import empirical, guidance, samplers
from vdu_jax.diffusion.schedule import make_schedule


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


def test_guidance_without_a_pair_of_conditions_raises():
    with pytest.raises(ValueError, match=r"cond = \(condition, negative\), not None"):
        guidance.guided(score_fn, 2.0)(0.5, jnp.zeros((1, 2, 2, 1)), jnp.zeros(1))


def part(count):
    draw = np.random.default_rng(1)
    arrays = {name: draw.normal(size=(count, 3, 2)) for name in ("cond", "negative")}
    return {"image": draw.normal(size=(count, 2, 2, 1)), **arrays}


def test_the_dropped_images_have_no_condition():
    given, dropped = part(4), np.array([True, False, False, True])
    found = guidance.drop_condition(given, dropped)
    assert found["image"] is given["image"]
    for row, gone in enumerate(dropped):
        expected = given["negative" if gone else "cond"][row]
        np.testing.assert_array_equal(found["cond"][row], expected.astype(np.float32))


def test_both_halves_of_a_guided_prediction_have_the_same_dropout_keys():
    seen = []

    def network(params, xt, t, cond=None, *, dropout_key=None):
        seen.append(jax.random.key_data(dropout_key))
        return xt

    keys, text = jax.random.split(jax.random.key(0), 3), np.ones((3, 7, 2))
    images = jnp.zeros((3, 4, 2, 1)), jnp.zeros(3, int)
    guidance.guided(network, 2.0)(0.5, *images, (text, text), dropout_key=keys)
    np.testing.assert_array_equal(seen[0], jax.random.key_data(jnp.concatenate([keys, keys])))


def test_without_forget_data_only_the_rest_is_drawn():
    """The network is the exact denoiser of ten images, four of which are D_f."""
    noise = make_schedule(num_steps=100, beta_end=0.2)
    rng = np.random.default_rng(0)
    images = jnp.asarray(rng.uniform(-1, 1, (10, 4, 4, 1)), jnp.float32)

    def exact(params, xt, t, cond=None, *, dropout_key=None):
        return empirical.denoise(noise, images, xt, t).eps

    plan = samplers.make_plan(noise, "ddim", 50)
    keys = jax.random.split(jax.random.key(0), 200)

    def nearest(predict):
        drawn = jax.jit(lambda k: samplers.sample(predict, {}, plan, k, (4, 4, 1)))(keys)
        gaps = jnp.abs(drawn[:, None] - images).mean((2, 3, 4))
        assert float(gaps.min(1).max()) < 0.05  # each is one of the ten
        return np.bincount(gaps.argmin(1), minlength=10)

    assert nearest(exact)[:4].sum() > 50
    rest = nearest(guidance.without_forget(exact, noise, images[:4], images[4:], 0.4))
    assert rest[:4].sum() == 0 and (rest[4:] > 10).all()
