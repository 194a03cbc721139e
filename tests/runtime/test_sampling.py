import jax.numpy as jnp
import numpy as np

from vdu_jax.diffusion import samplers, schedule
from vdu_jax.runtime import sampling


def test_images_do_not_depend_on_the_batch_size_or_the_count():
    noise = schedule.make_schedule("linear", 20)
    plan = samplers.make_plan(noise, "ddpm", 5)

    def score_fn(params, xt, t, cond=None):
        return params["w"] * xt

    params = {"w": jnp.float32(0.5)}

    def draw(params, keys):
        return samplers.sample(score_fn, params, plan, keys, (4, 4, 1))

    def images(batch_size, count):
        sampler = sampling.make_sampler(draw, (4, 4, 1), batch_size=batch_size)
        return sampler(params, 7, count, "test")

    whole = images(16, 11)
    assert whole.shape == (11, 4, 4, 1) and whole.dtype == np.uint8
    np.testing.assert_array_equal(whole, images(4, 11))
    np.testing.assert_array_equal(whole[:3], images(16, 3))
    assert len(np.unique(whole.reshape(11, -1), axis=0)) == 11


def test_what_is_given_reaches_its_image():
    def draw(params, keys, levels, shifts):
        return (params * levels + shifts)[:, None, None, None] * jnp.ones((1, 2, 2, 1))

    levels, shifts = np.linspace(-1, 1, 7, dtype=np.float32), np.full(7, 0.1, np.float32)
    for batch_size in (3, 16):
        sampler = sampling.make_sampler(draw, (2, 2, 1), batch_size=batch_size)
        images = sampler(jnp.float32(0.5), 0, 7, "test", levels, shifts)
        expected = np.rint((0.5 * levels + 0.1 + 1) * 127.5)
        np.testing.assert_array_equal(images[:, 1, 0, 0], expected)
