"""What holds for every method."""

import itertools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from vdu_jax import objectives
from vdu_jax.diffusion import process
from vdu_jax.objectives.retained_score import time_density
from vdu_jax.types import KINDS, PREREQUISITES

# Without terms that do not depend on an error, and without a bound on one.
SETTINGS = {
    "vdu": {"gamma": 0.0},
    "vdu_extended": {"gamma": 0.0, "cap": 1e9},
    "demixing": {"forget_share": 0.3},
    "retained_score": {"forget_share": 0.3},
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
            score_fn, toy.predicts, toy.posterior, 40, **SETTINGS.get(name, {})
        )
        batches = {k: itertools.repeat(v) for k, v in batch.items() if k in objective.sees}
        state, noise = objective.init(toy.start, batches, key), objective.draw(key, batch)
        loss = objective.loss
        return objective.sees, jax.grad(lambda p: loss(p, state, batch, noise)[0])(toy.params)["a"]

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
        predicts = toy.predicts._replace(simple_weights=weights)
        objective = objectives.FACTORIES[name](
            toy.score_fn, predicts, toy.posterior, 40, **SETTINGS.get(name, {})
        )
        batches = {k: itertools.repeat(v) for k, v in images.items() if k in objective.sees}
        state, noise = objective.init(toy.start, batches, key), objective.draw(key, images)
        return jax.grad(lambda p: objective.loss(p, state, images, noise)[0])(toy.params)

    one, other = gradient(1e-4), gradient(2e-4)
    assert float(np.abs(one["a"])) > 0
    for leaf in "ab":
        np.testing.assert_allclose(other[leaf], 2 * np.asarray(one[leaf]), rtol=2e-3)


SIZES = {"forget": 4, "replay": 6, "retain": 8}


def data(toy):
    return {kind: {"image": toy.images(i, n)} for i, (kind, n) in enumerate(SIZES.items())}


def made(toy, name, **settings):
    settings = SETTINGS.get(name, {}) | settings
    if name == "ddpm":
        return objectives.ddpm(toy.score_fn, toy.predicts, **settings)
    factory = objectives.FACTORIES[name]
    return factory(toy.score_fn, toy.predicts, toy.posterior, 40, **settings)


@pytest.mark.parametrize("name", sorted(objectives.FACTORIES))
def test_all_that_is_random_in_a_step_has_a_row_for_each_image(toy, name):
    objective = made(toy, name)
    assert objective.sees <= KINDS and objective.needs <= PREREQUISITES
    batch = {kind: part for kind, part in data(toy).items() if kind in objective.sees}
    noise = objective.draw(jax.random.key(1), batch)
    rows = {leaf.shape[0] for leaf in jax.tree.leaves(noise)}
    assert rows and rows <= {SIZES[kind] for kind in objective.sees}
    other = objective.draw(jax.random.key(2), batch)
    for one, two in zip(jax.tree.leaves(noise), jax.tree.leaves(other), strict=True):
        assert np.any(np.asarray(one) != np.asarray(two))


def noised(key, toy, kind, **settings):
    return process.draw_noising(key, toy.schedule, data(toy)[kind]["image"], **settings)


def bernoulli(key, share, kind):
    return jax.random.bernoulli(key, share, (SIZES[kind],))


def uniform(key, **bounds):
    return jax.random.uniform(key, (SIZES["forget"], 4, 3, 2), **bounds)


def partners(toy, key):
    chosen = jax.random.randint(key, (SIZES["forget"],), 0, SIZES["replay"])
    return data(toy)["replay"]["image"][np.asarray(chosen)]


# Of a key and its halves or thirds, what a step has always drawn from them.
DRAWS = {
    "ddpm": lambda toy, key, two, three: (noised(two[0], toy, "retain"), None, None),
    "vdu": lambda toy, key, two, three: noised(key, toy, "forget"),
    "gradient_ascent": lambda toy, key, two, three: noised(key, toy, "forget"),
    "esd": lambda toy, key, two, three: noised(key, toy, "forget"),
    "vdu_extended": lambda toy, key, two, three: (
        noised(two[0], toy, "forget"), noised(two[1], toy, "replay"), None, None
    ),
    "demixing": lambda toy, key, two, three: (
        noised(two[0], toy, "forget", stratified=True),
        noised(two[1], toy, "replay", stratified=True),
    ),
    "retained_score": lambda toy, key, two, three: tuple(
        noised(two[i], toy, kind, stratified=True, density=time_density(toy.schedule.num_steps))
        for i, kind in enumerate(("forget", "replay"))
    ),
    "erase_diff": lambda toy, key, two, three: (
        noised(three[0], toy, "retain"), noised(three[1], toy, "forget"), uniform(three[2])
    ),
    "siss": lambda toy, key, two, three: (
        noised(two[0], toy, "forget"), bernoulli(two[1], 0.5, "forget")
    ),
    "salun": lambda toy, key, two, three: (
        noised(three[0], toy, "forget"), noised(three[1], toy, "replay"), partners(toy, three[2])
    ),
    "selective_amnesia": lambda toy, key, two, three: (
        noised(three[0], toy, "forget"),
        noised(three[1], toy, "replay"),
        uniform(three[2], minval=-1.0),
    ),
}  # fmt: skip
DRAWS["fine_tune"] = DRAWS["retrain"] = DRAWS["ddpm"]


@pytest.mark.parametrize("name", ["ddpm", *sorted(objectives.FACTORIES)])
def test_a_key_draws_what_it_always_has(toy, name):
    """The published figures hang on it."""
    key = jax.random.key(5)
    found = made(toy, name).draw(key, data(toy))
    expected = DRAWS[name](toy, key, jax.random.split(key), jax.random.split(key, 3))
    assert len(jax.tree.leaves(found)) == len(jax.tree.leaves(expected))
    for one, two in zip(jax.tree.leaves(found), jax.tree.leaves(expected), strict=True):
        np.testing.assert_array_equal(one, two)


def test_what_dropped_conditions_and_dropout_take_of_a_key(toy):
    noise_key, rest = jax.random.split(jax.random.key(5))
    first, second = jax.random.split(noise_key)
    objective = made(toy, "ddpm", drop_condition=0.5, dropout=True)
    found = objective.draw(jax.random.key(5), data(toy))
    np.testing.assert_array_equal(found.noising.eps, noised(first, toy, "retain").eps)
    np.testing.assert_array_equal(found.dropped, bernoulli(second, 0.5, "retain"))
    assert (found.dropout_key == jax.random.split(rest, SIZES["retain"])).all()

    forget_key, replay_key = jax.random.split(jax.random.key(5))
    first, second = jax.random.split(replay_key)
    found = made(toy, "vdu_extended", drop_condition=0.5).draw(jax.random.key(5), data(toy))
    np.testing.assert_array_equal(found.forget.eps, noised(forget_key, toy, "forget").eps)
    np.testing.assert_array_equal(found.replay.eps, noised(first, toy, "replay").eps)
    np.testing.assert_array_equal(found.dropped, bernoulli(second, 0.5, "replay"))
