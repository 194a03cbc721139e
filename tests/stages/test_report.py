"""The report's plots; tests/stages/test_run.py has the page of a whole run."""

import numpy as np
import pytest

from vdu_jax.stages import report


@pytest.mark.parametrize(
    "values, is_log, texts",
    [
        ([0.0, 12.5], False, ["0", "5", "10"]),
        ([1.2, 16.0], True, ["2", "5", "10"]),
        ([0.01, 3000.0], True, ["0.01", "0.1", "1", "10", "100", "1000"]),
        ([1.1, 1.5], True, ["1.1", "1.2", "1.3", "1.4", "1.5"]),
        ([-0.1, 0.9], True, ["0", "0.2", "0.4", "0.6", "0.8"]),  # no logarithm
        ([3.0], False, ["2.6", "2.8", "3", "3.2", "3.4"]),
    ],
)
def test_an_axis_holds_its_values_and_has_round_ticks(values, is_log, texts):
    axis = report.make_axis("x", values, is_log)
    places = [axis.place(value) for value in values]
    assert all(0 < place < 1 for place in places) and places == sorted(places)
    assert [text for _, text in axis.ticks] == texts
    for place, text in axis.ticks:
        assert place == pytest.approx(axis.place(float(text))) and 0 <= place <= 1


def test_equal_ratios_are_equal_distances_on_a_logarithmic_axis():
    axis = report.make_axis("u-FID", [1.0, 100.0], is_log=True)
    np.testing.assert_allclose(np.diff([axis.place(v) for v in (1, 10, 100)], n=2), 0, atol=1e-12)
