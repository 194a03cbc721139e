"""Mean and variance over checkpoints, streamed with the algorithm of Welford (1962).

Memory does not depend on the number of checkpoints, for only one is read at a time:

    moments = start(first)
    for params in others:
        moments = update(moments, params)
    posterior = finish(moments)
"""

from typing import NamedTuple

import chex
import jax
import jax.numpy as jnp

from vdu_jax.posterior.gaussian import GaussianPosterior
from vdu_jax.types import Params


class Moments(NamedTuple):
    """Running moments of checkpoints.

    Attributes:
      count: () int32, the number of checkpoints.
      mean: their mean, the parameters' structure, float32.
      m2: Σ (θ − mean)², the same structure, float32.
    """

    count: jax.Array  # type: ignore[assignment]  # hides tuple.count
    mean: Params
    m2: Params


def start(params: Params) -> Moments:
    """Return the moments of a single checkpoint."""
    mean = jax.tree.map(lambda p: jnp.asarray(p, jnp.float32), params)
    return Moments(jnp.int32(1), mean, jax.tree.map(jnp.zeros_like, mean))


@jax.jit
def update(moments: Moments, params: Params) -> Moments:
    """Add a checkpoint to the moments.

    Args:
      moments: the moments of all checkpoints before.
      params: the checkpoint.

    Returns:
      The moments with the checkpoint.

    Raises:
      ValueError: if `params` has another structure or other shapes.
    """
    chex.assert_trees_all_equal_shapes(moments.mean, params, exception_type=ValueError)
    count = moments.count + 1
    delta = jax.tree.map(lambda p, m: p.astype(jnp.float32) - m, params, moments.mean)
    mean = jax.tree.map(lambda m, d: m + d / count, moments.mean, delta)
    m2 = jax.tree.map(lambda s, d: s + d * d * (1 - 1 / count), moments.m2, delta)
    return Moments(count, mean, m2)


def finish(moments: Moments) -> GaussianPosterior:
    """Make the diagonal posterior from the moments of K checkpoints.

    Args:
      moments: the moments of K ≥ 2 checkpoints.

    Returns:
      The posterior with the checkpoints' mean and unbiased variance (divisor K − 1).

    Raises:
      ValueError: with fewer than 2 checkpoints.
    """
    count = int(moments.count)
    if count < 2:
        raise ValueError(f"{count} checkpoint; a variance over checkpoints needs at least 2")
    variance = jax.jit(lambda m2: jax.tree.map(lambda s: s / (count - 1), m2))(moments.m2)
    return GaussianPosterior(moments.mean, variance, moments.count)
