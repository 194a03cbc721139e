"""Objectives on a part of the parameters."""

import itertools

import jax
import numpy as np
import pytest

from vdu_jax import objectives
from vdu_jax.models import subset
from vdu_jax.posterior import GaussianPosterior


def part_of(posterior, which):
    mean, variance = (subset.split(tree, which)[0] for tree in posterior[:2])
    return GaussianPosterior(mean, variance, posterior.count)


@pytest.mark.parametrize("name", ["vdu", "vdu_extended", "esd", "salun", "gradient_ascent"])
def test_the_gradient_of_a_part_is_that_part_of_the_gradient(toy, name):
    """At the start, where all of the rest is what it stays."""
    key = jax.random.key(1)
    settings = {
        "esd": {"teacher": "condition"},
        "salun": {"mask_batches": 1, "share": 1.0},
        "vdu": {"anchor": "pretrained"},
        "vdu_extended": {"stability_reduction": "sum"},
    }.get(name, {})

    def score_fn(params, xt, t, cond=None, *, dropout_key=None):
        return (params["a"] + 0.1 * cond.mean()) * xt + params["b"]

    cond = {"cond": np.ones((6, 2), np.float32), "negative": np.zeros((6, 2), np.float32)}
    batch = {
        kind: {"image": toy.images(i, 6), **cond} for i, kind in enumerate(("forget", "replay"))
    }

    def gradient(objective, start, params):
        some = {kind: batch[kind] for kind in objective.sees}
        batches = {kind: itertools.repeat(images) for kind, images in some.items()}
        state, noise = objective.init(start, batches, key), objective.draw(key, some)
        return state, jax.grad(lambda p: objective.loss(p, state, some, noise)[0])(params)

    def make(posterior):
        return lambda f: objectives.FACTORIES[name](f, toy.predicts, posterior, 40, **settings)

    _, expected = gradient(
        make(toy.posterior)(score_fn), toy.start, toy.params | {"b": toy.start["b"]}
    )
    (_, rest), (part, _) = subset.split(toy.start, "a"), subset.split(toy.params, "a")
    objective = objectives.on_part(make(part_of(toy.posterior, "a")), score_fn, rest)
    state, found = gradient(objective, subset.split(toy.start, "a")[0], part)
    assert set(found) == {"a"}
    np.testing.assert_allclose(found["a"], expected["a"], rtol=1e-5)
    assert abs(float(found["a"])) > 1e-3
    # The rest is held once: what the objective keeps of its own has no "b".
    assert state.rest is rest
    assert all(np.shape(leaf) == () for leaf in jax.tree.leaves(state.inner))


def test_the_rest_is_an_argument_of_the_compiled_step(toy):
    """Not a constant in it: another state gives another loss, and nothing is compiled again."""
    part, rest = subset.split(toy.params, "a")
    objective = objectives.on_part(lambda f: objectives.ddpm(f, toy.predicts), toy.score_fn, rest)
    compiled = jax.jit(objective.loss)
    batch, key = {"retain": {"image": toy.images(0, 6)}}, jax.random.key(0)
    state, noise = objective.init(part, {}, key), objective.draw(key, batch)
    other = state._replace(rest=jax.tree.map(lambda a: a + 1, rest))
    whole = objectives.ddpm(toy.score_fn, toy.predicts)
    for given in (state, other):
        loss, _ = compiled(part, given, batch, noise)
        expected, _ = whole.loss(subset.merge(part, given.rest), (), batch, noise)
        assert float(loss) == pytest.approx(float(expected), rel=1e-5)
    assert compiled._cache_size() == 1
