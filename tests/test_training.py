"""A step by itself: its average, its noise, and that nothing of the shell is needed for it."""

import subprocess
import sys

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from mean_image import OBJECTIVE, START, draw

from vdu_jax import training


def test_ema_against_numpy():
    step = jax.jit(training.make_step(OBJECTIVE, optax.sgd(0.1), ema_decay=0.5))
    state = training.init_state(START, optax.sgd(0.1), 0.5)
    batch = {"retain": {"image": jnp.ones((4, 2, 2, 1))}}
    expected = 0.0
    for index in range(6):
        state, _ = step(state, (), batch, jax.random.key(index))
        decay = min(0.5, (1 + index) / (10 + index))
        expected = decay * expected + (1 - decay) * float(state.params["b"])
    assert float(state.ema["b"]) == pytest.approx(expected, rel=1e-5)


def test_a_step_is_its_noise_and_an_update_with_it():
    batch, key = {"retain": {"image": jnp.ones((4, 2, 2, 1))}}, jax.random.key(3)
    arguments = OBJECTIVE, optax.sgd(0.1)
    state = training.init_state(START, arguments[1])
    whole = training.make_step(*arguments)(state, (), batch, key)
    update = training.make_update(*arguments)
    jax.tree.map(np.testing.assert_array_equal, whole, update(state, (), batch, draw(key, batch)))
    other = update(state, (), batch, draw(jax.random.key(4), batch))
    assert float(other[1]["loss"]) != float(whole[1]["loss"])


def test_it_is_imported_without_orbax_and_the_loop():
    shell = ("orbax", "vdu_jax.runtime", "grain")
    code = f"import sys, vdu_jax.training; print([m for m in sys.modules if m.startswith({shell})])"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"
