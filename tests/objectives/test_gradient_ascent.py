"""The training loss of the forget data with its sign turned."""

import numpy as np
import pytest

from vdu_jax.objectives import gradient_ascent


def test_loss_and_gradient_by_hand(toy):
    objective = gradient_ascent(toy.score_fn, toy.predicts, toy.posterior, 40)
    assert objective.sees == {"forget"}
    x0, noising = toy.images(0, 6), toy.noising(3, 6)
    loss, metrics, grad = toy.run(objective, {"forget": {"image": x0}}, noising)
    draw = toy.noised(noising, x0)
    error, by_a, by_b = toy.error(toy.params, draw.xt, draw.eps)
    assert loss == pytest.approx(-error.mean(), rel=1e-4)
    assert float(metrics["forget_error"]) == pytest.approx(error.mean(), rel=1e-4)
    assert float(grad["a"]) == pytest.approx(-by_a.mean(), rel=1e-3)
    np.testing.assert_allclose(grad["b"], -by_b.mean(0), rtol=1e-3, atol=1e-5)
