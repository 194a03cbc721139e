"""Classifier-free guidance."""

import jax.numpy as jnp
import numpy as np
import pytest

from vdu_jax.diffusion import guidance


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
