"""The diagonal Fisher of the diffusion error, and the Laplace posterior of a single checkpoint."""

from collections.abc import Iterable

import chex
import jax
import jax.numpy as jnp

from vdu_jax.diffusion import process
from vdu_jax.diffusion.parameterization import Parameterization, simple_error
from vdu_jax.posterior.gaussian import GaussianPosterior
from vdu_jax.types import Params, Part, ScoreFn


def diagonal_fisher(
    score_fn: ScoreFn,
    parameterization: Parameterization,
    params: Params,
    batches: Iterable[Part],
    key: jax.Array,
) -> Params:
    """Diagonal Fisher F_i = E (∂e/∂θ_i)² over single images, each at one draw of t and ε.

    e is `parameterization.simple_error`. Memory holds one gradient at a time, whatever the batch
    size.

    Args:
      score_fn: the network.
      parameterization: what the network predicts, with its noise schedule.
      params: θ, the parameters at which gradients are taken.
      batches: batches with "image" (B, H, W, C) in [-1, 1] and, for a conditional network, "cond"
        (B, …).
      key: the random key; batch n is noised with fold_in(key, n).

    Returns:
      F, float32, the parameters' structure.

    Raises:
      ValueError: if there is no image.
    """

    @jax.jit
    def squares(params: Params, part: Part, key: jax.Array) -> Params:
        noising = process.draw_noising(key, parameterization.schedule, part["image"])

        def one(total: Params, example: tuple[Part, process.Noising]) -> tuple[Params, None]:
            single, drawn = jax.tree.map(lambda a: a[None], example)
            bound, x0 = process.bind_condition(score_fn, single), single["image"]
            gradient = jax.grad(
                lambda p: simple_error(bound, p, parameterization, x0, drawn).mean()
            )(params)
            return jax.tree.map(lambda t, g: t + jnp.square(g), total, gradient), None

        zeros = jax.tree.map(lambda p: jnp.zeros(p.shape, jnp.float32), params)
        return jax.lax.scan(one, zeros, (part, noising))[0]

    total, count = None, 0
    for index, part in enumerate(batches):
        more = squares(params, part, jax.random.fold_in(key, index))
        total = more if total is None else jax.tree.map(jnp.add, total, more)
        count += len(part["image"])
    if not count:
        raise ValueError("a Fisher needs at least one image")
    return jax.tree.map(lambda t: t / count, total)


def laplace(
    params: Params, fisher: Params, num_images: int, prior_precision: float
) -> GaussianPosterior:
    """Laplace posterior of a single checkpoint.

    N(θ*, σ²) with σ²_i = 1 / (N F_i + prior precision). The error e stands for −log p(x0 | θ), as
    in the VDU loss with w_t = 1.

    Args:
      params: θ*, the checkpoint.
      fisher: F, from `diagonal_fisher`, the same structure.
      num_images: N ≥ 1, the number of training images.
      prior_precision: precision of the prior, > 0; bounds the variance of parameters with F_i = 0.

    Returns:
      The posterior, with `count` 1.

    Raises:
      ValueError: for a setting out of range, or if shapes differ.
    """
    if num_images < 1 or not prior_precision > 0:
        raise ValueError(
            f"num_images = {num_images} must be ≥ 1, "
            f"prior_precision = {prior_precision} must be > 0"
        )
    chex.assert_trees_all_equal_shapes(params, fisher, exception_type=ValueError)
    mean = jax.tree.map(lambda p: jnp.asarray(p, jnp.float32), params)
    variance = jax.tree.map(lambda f: 1 / (num_images * f + prior_precision), fisher)
    return GaussianPosterior(mean, variance, jnp.int32(1))
