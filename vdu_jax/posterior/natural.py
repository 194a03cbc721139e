"""The natural step: gradients in units of the posterior's variance, as an optax transformation."""

from typing import NamedTuple

import chex
import jax
import optax

from vdu_jax.types import Params


class NaturalState(NamedTuple):
    """variance: σ*², the parameters' structure. A state, or programs hold it as a constant."""

    variance: Params


def natural(
    variance: Params, learning_rate: optax.ScalarOrSchedule
) -> optax.GradientTransformation:
    """Δθ = −η σ*² ∇L, gradient descent preconditioned with the posterior's variance.

    From θ = μ* on the VDU loss (sums) with η = 1/γ, the first step is the minimiser of that loss
    with its plasticity linearised: Δθ = ((1−γ)/γ) σ*² ∇_θ Σ e.

    Args:
      variance: σ*² of any family, its diagonal part.
      learning_rate: η.

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
