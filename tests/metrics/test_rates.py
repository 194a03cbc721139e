import numpy as np
import pytest
from scipy.stats import binomtest

from vdu_jax.metrics.rates import rate


@pytest.mark.parametrize(("hits", "count"), [(0, 20), (1, 7), (45, 50), (200, 200)])
def test_the_interval_is_wilsons(hits, count):
    found = rate(np.arange(count) < hits)
    expected = binomtest(hits, count).proportion_ci(0.95, method="wilson")
    assert found.value == hits / count and found.count == count
    assert found.low == pytest.approx(expected.low, abs=1e-6)
    assert found.high == pytest.approx(expected.high, abs=1e-6)


def test_of_no_images_there_is_none():
    with pytest.raises(ValueError, match="at least 1 image"):
        rate([])
