"""The update step of any `Objective`, for training and for unlearning.

Pure functions, to be jitted, sharded, or called as they are. `vdu_jax.runtime.fit` is the loop
around them that feeds data, logs, saves and resumes. The README has an example without it.
"""

from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import optax

from vdu_jax.types import Batch, Metrics, Noise, Objective, Params


class FitState(NamedTuple):
    """Everything that an update step changes.

    Attributes:
      step: () int32, the number of updates made so far.
      params: the parameters.
      ema: their exponential moving average, the same structure; None if none is kept.
      opt_state: the optimizer's state.
    """

    step: jax.Array
    params: Params
    ema: Params | None
    opt_state: optax.OptState


def draw_noise(objective: Objective, key: jax.Array, batch: Batch) -> Noise:
    """Draw the noise of one step and check that it has a row for each image.

    Args:
      objective: the method whose `draw` is called.
      key: the random key of the step.
      batch: the images of the step.

    Returns:
      `objective.draw(key, batch)`.

    Raises:
      ValueError: if an array of the noise cannot be split as the batch is; the message names it.
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
    """Make the update step that is given its noise.

    Args:
      objective: the method whose loss is minimised.
      optimizer: turns the gradients into changes of the parameters.
      ema_decay: decay of the parameters' exponential moving average, in [0, 1). It warms up as
        min(ema_decay, (1 + s) / (10 + s)) at step s. 0 keeps no average.
      wrap: wraps the function that computes a batch's loss, metrics and gradients. See
        `parallel.compile_step`.

    Returns:
      `(state, objective_state, batch, noise) -> (state, metrics)`, a pure function. `metrics` also
      has "loss" and "grad_norm".
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
    """Make the update step of an objective, which draws its noise from a key.

    Args:
      objective: the method whose loss is minimised.
      optimizer: turns the gradients into changes of the parameters.
      ema_decay: as for `make_update`.
      wrap: as for `make_update`.

    Returns:
      `(state, objective_state, batch, key) -> (state, metrics)`, a pure function. Jit it, shard it,
      or call it as it is. `objective_state` comes from `objective.init`, `state` from `init_state`.
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
    """Return the state before the first step.

    Args:
      params: the parameters to start from.
      optimizer: the one that `make_step` gets.
      ema_decay: the one that `make_step` gets, in [0, 1); 0 keeps no average.
    """
    ema = params if ema_decay > 0 else None
    return FitState(jnp.int32(0), params, ema, optimizer.init(params))
