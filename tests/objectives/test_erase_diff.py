"""The forget data's noise becomes uniform, with a weight from the gradients' alignment."""

import jax
import numpy as np
import pytest

from vdu_jax.objectives import erase_diff
from vdu_jax.objectives.erase_diff import EraseDiffNoise, multiplier


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
    objective = erase_diff(toy.score_fn, toy.predicts, toy.posterior, 40, strength=strength)
    assert objective.sees == {"forget", "retain"}
    data = {"forget": {"image": toy.images(0, 6)}, "retain": {"image": toy.images(1, 9)}}
    target = np.abs(toy.images(2, 6))
    noise = EraseDiffNoise(toy.noising(4, 9), toy.noising(5, 6), target)
    loss, metrics, grad = toy.run(objective, data, noise)
    kept = toy.noised(noise.retain, data["retain"]["image"])
    drawn = toy.noised(noise.forget, data["forget"]["image"])
    f = toy.error(toy.params, kept.xt, kept.eps)
    g = toy.error(toy.params, drawn.xt, target)
    gradients = [np.array([a.mean(), *b.mean(0)]) for _, a, b in (f, g)]
    weight = max(0, (strength * gradients[1] @ gradients[1] - gradients[0] @ gradients[1])
                 / (gradients[1] @ gradients[1]))  # fmt: skip
    assert float(metrics["multiplier"]) == pytest.approx(weight, rel=1e-3, abs=1e-4)
    assert loss == pytest.approx(f[0].mean() + weight * g[0].mean(), rel=1e-3)
    found = np.array([float(grad["a"]), *np.asarray(grad["b"])])
    np.testing.assert_allclose(found, gradients[0] + weight * gradients[1], rtol=2e-3, atol=1e-4)


def test_the_target_is_uniform_in_0_1(toy):
    objective = erase_diff(toy.score_fn, toy.predicts, toy.posterior, 40)
    data = {"forget": {"image": toy.images(0, 50)}, "retain": {"image": toy.images(1, 9)}}
    target = np.asarray(objective.draw(jax.random.key(4), data).target)
    assert target.shape == (50, 4, 3, 2)
    assert 0 <= target.min() < 0.01 and 0.99 < target.max() <= 1


def test_strength_must_be_positive(toy):
    with pytest.raises(ValueError, match="strength"):
        erase_diff(toy.score_fn, toy.predicts, toy.posterior, 40, strength=0.0)
