"""What drawing costs, against the U-Net's own operations."""

import jax
import jax.numpy as jnp
import pytest

from vdu_jax import tasks
from vdu_jax.runtime import operations


def test_each_step_asks_the_network_twice_and_latents_are_decoded(text_settings):
    """9 images of replay, and 10 at a snapshot, and as many of the original."""
    drawn = {}
    for steps in (2, 4):
        text_settings.sampler.steps = steps
        task = tasks.planned(text_settings)
        drawn[steps] = task.replay_flops() / 9
    shapes, time = task.batch_shapes(1), jax.ShapeDtypeStruct((1,), jnp.int32)
    one = operations.count(
        jax.jit(task.score_fn), task.param_shapes, shapes["image"], time, shapes["cond"]
    )
    assert drawn[4] - drawn[2] == pytest.approx(2 * 2 * one, rel=0.05)
    assert drawn[2] > 1.05 * 2 * 2 * one
    assert task.curve_flops(4) == pytest.approx(5 * 10 * drawn[4])
