"""The loss of fine-tuning; that it starts afresh is the stage's part."""

import jax
import numpy as np

from vdu_jax.objectives import fine_tune, retrain


def test_it_is_fine_tuning_and_sees_only_what_is_retained(toy):
    arguments = (toy.score_fn, toy.predicts, toy.posterior, 40)
    batch = {"retain": {"image": toy.images(0, 6)}}
    noise = fine_tune(*arguments).draw(jax.random.key(3), batch)
    assert retrain(*arguments).sees == {"retain"}
    loss, _, grad = toy.run(retrain(*arguments), batch, noise)
    same, _, same_grad = toy.run(fine_tune(*arguments), batch, noise)
    assert loss == same > 0
    np.testing.assert_array_equal(grad["b"], same_grad["b"])
