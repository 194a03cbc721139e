"""Every method takes its errors in the units of what the network predicts."""

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
