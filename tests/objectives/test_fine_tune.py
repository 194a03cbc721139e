"""Training as before, on the retained data alone."""

import jax
import numpy as np

from vdu_jax.objectives import ddpm, fine_tune


def test_it_is_training_and_sees_only_what_is_retained(toy):
    objective = fine_tune(toy.score_fn, toy.predicts, toy.posterior, 40)
    assert objective.sees == {"retain"}
    batch = {"retain": {"image": toy.images(0, 6)}}
    noise = objective.draw(jax.random.key(3), batch)
    loss, metrics, grad = toy.run(objective, batch, noise)
    same, same_metrics, same_grad = toy.run(ddpm(toy.score_fn, toy.predicts), batch, noise)
    assert loss == same and metrics == same_metrics and loss > 0
    np.testing.assert_array_equal(grad["b"], same_grad["b"])
