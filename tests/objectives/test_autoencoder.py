"""The autoencoder's loss."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from vdu_jax.models.stable_diffusion.vae import Latents
from vdu_jax.objectives import autoencoder


def encode(params, images):
    return Latents(params["a"] * images[..., :1], jnp.full((*images.shape[:3], 1), params["s"]))


def decode(params, latents):
    return params["b"] * jnp.concatenate([latents, latents], -1)


SHAPE = (4, 3, 1)
PARAMS = {"a": jnp.float32(0.5), "b": jnp.float32(1.5), "s": jnp.float32(-3.0)}


def test_loss_by_hand(toy):
    images, noise = toy.images(0, 6), toy.noising(1, 6).eps[..., :1]
    objective = autoencoder(encode, decode, SHAPE, kl_weight=0.1)
    loss, metrics = objective.loss(PARAMS, (), {"retain": {"image": images}}, noise)
    mean = 0.5 * images[..., :1].astype(np.float64)
    again = 1.5 * (mean + np.exp(-1.5) * noise)
    error = np.square(again - images).mean()
    kl = (0.5 * (mean**2 + np.exp(-3.0) - 1 + 3.0)).sum((1, 2, 3)).mean()
    assert float(metrics["error"]) == pytest.approx(error, rel=1e-5)
    assert float(metrics["kl"]) == pytest.approx(kl, rel=1e-5)
    assert float(loss) == pytest.approx(error + 0.1 * kl, rel=1e-5)


def test_it_draws_one_normal_number_for_each_of_a_batchs_latents(toy):
    objective, key = autoencoder(encode, decode, SHAPE), jax.random.key(1)
    noise = objective.draw(key, {"retain": {"image": toy.images(0, 6)}})
    np.testing.assert_array_equal(noise, jax.random.normal(key, (6, *SHAPE)))


def test_a_negative_weight_is_refused():
    with pytest.raises(ValueError, match="kl_weight"):
        autoencoder(encode, decode, SHAPE, kl_weight=-1.0)
