"""The diagonal Fisher against a loop over images, and the Laplace posterior by hand."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from vdu_jax import posterior
from vdu_jax.diffusion import process
from vdu_jax.diffusion.parameterization import epsilon
from vdu_jax.diffusion.schedule import make_schedule

SCHEDULE = make_schedule("linear", 50, 1e-3, 0.2)
PREDICTS = epsilon(SCHEDULE)
PARAMS = {"mix": jnp.float32([[0.5, -0.3], [0.2, 0.9]]), "shift": jnp.float32([0.1, -0.2])}


def score_fn(params, xt, t, cond=None, *, dropout_key=None):
    return jnp.tanh(xt @ params["mix"] + params["shift"]) * (1 + t[:, None, None, None] / 50)


def images(n, seed=0):
    return np.random.default_rng(seed).uniform(-1, 1, (n, 3, 4, 2)).astype(np.float32)


def test_it_is_the_mean_square_of_single_gradients():
    batches, key = [images(5), images(3, seed=1)], jax.random.key(4)
    parts = ({"image": x0} for x0 in batches)
    fisher = posterior.diagonal_fisher(score_fn, PREDICTS, PARAMS, parts, key)
    squares = []
    for index, x0 in enumerate(batches):
        noising = process.draw_noising(jax.random.fold_in(key, index), SCHEDULE, jnp.asarray(x0))
        for i in range(len(x0)):
            level = SCHEDULE.alphas_cumprod[noising.t[i]]
            xt = jnp.sqrt(level) * x0[i] + jnp.sqrt(1 - level) * noising.eps[i]

            def error(params, xt=xt, t=noising.t[i], eps=noising.eps[i]):
                return jnp.mean((score_fn(params, xt[None], t[None])[0] - eps) ** 2)

            squares.append(
                jax.tree.map(lambda g: np.square(g, dtype=float), jax.grad(error)(PARAMS))
            )
    expected = jax.tree.map(lambda *s: np.mean(s, 0), *squares)
    jax.tree.map(lambda f, e: np.testing.assert_allclose(f, e, rtol=1e-4), fisher, expected)


def test_half_precision_parameters_are_accumulated_in_float32():
    half, part = jax.tree.map(lambda p: p.astype(jnp.bfloat16), PARAMS), {"image": images(600)}
    fisher = posterior.diagonal_fisher(score_fn, PREDICTS, half, [part], jax.random.key(0))
    exact = jax.tree.map(lambda p: p.astype(jnp.float32), half)
    wide = posterior.diagonal_fisher(score_fn, PREDICTS, exact, [part], jax.random.key(0))
    assert fisher["mix"].dtype == jnp.float32
    jax.tree.map(lambda f, w: np.testing.assert_allclose(f, w, rtol=0.03), fisher, wide)


def test_no_image_raises():
    with pytest.raises(ValueError, match="at least one image"):
        posterior.diagonal_fisher(score_fn, PREDICTS, PARAMS, [], jax.random.key(0))


def test_laplace_by_hand():
    fisher = {"mix": jnp.float32([[0.0, 0.1], [1.0, 2.0]]), "shift": jnp.float32([0.5, 0.25])}
    p = posterior.laplace(PARAMS, fisher, 40, 2.0)
    np.testing.assert_allclose(p.variance["mix"], [[1 / 2, 1 / 6], [1 / 42, 1 / 82]], rtol=1e-6)
    np.testing.assert_allclose(p.variance["shift"], [1 / 22, 1 / 12], rtol=1e-6)
    np.testing.assert_array_equal(p.mean["mix"], PARAMS["mix"])
    assert int(p.count) == 1
    gap = jax.tree.map(lambda m: m + 1, PARAMS)
    assert float(posterior.energy(p, gap)) == pytest.approx((2 + 6 + 42 + 82 + 22 + 12) / 2)


@pytest.mark.parametrize(
    ("num_images", "prior_precision"), [(0, 1.0), (10, 0.0), (10, -1.0), (10, float("nan"))]
)
def test_settings_out_of_range_raise(num_images, prior_precision):
    with pytest.raises(ValueError, match="prior_precision = .* must be > 0"):
        posterior.laplace(PARAMS, PARAMS, num_images, prior_precision)


def test_a_fisher_of_another_network_raises():
    with pytest.raises(ValueError):
        posterior.laplace(PARAMS, {"mix": PARAMS["mix"]}, 10, 1.0)
