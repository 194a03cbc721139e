"""Train the variational autoencoder between images and latents."""

from collections.abc import Callable

import jax
import jax.numpy as jnp

from vdu_jax.models.stable_diffusion.vae import Latents
from vdu_jax.types import Batch, Metrics, Objective, Params, no_state


def autoencoder(
    encode: Callable[[Params, jax.Array], Latents],
    decode: Callable[[Params, jax.Array], jax.Array],
    latent_shape: tuple[int, int, int],
    *,
    kl_weight: float = 1e-6,
) -> Objective:
    """Training loss of a weakly regularised autoencoder.

    L = E (x − x̂)² + β KL(q(z|x) ‖ N(0, I)), with x̂ decoded from a draw of q(z|x). The squared error
    is a mean over pixels, the KL divergence a sum over latents. Rombach et al. 2022 (arXiv
    2112.10752, sec. 3.1 and G) have a perceptual and an adversarial term, each with a network of
    its own, in place of the squared error.

    Args:
      encode: `(params, images (B, H, W, C)) -> vae.Latents`.
      decode: `(params, latents (B, h, w, channels)) -> images (B, H, W, C)`.
      latent_shape: (h, w, channels) of one image's latents.
      kl_weight: β ≥ 0; 1e-6 in the source.

    Raises:
      ValueError: for a negative weight.
    """
    if kl_weight < 0:
        raise ValueError(f"kl_weight must be ≥ 0, not {kl_weight}")

    def draw(key: jax.Array, batch: Batch) -> jax.Array:
        return jax.random.normal(key, (len(batch["retain"]["image"]), *latent_shape))

    def loss(
        params: Params, state: tuple, batch: Batch, noise: jax.Array
    ) -> tuple[jax.Array, Metrics]:
        del state
        images = batch["retain"]["image"]
        latents = encode(params, images)
        drawn = latents.mean + jnp.exp(0.5 * latents.log_variance) * noise
        error = jnp.square(decode(params, drawn) - images).mean()
        variance = jnp.exp(latents.log_variance)
        nats = 0.5 * (jnp.square(latents.mean) + variance - 1 - latents.log_variance)
        kl = jax.vmap(jnp.sum)(nats).mean()
        return error + kl_weight * kl, {"error": error, "kl": kl}

    return Objective(
        sees=frozenset({"retain"}),
        needs=frozenset(),
        init=no_state,
        draw=draw,
        loss=loss,
        is_mean=True,
        init_computes=False,
    )
