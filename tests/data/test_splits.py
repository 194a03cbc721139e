import numpy as np
import pytest

from vdu_jax.data import forget_retain_indices
from vdu_jax.data.splits import stable_permutation, stratified_test_mask
from vdu_jax.errors import UserError

LABELS = np.random.default_rng(0).integers(0, 5, 400)


def test_whole_classes():
    split = forget_retain_indices(LABELS, [1, 3])
    np.testing.assert_array_equal(split.forget, np.flatnonzero((LABELS == 1) | (LABELS == 3)))
    np.testing.assert_array_equal(np.union1d(split.forget, split.retain), np.arange(400))
    assert not np.intersect1d(split.forget, split.retain).size
    assert split.forget.dtype == split.retain.dtype == np.int64


@pytest.mark.parametrize(("fraction", "limit"), [(0.25, 0), (1.0, 7), (0.5, 3), (1e-9, 0)])
def test_a_part_of_the_class(fraction, limit):
    whole = forget_retain_indices(LABELS, [2])
    part = forget_retain_indices(LABELS, [2], fraction, limit, seed=1)
    expected = max(1, round(fraction * len(whole.forget)))
    assert len(part.forget) == (min(expected, limit) if limit else expected)
    assert (np.diff(part.forget) > 0).all() and (LABELS[part.forget] == 2).all()
    # The unused rest of the class must not slip into the retained data.
    np.testing.assert_array_equal(part.retain, whole.retain)


def test_parts_depend_on_the_seed_and_are_nested():
    draw = lambda n, seed: set(forget_retain_indices(LABELS, 2, limit=n, seed=seed).forget)
    assert draw(20, 0) == draw(20, 0) != draw(20, 1)
    assert draw(5, 0) < draw(20, 0) < draw(60, 0)


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        ({"forget_classes": [-1]}, "-1"),
        ({"forget_classes": [5]}, "0 to 4"),
        ({"forget_classes": [1.5]}, "1.5"),
        ({"forget_classes": [True]}, "True"),
        ({"forget_classes": []}, "empty"),
        ({"forget_classes": range(5)}, "nothing would be retained"),
        ({"forget_classes": [7], "num_classes": 10}, "no image"),
        ({"forget_classes": [1], "fraction": 0.0}, "fraction"),
        ({"forget_classes": [1], "fraction": 1.1}, "fraction"),
        ({"forget_classes": [1], "fraction": float("nan")}, "fraction"),
        ({"forget_classes": [1], "limit": -1}, "limit"),
    ],
)
def test_mistakes(arguments, says):
    with pytest.raises(UserError, match=says):
        forget_retain_indices(LABELS, **arguments)


def test_stratified_test_mask():
    labels = np.array([0] * 20 + [1] * 3 + [2])
    mask = stratified_test_mask(labels, every=10)
    assert np.flatnonzero(mask).tolist() == [9, 19, 22]  # class 2 has nothing to spare


def test_stable_permutation_never_changes():
    assert stable_permutation(8, 0).tolist() == [6, 3, 5, 0, 7, 2, 1, 4]
    several = [stable_permutation(30, s, e) for s in (-1, 0, 1) for e in (0, 1)]
    assert len({tuple(p) for p in several}) == 6
    assert all(np.sort(p).tolist() == list(range(30)) for p in several)
