"""The forget data's noise becomes uniform, with a weight from the gradients' alignment."""

import jax
import numpy as np
import pytest

from vdu_jax.objectives import erase_diff
from vdu_jax.objectives.erase_diff import multiplier


@pytest.mark.parametrize(
    ("retain", "forget", "strength", "expected"),
    [
        ([1.0, 0.0], [0.0, 2.0], 0.5, 0.5),  # orthogonal: η
        ([0.0, -4.0], [0.0, 2.0], 0.5, 2.5),  # opposed: more than cancels the retain step
        ([0.0, 4.0], [0.0, 2.0], 0.5, 0.0),  # aligned: nothing to add
    ],
)
def test_the_multiplier_is_the_least_that_lowers_the_forget_loss(
    retain, forget, strength, expected
):
    f, g = np.float32(retain), np.float32(forget)
    weight = float(multiplier(f, g, strength))
    assert weight == pytest.approx(expected)
    # The step −(f + λ g) lowers g's loss at least at the rate η‖g‖².
    assert (f + weight * g) @ g >= strength * (g @ g) - 1e-5


@pytest.mark.parametrize("strength", [0.1, 2.0])
def test_loss_and_gradient_by_hand(toy, strength):
    objective = erase_diff(toy.score_fn, toy.schedule, toy.posterior, 40, strength=strength)
    assert objective.sees == {"forget", "retain"}
    data = {"forget": {"image": toy.images(0, 6)}, "retain": {"image": toy.images(1, 9)}}
    key = jax.random.key(4)
    loss, metrics, grad = toy.run(objective, data, key)
    retain_key, forget_key, noise_key = jax.random.split(key, 3)
    kept = toy.draw(retain_key, data["retain"]["image"])
    drawn = toy.draw(forget_key, data["forget"]["image"])
    target = np.asarray(jax.random.uniform(noise_key, (6, 4, 3, 2)), np.float64)
    assert target.min() >= 0 and target.max() <= 1
    f = toy.error(toy.params, kept.xt, kept.eps)
    g = toy.error(toy.params, drawn.xt, target)
    gradients = [np.array([a.mean(), *b.mean(0)]) for _, a, b in (f, g)]
    weight = max(0, (strength * gradients[1] @ gradients[1] - gradients[0] @ gradients[1])
                 / (gradients[1] @ gradients[1]))  # fmt: skip
    assert float(metrics["multiplier"]) == pytest.approx(weight, rel=1e-3, abs=1e-4)
    assert loss == pytest.approx(f[0].mean() + weight * g[0].mean(), rel=1e-3)
    found = np.array([float(grad["a"]), *np.asarray(grad["b"])])
    np.testing.assert_allclose(found, gradients[0] + weight * gradients[1], rtol=2e-3, atol=1e-4)


def test_strength_must_be_positive(toy):
    with pytest.raises(ValueError, match="strength"):
        erase_diff(toy.score_fn, toy.schedule, toy.posterior, 40, strength=0.0)
