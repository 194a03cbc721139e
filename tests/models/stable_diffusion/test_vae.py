"""The autoencoder. Its numbers are compared with PyTorch's in tests/parity."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from vdu_jax.models.stable_diffusion import vae

NET = vae.AutoencoderKL(
    channels=1, latent_channels=2, block_out_channels=(4, 8), layers_per_block=1, num_groups=2
)


@pytest.fixture(scope="module")
def params():
    return jax.jit(lambda key: vae.init_params(NET, key))(jax.random.key(0))


def test_latents_are_smaller_by_a_factor_of_two_for_each_further_level(params):
    images = jnp.zeros((3, 8, 12, 1))
    found = NET.apply({"params": params}, images, method="encode")
    assert found.mean.shape == found.log_variance.shape == (3, 4, 6, 2)
    assert NET.apply({"params": params}, found.mean, method="decode").shape == images.shape


def test_log_variances_are_bounded(params):
    """Whatever the last layer says, so that a draw is finite."""
    for value, bound in ((1e6, 20.0), (-1e6, -30.0)):
        extreme = params | {"quant_conv": jax.tree.map(jnp.zeros_like, params["quant_conv"])}
        extreme["quant_conv"]["bias"] = jnp.full((4,), value)
        found = NET.apply({"params": extreme}, jnp.zeros((1, 4, 4, 1)), method="encode")
        np.testing.assert_array_equal(found.log_variance, bound)
        np.testing.assert_array_equal(found.mean, value)


def test_draws_have_the_mean_and_the_variance():
    shape = (20_000, 1, 1, 1)
    latents = vae.Latents(jnp.full(shape, 2.0), jnp.full(shape, np.log(9.0)))
    drawn = np.asarray(latents.sample(jax.random.key(1)))
    assert drawn.mean() == pytest.approx(2.0, abs=4 * 3 / np.sqrt(len(drawn)))
    assert drawn.var() == pytest.approx(9.0, rel=4 * np.sqrt(2 / len(drawn)))
    np.testing.assert_array_equal(drawn, latents.sample(jax.random.key(1)))
