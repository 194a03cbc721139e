"""What is compared with what."""

import jax.numpy as jnp
import numpy as np
import pytest

from vdu_jax import tasks
from vdu_jax.metrics import frechet
from vdu_jax.tasks import classifier, datasets, evaluators, images


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
    retained = evaluators.retained(forgetting, features, labels)
    rest = features[~np.isin(labels, (2, 5))]
    assert retained.stats.count == len(rest)
    np.testing.assert_array_equal(retained.stats.mean, frechet.feature_stats(rest).mean)
    assert len(retained.some) == 60 == len(np.unique(retained.some, axis=0))
    assert not set(retained.some[:, -1].tolist()) & {2, 5}
    # Not the first 60, which of a sorted data set would be a few classes.
    assert not np.array_equal(retained.some, rest[:60])
    forgetting.evaluate.reference_images = 1000
    np.testing.assert_array_equal(evaluators.retained(forgetting, features, labels).some, rest)


def test_few_images_of_the_forget_classes_are_warned_of(capsys):
    evaluators.warn_of_few(19, 100, "evaluate.images")
    assert "only 19 of the original's 100 images" in capsys.readouterr().err
    evaluators.warn_of_few(20, 100, "evaluate.images")
    assert not capsys.readouterr().err


def test_images_for_the_evidence_bound_are_drawn_from_all_classes():
    """The first of a data set that is sorted by class would be of one."""
    chosen = evaluators.choose(np.arange(1000, 2000), 20, 3)
    assert len(np.unique(chosen)) == 20 and chosen.max() > 1500
    np.testing.assert_array_equal(chosen, evaluators.choose(np.arange(1000, 2000), 20, 3))
    assert len(evaluators.choose(np.arange(7), 20, 3)) == 7
    assert len(evaluators.choose(np.arange(0), 20, 3)) == 0


class Labelled:
    """A split of which a test reads the labels and counts the images read."""

    def __init__(self, labels):
        self.labels = np.array(labels)

    def read(self, indices):
        return np.zeros((len(indices), 8, 8, 1), np.uint8), self.labels[indices]


def test_what_is_held_out_may_lack_a_class(config, drawn, monkeypatch, tmp_path):
    """No image of the forget classes, then none of the others: a gap in the figures, no error."""
    config.forget.classes, config.evaluate.bits_per_dim_images = (3,), 5
    features, labels = drawn

    def classify(some):
        return classifier.Predictions(np.eye(10)[np.full(len(some), 3)], np.zeros((len(some), 5)))

    reference = {"features": features, "labels": labels}
    monkeypatch.setattr(classifier, "ensure", lambda *_: (classify, 1.0, reference))
    monkeypatch.setattr(
        images.ImageTask, "evidence_bound", lambda _: lambda p, x, key: jnp.arange(len(x))
    )
    evaluator = tasks.of(config, tmp_path).evaluator({"images": np.zeros((30, 8, 8, 1), np.uint8)})

    def held_out(*of):
        monkeypatch.setattr(datasets, "open_split", lambda *_: Labelled(of))

    held_out(1, 2, 2)
    found = evaluator.evidence("plain", {})
    assert found["bits_per_dim"] == {"forget": None, "retain": 1.0}
    of = found["bits_per_dim_of"]
    assert of["forget"] == {"images": 0, "standard_error": None}
    assert of["retain"] == {"images": 3, "standard_error": pytest.approx(1 / np.sqrt(3))}

    held_out(3, 3)
    figures = evaluator.held_out_distance()
    assert figures == {"u_fid_held_out": None, "held_out_images": 0, "u_fid_held_out_bias": None}
