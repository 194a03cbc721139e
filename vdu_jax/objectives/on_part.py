"""Any objective on a part of the parameters, with the rest left as it is."""

from collections.abc import Callable
from typing import Any, NamedTuple

import jax

from vdu_jax.models import subset
from vdu_jax.types import Batch, Batches, Metrics, Noise, Objective, Params, ScoreFn


class PartState(NamedTuple):
    """inner: the objective's own state. rest: the parameters that do not change."""

    inner: Any
    rest: Params


def on_part(make: Callable[[ScoreFn], Objective], score_fn: ScoreFn, rest: Params) -> Objective:
    """The objective that `make` gives, of networks whose other parameters are `rest`.

    Its parameters, and so gradients, optimiser, teachers and masks, are those of the part alone;
    the rest is held once.

    Args:
      make: from a score function of the part's parameters to the objective.
      score_fn: of all parameters. rest: see `subset.split`.
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
        # Of arrays that are given, not closed over: a compiled step would hold those as constants.
        return with_rest(state.rest).loss(params, state.inner, batch, noise)

    return with_rest(rest)._replace(init=init, loss=loss)
