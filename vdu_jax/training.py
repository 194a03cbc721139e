"""One update step of any `Objective`: it trains and it unlearns.

Pure functions, to be jitted, sharded, or called as they are; the loop around them that feeds data,
logs, saves and resumes is `vdu_jax.runtime.fit`. The README's example uses them bare.
"""

from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import optax

from vdu_jax.types import Batch, Metrics, Noise, Objective, Params


class FitState(NamedTuple):
    """step () int32: updates made so far. ema: None if no average is kept."""

    step: jax.Array
    params: Params
    ema: Params | None
    opt_state: optax.OptState


def draw_noise(objective: Objective, key: jax.Array, batch: Batch) -> Noise:
    """`objective.draw(key, batch)`, checked to have a row for each image.

    Raises:
      ValueError: naming the array that can't be split as the batch is.
    """
    noise = objective.draw(key, batch)
    sizes = {len(part["image"]) for part in batch.values()}
    for path, array in jax.tree_util.tree_leaves_with_path(noise):
        if array.shape[:1] not in {(size,) for size in sizes}:
            raise ValueError(
                f"the objective's draw gives noise{jax.tree_util.keystr(path)} the shape "
                f"{array.shape}; it must have a row for each image of a kind of data, one of "
                f"{sorted(sizes)} rows"
            )
    return noise


def make_update(
    objective: Objective,
    optimizer: optax.GradientTransformation,
    ema_decay: float = 0.0,
    wrap: Callable[[Callable], Callable] = lambda gradients: gradients,
) -> Callable[[FitState, Any, Batch, Noise], tuple[FitState, Metrics]]:
    """`(state, objective_state, batch, noise) -> (state, metrics)`: a step without its randomness.

    Args:
      ema_decay: of the exponential moving average of the parameters; it warms up as
        min(decay, (1 + s) / (10 + s)). 0 keeps no average.
      wrap: around the function that gives a batch's loss, metrics and gradients; see
        `parallel.compile_step`.
    """
    gradients = wrap(jax.value_and_grad(objective.loss, has_aux=True))

    def update(
        state: FitState, objective_state: Any, batch: Batch, noise: Noise
    ) -> tuple[FitState, Metrics]:
        (loss, metrics), grads = gradients(state.params, objective_state, batch, noise)
        updates, opt_state = optimizer.update(grads, state.opt_state, state.params)
        params = optax.apply_updates(state.params, updates)
        ema = None
        if ema_decay > 0:
            decay = jnp.minimum(ema_decay, (1.0 + state.step) / (10.0 + state.step))
            ema = optax.incremental_update(params, state.ema, 1 - decay)
        metrics = dict(metrics, loss=loss, grad_norm=optax.tree.norm(grads))
        return FitState(state.step + 1, params, ema, opt_state), metrics

    return update


def make_step(
    objective: Objective,
    optimizer: optax.GradientTransformation,
    ema_decay: float = 0.0,
    wrap: Callable[[Callable], Callable] = lambda gradients: gradients,
) -> Callable[[FitState, Any, Batch, jax.Array], tuple[FitState, Metrics]]:
    """The pure step of an objective, `(state, objective_state, batch, key) -> (state, metrics)`.

    Jit it, shard it, or call it as it is. The arguments are those of `make_update`.
    """
    update = make_update(objective, optimizer, ema_decay, wrap)

    def step(
        state: FitState, objective_state: Any, batch: Batch, key: jax.Array
    ) -> tuple[FitState, Metrics]:
        return update(state, objective_state, batch, draw_noise(objective, key, batch))

    return step


def init_state(
    params: Params, optimizer: optax.GradientTransformation, ema_decay: float = 0.0
) -> FitState:
    """The state before the first step."""
    ema = params if ema_decay > 0 else None
    return FitState(jnp.int32(0), params, ema, optimizer.init(params))
