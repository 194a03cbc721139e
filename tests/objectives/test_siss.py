"""Importance sampling between retained and forget images."""

import jax
import numpy as np
import pytest

from vdu_jax.objectives import siss
from vdu_jax.objectives.siss import SISSNoise


def make(toy, **settings):
    return siss(toy.score_fn, toy.predicts, toy.posterior, 40, **settings)


def batch(toy, count=6):
    return {"forget": {"image": toy.images(0, count)}, "retain": {"image": toy.images(1, 9)}}


def noise(toy, count=6):
    return SISSNoise(toy.noising(8, count), np.arange(count) % 3 == 0)


def terms_by_hand(toy, data, noise, mixture):
    """Both weighted errors and their gradients, in float64 from the densities themselves."""
    a, x = data["forget"]["image"], data["retain"]["image"][: len(data["forget"]["image"])]
    drawn = toy.noised(noise.noising, np.where(noise.from_forget[:, None, None, None], a, x))
    level = toy.levels[noise.noising.t][:, None, None, None]
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
    data, given = batch(toy), noise(toy)
    objective = make(toy, mixture=mixture, share=share)
    assert objective.sees == {"forget", "retain"}
    loss, metrics, grad = toy.run(objective, data, given)
    (keep, keep_grad), (forget, forget_grad) = terms_by_hand(toy, data, given, mixture)
    scale = share * np.linalg.norm(keep_grad) / np.linalg.norm(forget_grad)
    assert float(metrics["retain_error"]) == pytest.approx(keep, rel=1e-2)
    assert loss == pytest.approx(keep - scale * forget, rel=1e-2, abs=1e-3)
    found = np.array([float(grad["a"]), *np.asarray(grad["b"])])
    np.testing.assert_allclose(found, keep_grad - scale * forget_grad, rtol=1e-2, atol=2e-3)


def test_far_images_have_a_weight_of_0_and_not_nan(toy):
    data = batch(toy)
    data["forget"]["image"] = 100 * data["forget"]["image"]
    loss, metrics, grad = toy.run(make(toy), data, noise(toy))
    assert np.isfinite(loss) and all(np.isfinite(leaf).all() for leaf in jax.tree.leaves(grad))


def test_fewer_retained_than_forget_images(toy):
    data = batch(toy, count=20)
    loss, _, _ = toy.run(make(toy), data, noise(toy, 20))
    assert np.isfinite(loss)


@pytest.mark.parametrize("mixture", [0.2, 0.7])
def test_the_share_of_images_noised_from_d_f(toy, mixture):
    drawn = make(toy, mixture=mixture).draw(jax.random.key(0), batch(toy, 2000))
    assert float(drawn.from_forget.mean()) == pytest.approx(mixture, abs=0.04)


@pytest.mark.parametrize("wrong", [{"mixture": 0.0}, {"mixture": 1.0}, {"share": -0.1}])
def test_settings_out_of_range_raise(toy, wrong):
    with pytest.raises(ValueError, match=next(iter(wrong))):
        make(toy, **wrong)
