"""An objective of five numbers, for tests of steps and of the loop around them."""

import jax
import jax.numpy as jnp

from vdu_jax.types import Objective, no_state

START = {"w": jnp.zeros((2, 2, 1)), "b": jnp.zeros(())}


def draw(key, batch):
    return jax.random.normal(key, batch["retain"]["image"].shape)


def loss(params, state, batch, noise):
    """Fits the mean image, with noise so that the keys matter."""
    x = batch["retain"]["image"] + 0.1 * noise
    return jnp.square(x - params["w"] - params["b"]).mean(), {"b": params["b"]}


OBJECTIVE = Objective(
    sees=frozenset({"retain"}),
    needs=frozenset(),
    init=no_state,
    draw=draw,
    loss=loss,
    is_mean=True,
    init_computes=True,
)
