"""Objectives on adapters."""

import jax
import jax.numpy as jnp
import numpy as np

from vdu_jax import objectives
from vdu_jax.models import lora
from vdu_jax.posterior import GaussianPosterior

START = {"mix": {"kernel": jnp.eye(24) + 0.1}}


def score_fn(params, xt, t, cond=None, *, dropout_key=None):
    return (xt.reshape(len(xt), -1) @ params["mix"]["kernel"]).reshape(xt.shape)


def test_the_gradient_is_the_chain_rules(toy):
    """∂L/∂B = Aᵀ ∂L/∂W, and ∂L/∂A = ∂L/∂W Bᵀ, with the posterior's energy in L."""
    posterior = GaussianPosterior(START, jax.tree.map(lambda p: 0.3 + p, START), jnp.int32(4))
    inner = objectives.vdu(score_fn, toy.predicts, posterior, 40, gamma=0.3)
    objective = objectives.adapted(inner, START)
    assert objective.sees == {"forget"}
    adapters = lora.init_adapters(START, 3, jax.random.key(0))
    adapters["mix/kernel"]["up"] += 0.05
    batch, key = {"forget": {"image": toy.images(0, 6)}}, jax.random.key(1)
    state, noise = objective.init(adapters, {}, key), objective.draw(key, batch)
    jax.tree.map(np.testing.assert_array_equal, noise, inner.draw(key, batch))
    found = jax.grad(lambda a: objective.loss(a, state, batch, noise)[0])(adapters)["mix/kernel"]
    merged = lora.merge_adapters(adapters, START)
    of_inner = inner.init(START, {}, key)
    whole = jax.grad(lambda p: inner.loss(p, of_inner, batch, noise)[0])(merged)["mix"]["kernel"]
    down, up = (adapters["mix/kernel"][side] for side in ("down", "up"))
    np.testing.assert_allclose(found["up"], down.T @ whole, rtol=1e-4, atol=1e-3)
    np.testing.assert_allclose(found["down"], whole @ up.T, rtol=1e-4, atol=1e-3)
