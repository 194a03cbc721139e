"""Means with their standard errors, and curves at equal forgetting."""

import numpy as np
import pytest

from vdu_jax.metrics.tradeoff import spread, u_fid_at


def test_spread_is_the_mean_and_its_standard_error():
    values = [3.0, 5.0, 10.0, 2.0]
    mean, error, count = spread(values)
    assert (mean, count) == (5.0, 4)
    assert error == pytest.approx(np.std(values, ddof=1) / 2)
    assert spread([7.0]) == (7.0, None, 1)
    with pytest.raises(ValueError):
        spread([])


def test_u_fid_where_the_curve_first_reaches_a_pul():
    curve = [(0.0, 4.0), (50.0, 1.0), (40.0, 9.0), (90.0, 100.0), (100.0, 2.0)]
    assert u_fid_at(curve, 50) == 1.0
    assert u_fid_at(curve, 25) == pytest.approx(2.0)  # half-way between 4 and 1 in logarithms
    assert u_fid_at(curve, 65) == pytest.approx(30.0)  # from the point before, not from the best
    assert u_fid_at(curve, 0) == 4.0
    assert u_fid_at([(0.0, 4.0), (50.0, 1.0)], 60) is None
