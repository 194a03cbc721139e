"""The diagonal Gaussian posterior of VDU (Panda et al. 2025, arXiv 2510.04058).

`floor_variance`, `shrink_variance`, `relative_floor` and `layer_summary` work on the `variance` of
any family of posteriors.
"""

import functools
import math
from typing import Any, NamedTuple, Protocol, Self, TypeVar

import jax
import jax.numpy as jnp
import numpy as np

from vdu_jax.types import Params


class GaussianPosterior(NamedTuple):
    """The mean-field posterior p(θ | D) = Π_i N(μ*_i, σ*²_i).

    Attributes:
      mean: μ*, the parameters' structure.
      variance: σ*² ≥ 0, the same structure.
      count: () int32, K, the number of checkpoints that it was made from.
    """

    mean: Params
    variance: Params
    count: jax.Array  # type: ignore[assignment]  # hides tuple.count


class Gaussian(Protocol):
    """The type of a posterior of any family, for annotations."""

    @property
    def mean(self) -> Params:
        """μ*, the parameters' structure."""

    @property
    def variance(self) -> Params:
        """σ*² ≥ 0, the same structure: the diagonal part of the covariance."""

    def _replace(self, *, variance: Params) -> Self: ...


Family = TypeVar("Family", bound=Gaussian)


def num_parameters(params: Params) -> int:
    """Return d, the number of scalars in a pytree of arrays."""
    return sum(int(np.prod(leaf.shape)) for leaf in jax.tree.leaves(params))


@functools.singledispatch
def energy(posterior: Gaussian, params: Params) -> jax.Array:
    """Posterior energy, the stability regulariser of VDU without its weight γ.

        ½ (θ − μ*)ᵀ Σ⁻¹ (θ − μ*) = Σ_i (θ_i − μ*_i)² / (2 σ*²_i) for the diagonal family

    It is KL(q ‖ p) up to a constant, for q = N(θ, fixed covariance). Other families register their
    own function with `energy.register`.

    Args:
      posterior: p(θ | D), with every variance > 0, see `floor_variance`.
      params: θ, of the structure and shapes of `posterior.mean`.

    Returns:
      () float32.
    """
    terms = jax.tree.map(
        lambda p, m, v: jnp.sum(jnp.square(p - m) / (2 * v)),
        params,
        posterior.mean,
        posterior.variance,
    )
    return jax.tree.reduce(jnp.add, terms)


def relative_floor(posterior: Gaussian, quantile: float) -> float:
    """Return a quantile of all variances, to be used as a floor.

    Args:
      posterior: p(θ | D).
      quantile: in [0, 1].
    """
    values = np.concatenate([np.ravel(v) for v in jax.tree.leaves(posterior.variance)])
    return float(np.quantile(values, quantile, overwrite_input=True))


def floor_variance(posterior: Family, floor: float) -> Family:
    """Raise every variance to at least a floor.

    With few checkpoints many sample variances are almost 0 by chance (for K = 2 their relative
    standard deviation is √2) and would pin their parameters.

    Args:
      posterior: p(θ | D).
      floor: the smallest variance allowed, > 0 and finite.

    Returns:
      The posterior with its new variance.

    Raises:
      ValueError: for a floor that is not > 0 and finite.
    """
    if not 0 < floor < math.inf:
        raise ValueError(f"floor must be > 0 and finite, not {floor}")
    return posterior._replace(variance=_raised(posterior.variance, floor))


@jax.jit  # one compiled program for all tensors instead of one per shape
def _raised(variance: Params, floor: jax.Array) -> Params:
    return jax.tree.map(lambda v: jnp.maximum(v, floor), variance)


def shrink_variance(posterior: Family, amount: float) -> Family:
    """Shrink every variance towards the mean of its tensor: σ² ← (1 − a) σ² + a · mean(σ²).

    Args:
      posterior: p(θ | D).
      amount: a in [0, 1]; 0 changes nothing.

    Returns:
      The posterior with its new variance.

    Raises:
      ValueError: for an amount outside [0, 1].
    """
    if not 0 <= amount <= 1:
        raise ValueError(f"amount must lie in [0, 1], not {amount}")
    if amount == 0:
        return posterior
    return posterior._replace(variance=_shrunk(posterior.variance, amount))


@jax.jit
def _shrunk(variance: Params, amount: jax.Array) -> Params:
    return jax.tree.map(lambda v: (1 - amount) * v + amount * jnp.mean(v), variance)


def layer_summary(posterior: Gaussian) -> list[dict[str, Any]]:
    """Summarise a posterior by a row per parameter tensor.

    Args:
      posterior: p(θ | D).

    Returns:
      Dicts with "name", "size", "rms_mean" (root mean square of μ*), the quantiles "std_p05",
      "std_median" and "std_p95" of σ*, and "fraction_zero" of σ*.
    """
    rows = []
    means = jax.tree.leaves(posterior.mean)
    for (path, variance), mean in zip(
        jax.tree_util.tree_leaves_with_path(posterior.variance), means, strict=True
    ):
        std = np.sqrt(np.asarray(variance, np.float64)).ravel()
        low, median, high = np.quantile(std, [0.05, 0.5, 0.95])
        rows.append(
            {
                "name": "/".join(str(getattr(k, "key", k)) for k in path),
                "size": int(std.size),
                "rms_mean": float(np.sqrt(np.mean(np.square(np.asarray(mean, np.float64))))),
                "std_p05": float(low),
                "std_median": float(median),
                "std_p95": float(high),
                "fraction_zero": float(np.mean(std == 0)),
            }
        )
    return rows
