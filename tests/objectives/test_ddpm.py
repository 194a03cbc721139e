"""The pretraining loss."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from vdu_jax.objectives import ddpm
from vdu_jax.objectives.ddpm import DDPMNoise


@pytest.mark.parametrize("weighting", ["simple", "exact"])
def test_loss_and_gradient_by_hand(toy, weighting):
    x0, noising = toy.images(0, 6), toy.noising(4, 6)
    objective = ddpm(toy.score_fn, toy.predicts, weighting=weighting)
    noise = DDPMNoise(noising, None, None)
    loss, metrics, grad = toy.run(objective, {"retain": {"image": x0}}, noise)
    draw = toy.noised(noising, x0, weighting)
    error, by_a, by_b = toy.error(toy.params, draw.xt, draw.eps)
    assert loss == pytest.approx((draw.weights * error).mean(), rel=1e-4)
    assert float(metrics["error"]) == pytest.approx(error.mean(), rel=1e-5)
    assert float(grad["a"]) == pytest.approx((draw.weights * by_a).mean(), rel=1e-4)
    np.testing.assert_allclose(grad["b"], (draw.weights[:, None] * by_b).mean(0), rtol=1e-4)


def test_it_sees_retain_alone_and_needs_no_state(toy):
    objective = ddpm(toy.score_fn, toy.predicts)
    assert objective.sees == {"retain"}
    assert objective.init(toy.params, {}, jax.random.key(0)) == ()
    noise, other = DDPMNoise(toy.noising(0, 2), None, None), {"image": toy.images(0, 2)}
    with pytest.raises(KeyError, match="retain"):
        objective.loss(toy.params, (), {"forget": other}, noise)


def test_it_sees_another_kind_if_told_so(toy):
    batch, key = {"image": toy.images(0, 2)}, jax.random.key(0)
    objective = ddpm(toy.score_fn, toy.predicts, kind="forget")
    assert objective.sees == {"forget"}
    noise = objective.draw(key, {"forget": batch})
    loss, _ = objective.loss(toy.params, (), {"forget": batch}, noise)
    same, _ = ddpm(toy.score_fn, toy.predicts).loss(toy.params, (), {"retain": batch}, noise)
    assert loss == same


@pytest.mark.parametrize("dropout", [False, True])
def test_each_image_has_a_dropout_key_of_its_own_if_asked_for(toy, dropout):
    seen = []

    def score_fn(params, xt, t, cond=None, *, dropout_key=None):
        seen.append(dropout_key)
        return params["a"] * xt

    objective, batch = ddpm(score_fn, toy.predicts, dropout=dropout), {"image": toy.images(0, 3)}
    noise = objective.draw(jax.random.key(0), {"retain": batch})
    objective.loss(toy.params, (), {"retain": batch}, noise)
    if dropout:
        assert len(np.unique(jax.random.key_data(seen[0]), axis=0)) == 3
    else:
        assert seen == [None]


@pytest.mark.parametrize(("share", "expected"), [(0.0, 1.0), (1.0, -3.0)])
def test_a_condition_may_be_dropped(toy, share, expected):
    seen = []

    def score_fn(params, xt, t, cond=None, *, dropout_key=None):
        seen.append(np.asarray(cond))
        return params["a"] * xt

    cond, negative = np.full((5, 2), 1.0), np.full((5, 2), -3.0)
    batch = {"image": toy.images(0, 5), "cond": cond, "negative": negative}
    objective = ddpm(score_fn, toy.predicts, drop_condition=share)
    noise = objective.draw(jax.random.key(0), {"retain": batch})
    objective.loss(toy.params, (), {"retain": batch}, noise)
    np.testing.assert_array_equal(seen[0], np.full((5, 2), expected))


def test_unknown_weighting_raises(toy):
    with pytest.raises(ValueError, match="unknown weighting"):
        ddpm(toy.score_fn, toy.predicts, weighting="p2")


def test_gradient_descent_reaches_the_optimal_linear_predictor(toy):
    """For white data the best a x_t + b is known: a = E[σ_t] / E[S_t²], b = 0."""
    x0 = np.random.default_rng(0).normal(size=(256, 4, 3, 2)).astype(np.float32) * 0.6
    objective, batch = ddpm(toy.score_fn, toy.predicts), {"retain": {"image": x0}}
    grad_fn = jax.grad(lambda p, k: objective.loss(p, (), batch, objective.draw(k, batch))[0])

    @jax.jit
    def fit(params, keys):
        def step(p, key):
            p = jax.tree.map(lambda p, g: p - 0.1 * g, p, grad_fn(p, key))
            return p, p

        path = jax.lax.scan(step, params, keys)[1]
        return jax.tree.map(lambda p: p[100:].mean(0), path)

    fitted = fit(toy.start, jax.random.split(jax.random.key(0), 300))
    levels = toy.levels
    best = np.sqrt(1 - levels).mean() / (levels * 0.36 + 1 - levels).mean()
    assert float(fitted["a"]) == pytest.approx(best, rel=0.02)
    np.testing.assert_allclose(fitted["b"], 0, atol=0.03)
    assert jnp.shape(fitted["b"]) == (2,)
