"""The low-rank plus diagonal posterior of SWAG (Maddox et al. 2019, arXiv 1902.02476)."""

from collections.abc import Iterable
from typing import NamedTuple

import jax
import jax.numpy as jnp

from vdu_jax.posterior.gaussian import energy
from vdu_jax.posterior.streaming import finish, start, update
from vdu_jax.types import Params


class LowRankPosterior(NamedTuple):
    """The SWAG posterior N(μ*, Σ) with Σ = ½ diag(σ²) + D Dᵀ / (2 (K − 1)).

    Attributes:
      mean: μ*, the parameters' structure.
      variance: σ² ≥ 0, the same structure. As `low_rank` computes it, it is the diagonal of Σ.
      deviations: D, the same structure with a leading axis K: the checkpoints minus their mean.
      count: () int32, K, the number of checkpoints.
    """

    mean: Params
    variance: Params
    deviations: Params
    count: jax.Array  # type: ignore[assignment]  # hides tuple.count


def low_rank(checkpoints: Iterable[Params]) -> LowRankPosterior:
    """Make a SWAG posterior from checkpoints (Maddox et al. 2019, arXiv 1902.02476).

    The source divides the variance by K and takes deviations from the running mean. Here the
    divisor is K − 1 and the mean is the final one, so that the diagonal of Σ is the variance of
    `GaussianPosterior`.

    Args:
      checkpoints: K ≥ 2 parameter trees, read once and all kept in memory.

    Returns:
      The posterior.

    Raises:
      ValueError: with fewer than 2 checkpoints, or if structure or shapes differ.
    """
    kept, moments = [], None
    for params in checkpoints:
        moments = start(params) if moments is None else update(moments, params)
        kept.append(params)
    if moments is None:
        raise ValueError("no checkpoints; a variance over checkpoints needs at least 2")
    mean, variance, count = finish(moments)
    deviations = jax.tree.map(
        lambda m, *thetas: jnp.stack([t.astype(jnp.float32) - m for t in thetas]), mean, *kept
    )
    return LowRankPosterior(mean, variance, deviations, count)


@energy.register(LowRankPosterior)
def _(posterior: LowRankPosterior, params: Params) -> jax.Array:
    """Compute ½ (θ − μ*)ᵀ Σ⁻¹ (θ − μ*) from a K × K system.

    With Σ = A + B Bᵀ and δ = θ − μ* the energy is min_z ½ (δ − B z)ᵀ A⁻¹ (δ − B z) + ½ zᵀ z. The
    minimum is at Woodbury's z = (I + Bᵀ A⁻¹ B)⁻¹ Bᵀ A⁻¹ δ. A sum of squares has no cancellation,
    whereas δᵀ A⁻¹ δ − zᵀ Bᵀ A⁻¹ δ loses all float32 digits near the span of B.
    """
    gaps = jax.tree.map(lambda p, m: (p - m).ravel(), params, posterior.mean)
    gaps, variances = jax.tree.leaves(gaps), jax.tree.leaves(posterior.variance)
    deviations = jax.tree.leaves(posterior.deviations)
    rank = len(deviations[0])
    factors = [d.reshape(rank, -1) / (2 * (rank - 1)) ** 0.5 for d in deviations]  # Bᵀ (K, n)
    precisions = [2 / v.ravel() for v in variances]  # A⁻¹ (n,)
    with jax.default_matmul_precision("highest"):
        gram = sum((b * w) @ b.T for b, w in zip(factors, precisions, strict=True))
        pull = sum(b @ (w * g) for b, w, g in zip(factors, precisions, gaps, strict=True))
        values, vectors = jnp.linalg.eigh(gram)
        # Deviations sum to 0, so one eigenvalue is rounding error and must not be a divisor.
        real = values > rank * jnp.finfo(values.dtype).eps * values.max()
        z = vectors @ jnp.where(real, (vectors.T @ pull) / (1 + values), 0)
        rests = [g - z @ b for b, g in zip(factors, gaps, strict=True)]
    squares = sum(jnp.sum(w * r * r) for w, r in zip(precisions, rests, strict=True))
    return (squares + z @ z) / 2
