"""Nothing is asked for, and nothing is told."""

import numpy as np

from vdu_jax import data
from vdu_jax.tasks.unconditional import Unconditional


def test_everything_stays_as_it_is():
    condition = Unconditional()
    source = data.ArraySource(np.zeros((3, 2, 2, 1), np.uint8))
    assert condition.source(source) is source
    assert condition.asked(4) == condition.told(np.arange(4)) == ()
    assert condition.cond() is None and condition.drawing_cond() is None
    assert condition.asked_to_forget(4, (0,)) is None
    assert condition.drop == 0 and condition.inputs == {}

    def predict():
        return None

    assert condition.drawing(predict) is predict
