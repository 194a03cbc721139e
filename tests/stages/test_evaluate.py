"""What is compared with what."""

import numpy as np
import pytest

from vdu_jax.metrics import frechet, kid, precision_recall
from vdu_jax.stages import evaluate


@pytest.fixture
def drawn():
    """Features and labels of 200 training images; the last feature is the label."""
    rng = np.random.default_rng(0)
    labels = rng.integers(0, 10, 200)
    return np.column_stack([rng.normal(size=(200, 4)), labels]).astype(np.float32), labels


@pytest.fixture
def forgetting(config):
    config.forget.classes = (2, 5)
    config.evaluate.reference_images = 60
    return config


def test_the_reference_is_the_retained_images_alone(forgetting, drawn):
    features, labels = drawn
    retained = evaluate.choose_retained(forgetting, features, labels)
    rest = features[~np.isin(labels, (2, 5))]
    assert retained.stats.count == len(rest)
    np.testing.assert_array_equal(retained.stats.mean, frechet.feature_stats(rest).mean)
    assert len(retained.some) == 60 == len(np.unique(retained.some, axis=0))
    assert not set(retained.some[:, -1].tolist()) & {2, 5}
    # Not the first 60, which of a sorted data set would be a few classes.
    assert not np.array_equal(retained.some, rest[:60])
    forgetting.evaluate.reference_images = 1000
    np.testing.assert_array_equal(evaluate.choose_retained(forgetting, features, labels).some, rest)


def test_the_four_figures_are_those_of_the_metrics(forgetting, drawn):
    retained = evaluate.choose_retained(forgetting, *drawn)
    features = np.random.default_rng(1).normal(size=(80, 5))
    figures = evaluate.quality(forgetting, features, retained)
    stats = frechet.feature_stats(features)
    assert figures["u_fid"] == frechet.frechet_distance(stats, retained.stats)
    seed = forgetting.evaluate.seed
    assert tuple(figures["kid"].values()) == kid.kid(features, retained.some, seed=seed)
    expected = precision_recall.precision_recall(features, retained.some, neighbours=3)
    assert (figures["precision"], figures["recall"]) == expected


@pytest.mark.parametrize(
    ("count", "absent"),
    [
        (0, {"u_fid", "kid", "precision", "recall"}),
        (1, {"u_fid", "kid", "precision", "recall"}),
        (3, {"precision", "recall"}),
        (4, set()),
    ],
)
def test_too_few_images_have_no_figure(forgetting, drawn, count, absent):
    retained = evaluate.choose_retained(forgetting, *drawn)
    figures = evaluate.quality(forgetting, np.eye(5)[:count], retained)
    assert {name for name, value in figures.items() if value is None} == absent
