"""The natural step against the closed form that it stands for."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from vdu_jax import objectives, posterior, training
from vdu_jax.diffusion import process
from vdu_jax.diffusion.parameterization import epsilon
from vdu_jax.diffusion.schedule import make_schedule

SCHEDULE = make_schedule("linear", 50, 1e-3, 0.2)
MEAN = {"a": jnp.float32(0.4), "b": jnp.float32([0.1, -0.1])}
VARIANCE = {"a": jnp.float32(0.02), "b": jnp.float32([0.5, 0.04])}
DIAGONAL = posterior.GaussianPosterior(MEAN, VARIANCE, jnp.int32(5))
NUM_FORGET = 40


def score_fn(params, xt, t, cond=None, *, dropout_key=None):
    return jnp.tanh(params["a"] * xt + params["b"])


def batch():
    x0 = np.random.default_rng(0).uniform(-1, 1, (8, 3, 4, 2)).astype(np.float32)
    return {"forget": {"image": x0}}


@pytest.mark.parametrize("gamma", [0.1, 0.5, 0.9])
def test_the_first_step_is_the_minimiser_of_the_linearised_loss(gamma):
    vdu = objectives.vdu(score_fn, epsilon(SCHEDULE), DIAGONAL, NUM_FORGET, gamma=gamma)
    optimizer = posterior.natural(VARIANCE, 1 / gamma)
    key = jax.random.key(3)
    state, _ = jax.jit(training.make_step(vdu, optimizer))(
        training.init_state(MEAN, optimizer), vdu.init(MEAN, {}, key), batch(), key
    )
    x0 = jnp.asarray(batch()["forget"]["image"])
    noising = process.draw_noising(key, SCHEDULE, x0)

    def plasticity(params):  # Σ over D_f, from the batch
        return NUM_FORGET * process.eps_error(score_fn, params, SCHEDULE, x0, noising).mean()

    slope = jax.grad(plasticity)(MEAN)
    for name in MEAN:
        closed = (1 - gamma) / gamma * VARIANCE[name] * slope[name]
        np.testing.assert_allclose(state.params[name] - MEAN[name], closed, rtol=1e-4)

    def linearised(params):  # γ times the energy, minus the first-order plasticity
        rise = sum(jnp.sum(slope[k] * (params[k] - MEAN[k])) for k in MEAN)
        return -(1 - gamma) * rise + gamma * posterior.energy(DIAGONAL, params)

    np.testing.assert_allclose(
        np.hstack(jax.tree.leaves(jax.grad(linearised)(state.params))), 0, atol=1e-4
    )


def test_a_step_without_momentum_or_memory():
    optimizer = posterior.natural(VARIANCE, 0.5)
    state = optimizer.init(MEAN)
    grads = {"a": jnp.float32(3.0), "b": jnp.float32([-1.0, 2.0])}
    for _ in range(2):
        updates, state = optimizer.update(grads, state, MEAN)
        np.testing.assert_allclose(updates["a"], -0.5 * 0.02 * 3, rtol=1e-6)
        np.testing.assert_allclose(updates["b"], [0.5 * 0.5, -0.5 * 0.04 * 2], rtol=1e-6)


def test_half_precision_parameters_stay_so():
    half = jax.tree.map(lambda p: p.astype(jnp.bfloat16), MEAN)
    optimizer = posterior.natural(VARIANCE, 1.0)
    updates, _ = optimizer.update(half, optimizer.init(half), half)
    assert optax.apply_updates(half, updates)["b"].dtype == jnp.bfloat16


def test_parameters_of_another_network_raise():
    with pytest.raises(ValueError):
        posterior.natural(VARIANCE, 1.0).init({"a": jnp.ones(2), "b": jnp.ones(2)})
