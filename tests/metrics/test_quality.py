"""Figures of features, and what stands beside them."""

import numpy as np
import pytest

from vdu_jax.metrics import frechet, kid, precision_recall, quality

SEED = 3


@pytest.fixture
def features():
    return np.random.default_rng(0).normal(size=(200, 5)).astype(np.float32)


@pytest.fixture
def reference(features):
    return quality.make_reference(features, 60, SEED)


def test_a_reference_is_all_images_and_some_of_them(features, reference):
    assert reference.stats.count == 200
    np.testing.assert_array_equal(reference.stats.mean, frechet.feature_stats(features).mean)
    rows = set(map(tuple, features))
    assert len(reference.some) == 60 == len(set(map(tuple, reference.some)) & rows)
    # Not the first 60, which of a sorted data set would be a few classes.
    assert not np.array_equal(reference.some, features[:60])
    np.testing.assert_array_equal(quality.make_reference(features, 1000, SEED).some, features)


def test_the_four_figures_are_those_of_the_metrics(reference):
    features = np.random.default_rng(1).normal(size=(80, 5))
    figures = quality.quality(features, reference, SEED)
    stats = frechet.feature_stats(features)
    assert figures["u_fid"] == frechet.frechet_distance(stats, reference.stats)
    assert tuple(figures["kid"].values()) == kid.kid(features, reference.some, seed=SEED)
    expected = precision_recall.precision_recall(features, reference.some, neighbours=3)
    assert (figures["precision"], figures["recall"]) == expected


@pytest.mark.parametrize(
    ("count", "absent"),
    [
        (0, {"u_fid", "u_fid_bias", "kid", "precision", "recall"}),
        (1, {"u_fid", "u_fid_bias", "kid", "precision", "recall"}),
        (3, {"precision", "recall"}),
        (4, set()),
    ],
)
def test_too_few_images_have_no_figure(reference, count, absent):
    figures = quality.quality(np.eye(5)[:count], reference, SEED)
    assert {name for name, value in figures.items() if value is None} == absent


def test_a_u_fid_has_its_number_of_images_and_its_bias(reference):
    features = np.random.default_rng(1).normal(size=(30, 5))
    figures = quality.quality(features, reference, SEED)
    expected = frechet.expected_bias(reference.some, reference.stats, 30, seed=SEED)
    assert (figures["images"], figures["u_fid_bias"]) == (30, expected)
