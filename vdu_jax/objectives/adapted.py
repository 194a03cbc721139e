"""Restrict any objective to low-rank adapters of its parameters."""

from typing import Any, NamedTuple

import jax

from vdu_jax.models import lora
from vdu_jax.types import Batch, Batches, Metrics, Noise, Objective, Params


class AdaptedState(NamedTuple):
    """State of an adapted objective.

    Attributes:
      inner: the objective's own state.
      start: the parameters that are adapted, as a state: a compiled step would hold closed-over
        arrays as constants.
    """

    inner: Any
    start: Params


def adapted(objective: Objective, start: Params) -> Objective:
    """Turn an objective of parameters into one of low-rank adapters.

    The loss is that of the merged parameters, so that a posterior stays one over the parameters.
    Gradients and the optimizer's state are those of the adapters alone.

    Args:
      objective: the objective of the parameters.
      start: the parameters that are adapted; they do not change.

    Returns:
      The objective whose parameters are the adapters from `lora.init_adapters`.
    """

    def init(adapters: Params, batches: Batches, key: jax.Array) -> AdaptedState:
        merged = lora.merge_adapters(adapters, start)
        return AdaptedState(objective.init(merged, batches, key), start)

    def loss(
        adapters: Params, state: AdaptedState, batch: Batch, noise: Noise
    ) -> tuple[jax.Array, Metrics]:
        merged = lora.merge_adapters(adapters, state.start)
        return objective.loss(merged, state.inner, batch, noise)

    return objective._replace(init=init, loss=loss)
