"""Any objective on low-rank adapters of its parameters."""

from typing import Any, NamedTuple

import jax

from vdu_jax.models import lora
from vdu_jax.types import Batch, Batches, Metrics, Noise, Objective, Params


class AdaptedState(NamedTuple):
    """inner: the objective's own state. start: the parameters that are adapted."""

    inner: Any
    start: Params


def adapted(objective: Objective, start: Params) -> Objective:
    """The objective as one of adapters of `start`, see `lora.init_adapters`.

    The loss is that of the merged parameters, so a posterior stays one over the parameters;
    gradients and the optimiser's state are of the adapters alone.
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
