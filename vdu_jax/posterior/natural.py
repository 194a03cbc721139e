"""Natural gradient descent: optax steps preconditioned with the posterior's variance."""

from typing import NamedTuple

import chex
import jax
import optax

from vdu_jax.types import Params


class NaturalState(NamedTuple):
    """State of `natural`.

    Attributes:
      variance: σ*², the parameters' structure. It is in the state because a compiled step would
        hold closed-over arrays as constants.
    """

    variance: Params


def natural(
    variance: Params, learning_rate: optax.ScalarOrSchedule
) -> optax.GradientTransformation:
    """Natural gradient descent, Δθ = −η σ*² ∇L.

    From θ = μ* on the VDU loss (sums) with η = 1/γ, the first step goes to the minimum of that loss
    with linearised plasticity:

        Δθ = ((1−γ)/γ) σ*² ∇_θ Σ e

    Args:
      variance: σ*², the diagonal part of the covariance of any family of posteriors.
      learning_rate: η, a number or an optax schedule.

    Returns:
      The optax transformation.

    Raises:
      ValueError: from `init`, for parameters of another structure or other shapes.
    """

    def init(params: Params) -> NaturalState:
        chex.assert_trees_all_equal_shapes(variance, params, exception_type=ValueError)
        return NaturalState(variance)

    def update(
        updates: Params, state: NaturalState, params: Params | None = None
    ) -> tuple[Params, NaturalState]:
        del params
        return jax.tree.map(lambda g, v: v * g, updates, state.variance), state

    return optax.chain(
        optax.GradientTransformation(init, update), optax.scale_by_learning_rate(learning_rate)
    )
