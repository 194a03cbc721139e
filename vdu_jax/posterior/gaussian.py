"""The diagonal Gaussian posterior of Panda et al. 2025 (arXiv 2510.04058).

Floor, shrinkage and summary are of `variance`, whatever the family.
"""

import functools
import math
from typing import Any, NamedTuple, Protocol, Self, TypeVar

import jax
import jax.numpy as jnp
import numpy as np

from vdu_jax.types import Params


class GaussianPosterior(NamedTuple):
    """p(θ | D) = Π_i N(μ*_i, σ*²_i).

    Attributes:
      mean: μ*, the parameters' structure.
      variance: σ*² ≥ 0, the same structure.
      count: () int32, the number of checkpoints K behind them.
    """

    mean: Params
    variance: Params
    count: jax.Array  # type: ignore[assignment]  # hides tuple.count


class Gaussian(Protocol):
    """A posterior of any family, with a mean and a diagonal part of its covariance."""

    @property
    def mean(self) -> Params: ...

    @property
    def variance(self) -> Params: ...

    def _replace(self, *, variance: Params) -> Self: ...


Family = TypeVar("Family", bound=Gaussian)


def num_parameters(params: Params) -> int:
    """d, the number of scalars in a pytree."""
    return sum(int(np.prod(leaf.shape)) for leaf in jax.tree.leaves(params))


@functools.singledispatch
def energy(posterior: Gaussian, params: Params) -> jax.Array:
    """½ (θ − μ*)ᵀ Σ⁻¹ (θ − μ*), the stability regulariser (the VDU loss without γ).

    Of the diagonal family it is Σ_i (θ_i − μ*_i)² / (2 σ*²_i); other families register theirs.
    Up to a constant this is KL(q ‖ p) for q = N(θ, fixed spread). Every variance must be > 0:
    see `floor_variance`.

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
    """The `quantile` (in [0, 1]) of all variances, as a number for `floor_variance`."""
    values = np.concatenate([np.ravel(v) for v in jax.tree.leaves(posterior.variance)])
    return float(np.quantile(values, quantile, overwrite_input=True))


def floor_variance(posterior: Family, floor: float) -> Family:
    """Raise every variance to at least `floor` > 0.

    With few checkpoints many sample variances are almost 0 by chance (for K = 2 their relative
    spread is √2) and would pin their parameters.

    Raises:
      ValueError: for a floor that is not > 0 and finite.
    """
    if not 0 < floor < math.inf:
        raise ValueError(f"floor must be > 0 and finite, not {floor}")
    return posterior._replace(variance=_raised(posterior.variance, floor))


@jax.jit  # one program for all tensors, not one for each shape
def _raised(variance: Params, floor: jax.Array) -> Params:
    return jax.tree.map(lambda v: jnp.maximum(v, floor), variance)


def shrink_variance(posterior: Family, amount: float) -> Family:
    """σ² ← (1 − a) σ² + a · mean of σ² over the layer's tensor, a in [0, 1].

    Raises:
      ValueError: for another a.
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
    """One row per parameter tensor: name, size, root mean square of μ*, quantiles of σ*."""
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
