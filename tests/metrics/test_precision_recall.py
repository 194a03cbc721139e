"""Precision and recall against loops over all pairs, and where both are known."""

import numpy as np
import pytest

from vdu_jax.metrics import precision_recall as module
from vdu_jax.metrics.precision_recall import precision_recall


def brute_force(x, y, k):
    """Eqs. 1 and 2 of the paper, point by point."""

    def radius(z, i):
        return sorted(np.linalg.norm(z[i] - z[j]) for j in range(len(z)) if j != i)[k - 1]

    def share(points, z):
        radii = [radius(z, i) for i in range(len(z))]
        inside = [any(np.linalg.norm(p - z[i]) <= radii[i] for i in range(len(z))) for p in points]
        return np.mean(inside)

    return share(x, y), share(y, x)


@pytest.mark.parametrize("chunk", [4, 1000])
@pytest.mark.parametrize(("neighbours", "m", "n"), [(1, 15, 20), (3, 25, 12), (5, 20, 30)])
def test_agrees_with_loops(neighbours, m, n, chunk, monkeypatch):
    monkeypatch.setattr(module, "CHUNK", chunk)
    rng = np.random.default_rng(m)
    x, y = rng.normal(0.5, 1.5, (m, 3)), rng.normal(0, 1, (n, 3))
    expected = brute_force(x, y, neighbours)
    assert 0 < min(expected) < 1
    assert precision_recall(x, y, neighbours=neighbours) == pytest.approx(expected)


@pytest.mark.parametrize("offset", [0, 1e4])
def test_equal_sets_are_wholly_alike(offset):
    """Even where every point is there five times, so that the balls have no extent."""
    x = offset + np.random.default_rng(0).normal(size=(30, 64)).astype(np.float32)
    shuffled = np.random.default_rng(1).permutation(x)
    assert precision_recall(x, shuffled) == (1, 1)
    assert precision_recall(np.repeat(x, 5, 0), shuffled.repeat(5, 0)) == (1, 1)


def test_sets_far_apart_are_not_alike():
    x = np.random.default_rng(0).normal(size=(30, 8))
    assert precision_recall(x, x + 100) == (0, 0)


def test_half_the_modes_is_full_precision_and_half_recall():
    rng = np.random.default_rng(0)
    near, far = rng.normal(size=(400, 2)), 100 + rng.normal(size=(400, 2))
    images = rng.normal(size=(400, 2))
    one_mode = precision_recall(images, np.concatenate([near, far]))
    assert one_mode.precision > 0.95 and 0.45 < one_mode.recall < 0.5
    junk = precision_recall(np.concatenate([images, far]), near)
    assert junk.recall > 0.95 and 0.45 < junk.precision < 0.5


def test_the_ball_reaches_to_the_kth_neighbour_and_no_further():
    line = np.array([[0.0], [1.0], [2.0], [3.0], [4.0], [5.0]])
    # k = 1 about the last point reaches to 6, k = 2 to 7.
    points = np.array([[6.0], [6.5], [7.0], [7.5]])
    assert precision_recall(points, line, neighbours=1).precision == 1 / 4
    assert precision_recall(points, line, neighbours=2).precision == 3 / 4


def test_swapping_the_sets_swaps_the_figures():
    rng = np.random.default_rng(3)
    x, y = rng.normal(size=(40, 4)), rng.normal(0.8, 0.5, (50, 4))
    precision, recall = precision_recall(x, y)
    assert precision_recall(y, x) == (recall, precision)
    assert precision != recall


@pytest.mark.parametrize(("m", "n"), [(3, 10), (10, 3), (0, 10)])
def test_too_few_rows_raise(m, n):
    with pytest.raises(ValueError, match=f"more than 3 feature rows of each, got {m} and {n}"):
        precision_recall(np.zeros((m, 2)), np.zeros((n, 2)))
