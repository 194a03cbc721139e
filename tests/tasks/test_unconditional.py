"""Nothing is asked for, and nothing is told."""

import numpy as np

from vdu_jax import data, tasks


def test_everything_stays_as_it_is():
    task = tasks.Unconditional()
    source = data.ArraySource(np.zeros((3, 2, 2, 1), np.uint8))
    assert task.source(source) is source
    assert task.asked(4) == task.told(np.arange(4)) == ()
    assert task.cond() is None and task.drawing_cond() is None
    assert task.asked_to_forget(4, (0,)) is None
    assert task.drop == 0 and task.inputs == {}

    def predict():
        return None

    assert task.drawing(predict) is predict
