"""What holds for every method."""

import itertools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from vdu_jax import objectives
from vdu_jax.types import KINDS

# Without terms that do not depend on an error, and without a bound on one.
SETTINGS = {
    "vdu": {"gamma": 0.0},
    "vdu_extended": {"gamma": 0.0, "cap": 1e9},
    "demixing": {"forget_share": 0.3},
    "selective_amnesia": {"fisher_weight": 0.0, "fisher_batches": 1},
    "salun": {"mask_batches": 1},
    "esd": {"teacher_steps": 1, "teacher_learning_rate": 1e-3},
}


@pytest.mark.parametrize("name", sorted(objectives.FACTORIES))
def test_the_condition_of_each_kind_of_data_reaches_the_network(toy, name):
    """And that of no other."""
    key, draw, kinds = jax.random.key(3), np.random.default_rng(5), sorted(KINDS)
    conds = {kind: draw.normal(size=(6, 2)).astype(np.float32) for kind in kinds}

    def score_fn(params, xt, t, cond=None, *, dropout_key=None):
        shift = jnp.tanh(params["a"] * cond).mean(-1)
        return params["a"] * xt + params["b"] + shift[:, None, None, None]

    def gradient(changes):
        batch = {
            kind: {"image": toy.images(i, 6), "cond": (conds | changes)[kind]}
            for i, kind in enumerate(kinds)
        }
        objective = objectives.FACTORIES[name](
            score_fn, toy.schedule, toy.posterior, 40, **SETTINGS.get(name, {})
        )
        batches = {k: itertools.repeat(v) for k, v in batch.items() if k in objective.sees}
        state = objective.init(toy.start, batches, key)
        loss = objective.loss
        return objective.sees, jax.grad(lambda p: loss(p, state, batch, key)[0])(toy.params)["a"]

    sees, with_conditions = gradient({})
    for kind in kinds:
        _, changed = gradient({kind: conds[kind] + 1})
        if kind in sees:
            assert abs(float(changed - with_conditions)) > 1e-6, kind
        else:
            assert float(changed) == float(with_conditions), kind


@pytest.mark.parametrize("name", sorted(objectives.FACTORIES))
def test_the_simple_weights_weigh_every_error(toy, name):
    """Of a size at which they, and no error of an image, count everywhere."""
    images = {kind: {"image": toy.images(i, 6)} for i, kind in enumerate(sorted(KINDS))}
    key = jax.random.key(3)

    def gradient(weight):
        weights = jnp.full(toy.schedule.num_steps, weight)
        schedule = toy.schedule._replace(simple_weights=weights)
        objective = objectives.FACTORIES[name](
            toy.score_fn, schedule, toy.posterior, 40, **SETTINGS.get(name, {})
        )
        batches = {k: itertools.repeat(v) for k, v in images.items() if k in objective.sees}
        state = objective.init(toy.start, batches, key)
        return jax.grad(lambda p: objective.loss(p, state, images, key)[0])(toy.params)

    one, other = gradient(1e-4), gradient(2e-4)
    assert float(np.abs(one["a"])) > 0
    for leaf in "ab":
        np.testing.assert_allclose(other[leaf], 2 * np.asarray(one[leaf]), rtol=2e-3)
