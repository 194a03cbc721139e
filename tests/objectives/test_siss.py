"""Importance sampling between retained and forget images."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from vdu_jax.diffusion import process
from vdu_jax.objectives import siss


def make(toy, **settings):
    return siss(toy.score_fn, toy.schedule, toy.posterior, 40, **settings)


def batch(toy, count=6):
    return {"forget": {"image": toy.images(0, count)}, "retain": {"image": toy.images(1, 9)}}


def terms_by_hand(toy, data, key, mixture):
    """Both weighted errors and their gradients, in float64 from the densities themselves."""
    noise_key, choice_key = jax.random.split(key)
    a, x = data["forget"]["image"], data["retain"]["image"][: len(data["forget"]["image"])]
    from_a = np.asarray(jax.random.bernoulli(choice_key, mixture, (len(a),)))
    assert 0 < from_a.sum() < len(a)
    drawn = toy.draw(noise_key, np.where(from_a[:, None, None, None], a, x))
    t = np.asarray(process.draw_noising(noise_key, toy.schedule, jnp.asarray(a)).t)
    level = toy.levels[t][:, None, None, None]
    results = []
    density = {}
    for name, image in (("x", x), ("a", a)):
        noise = (drawn.xt - np.sqrt(level) * image) / np.sqrt(1 - level)
        density[name] = np.exp(-0.5 * (noise**2).sum((1, 2, 3))), noise
    mixed = (1 - mixture) * density["x"][0] + mixture * density["a"][0]
    for name in "xa":
        weight = density[name][0] / mixed
        error, by_a, by_b = toy.error(toy.params, drawn.xt, density[name][1])
        gradient = [(weight * by_a).mean(), *(weight[:, None] * by_b).mean(0)]
        results.append(((weight * error).mean(), np.array(gradient)))
    return results


@pytest.mark.parametrize("mixture", [0.3, 0.5])
@pytest.mark.parametrize("share", [0.0, 0.1, 1.0])
def test_loss_and_gradient_by_hand(toy, mixture, share):
    data, key = batch(toy), jax.random.key(8)
    objective = make(toy, mixture=mixture, share=share)
    assert objective.sees == {"forget", "retain"}
    loss, metrics, grad = toy.run(objective, data, key)
    (keep, keep_grad), (forget, forget_grad) = terms_by_hand(toy, data, key, mixture)
    scale = share * np.linalg.norm(keep_grad) / np.linalg.norm(forget_grad)
    assert float(metrics["retain_error"]) == pytest.approx(keep, rel=1e-2)
    assert loss == pytest.approx(keep - scale * forget, rel=1e-2, abs=1e-3)
    found = np.array([float(grad["a"]), *np.asarray(grad["b"])])
    np.testing.assert_allclose(found, keep_grad - scale * forget_grad, rtol=1e-2, atol=2e-3)


def test_far_images_have_a_weight_of_0_and_not_nan(toy):
    data = batch(toy)
    data["forget"]["image"] = 100 * data["forget"]["image"]
    loss, metrics, grad = toy.run(make(toy), data, jax.random.key(8))
    assert np.isfinite(loss) and all(np.isfinite(leaf).all() for leaf in jax.tree.leaves(grad))


def test_fewer_retained_than_forget_images(toy):
    data = batch(toy, count=20)
    loss, _, _ = toy.run(make(toy), data, jax.random.key(8))
    assert np.isfinite(loss)


@pytest.mark.parametrize("wrong", [{"mixture": 0.0}, {"mixture": 1.0}, {"share": -0.1}])
def test_settings_out_of_range_raise(toy, wrong):
    with pytest.raises(ValueError, match=next(iter(wrong))):
        make(toy, **wrong)
