"""The closed-form denoiser against the definition, and a mixture taken apart."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from scipy.special import logsumexp, softmax

from vdu_jax.diffusion import empirical, process
from vdu_jax.diffusion.schedule import make_schedule

SCHEDULE = make_schedule(num_steps=100)
LEVELS = np.cumprod(1 - np.asarray(SCHEDULE.betas, np.float64))


def images(seed, n):
    return np.random.default_rng(seed).uniform(-1, 1, (n, 3, 3, 1)).astype(np.float32)


def noised(x0, t):
    eps = np.random.default_rng(9).normal(size=x0.shape).astype(np.float32)
    return np.asarray(process.q_sample(SCHEDULE, x0, t, eps))


def by_hand(points, xt, t):
    """eps and the exact log density of one x_t, in float64."""
    a = LEVELS[t]
    squares = ((xt - np.sqrt(a) * points.astype(np.float64)) ** 2).sum((1, 2, 3))
    logits = -squares / (2 * (1 - a))
    x0 = np.tensordot(softmax(logits), points, 1)
    density = logsumexp(logits) - np.log(len(points)) - xt.size / 2 * np.log(2 * np.pi * (1 - a))
    return (xt - np.sqrt(a) * x0) / np.sqrt(1 - a), density


def test_the_definition():
    points, t = images(0, 7), np.array([3, 20, 60, 99, 50])
    xt = noised(images(1, 5), t)
    found = empirical.denoise(SCHEDULE, jnp.asarray(points), jnp.asarray(xt), jnp.asarray(t))
    for i in range(5):
        eps, density = by_hand(points, xt[i], t[i])
        np.testing.assert_allclose(found.eps[i], eps, atol=2e-4)
        constant = xt[i].size / 2 * np.log(2 * np.pi * (1 - LEVELS[t[i]]))
        assert float(found.log_density[i]) - constant == pytest.approx(density, rel=3e-5, abs=2e-3)


def test_it_is_the_score_of_the_density():
    """ε = −√(1 − ᾱ) ∇ log p(x_t)."""
    points, t = jnp.asarray(images(0, 7)), jnp.array([40, 70])
    xt = jnp.asarray(noised(images(1, 2), np.asarray(t)))
    score = jax.grad(lambda x: empirical.denoise(SCHEDULE, points, x, t).log_density.sum())(xt)
    level = process.bcast(SCHEDULE.alphas_cumprod[t], xt)
    eps = empirical.denoise(SCHEDULE, points, xt, t).eps
    np.testing.assert_allclose(-jnp.sqrt(1 - level) * score, eps, atol=1e-4)


def test_one_image_is_known_for_sure():
    point, t = images(0, 1), np.array([5, 50, 99])
    x0 = np.repeat(point, 3, 0)
    xt = noised(x0, t)
    eps = empirical.denoise(SCHEDULE, jnp.asarray(point), jnp.asarray(xt), jnp.asarray(t)).eps
    np.testing.assert_allclose(process.q_sample(SCHEDULE, x0, t, eps), xt, atol=1e-5)
