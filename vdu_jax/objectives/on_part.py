"""Restrict any objective to a part of the parameters and freeze the rest."""

from collections.abc import Callable
from typing import Any, NamedTuple

import jax

from vdu_jax.models import subset
from vdu_jax.types import Batch, Batches, Metrics, Noise, Objective, Params, ScoreFn


class PartState(NamedTuple):
    """State of an objective on a part of the parameters.

    Attributes:
      inner: the objective's own state.
      rest: the parameters that do not change.
    """

    inner: Any
    rest: Params


def on_part(make: Callable[[ScoreFn], Objective], score_fn: ScoreFn, rest: Params) -> Objective:
    """Make an objective of a part of the parameters.

    Gradients, the optimizer's state, teachers and masks are those of the part alone. The rest is
    kept in memory once.

    Args:
      make: `score_fn -> objective`, called with a score function of the part's parameters.
      score_fn: the network, a function of all parameters.
      rest: the frozen parameters, from `subset.split`.

    Returns:
      The objective whose parameters are the part.
    """

    def with_rest(rest: Params) -> Objective:
        def of_part(part: Params, *arguments: Any, **settings: Any) -> jax.Array:
            return score_fn(subset.merge(part, rest), *arguments, **settings)

        return make(of_part)

    def init(params: Params, batches: Batches, key: jax.Array) -> PartState:
        return PartState(with_rest(rest).init(params, batches, key), rest)

    def loss(
        params: Params, state: PartState, batch: Batch, noise: Noise
    ) -> tuple[jax.Array, Metrics]:
        # The rest comes from the state: a compiled step would hold closed-over arrays as constants.
        return with_rest(state.rest).loss(params, state.inner, batch, noise)

    return with_rest(rest)._replace(init=init, loss=loss)
