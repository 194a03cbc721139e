"""The training of the data set's classifier."""

import contextlib
import logging
import shutil

import jax
import numpy as np
import pytest

from vdu_jax import data
from vdu_jax.runtime import artifacts
from vdu_jax.tasks import classifier


def test_its_step_is_compiled_once(config, caplog):
    # A state placed in another way than the step returns it would be another program.
    config.classifier.epochs, config.classifier.batch_size = 2, 8
    images = np.random.default_rng(0).integers(0, 256, (20, 4, 4, 1), np.uint8)
    net = classifier.make_net(config, 3)
    with jax.log_compiles(), caplog.at_level(logging.WARNING):
        classifier.train(config, net, data.ArraySource(images))
    compiled = [r.getMessage() for r in caplog.records if "Compiling jit(step)" in r.getMessage()]
    assert len(compiled) == 1


@pytest.mark.parametrize(("flip", "shift"), [(False, 0), (True, 0), (False, 2), (True, 1)])
def test_each_image_is_flipped_and_moved_by_itself_in_every_way(flip, shift):
    image = np.random.default_rng(0).normal(size=(5, 4, 2)).astype(np.float32)
    made = classifier.augment(np.tile(image, (400, 1, 1, 1)), jax.random.key(1), flip, shift)
    wider = np.pad(image, ((shift, shift), (shift, shift), (0, 0)), mode="reflect")
    steps = range(2 * shift + 1)
    ways = [wider[y : y + 5, x : x + 4] for y in steps for x in steps]
    if flip:
        wider = wider[:, ::-1]
        ways += [wider[y : y + 5, x : x + 4] for y in steps for x in steps]
    met = [sum(np.array_equal(one, way) for one in np.asarray(made)) for way in ways]
    expected = 400 / len(ways)
    assert sum(met) == 400
    assert all(abs(count - expected) <= 5 * expected**0.5 for count in met)


def test_a_class_that_is_a_side_is_learned_without_flips_alone(config):
    images = np.zeros((64, 4, 4, 1), np.uint8)
    labels = np.arange(64) % 2
    images[labels == 0, :, :1], images[labels == 1, :, 3:] = 255, 255
    source = data.ArraySource(images, labels)
    section = config.classifier
    section.epochs, section.batch_size, section.learning_rate = 20, 16, 1e-2
    net = classifier.make_net(config, 2)

    def confidence():
        judge = classifier.make_classifier_fn(net, classifier.train(config, net, source))
        return judge(images).probabilities[np.arange(64), labels].mean()

    assert confidence() > 0.95
    section.flip = True
    assert 0.4 < confidence() < 0.6


def test_what_another_process_has_made_meanwhile_is_taken(
    finished_run, config, tmp_path, monkeypatch
):
    """Several runs may share `classifier.dir`: one makes it while the others wait."""
    waited = []

    @contextlib.contextmanager
    def lock(path):
        waited.append(path)
        shutil.copytree(finished_run / "classifier", tmp_path / "classifier")
        yield True

    monkeypatch.setattr(classifier.artifacts, "lock", lock)
    monkeypatch.setattr(classifier, "_make", pytest.fail)
    config.classifier.dir = str(tmp_path)
    _, accuracy, _ = classifier.ensure(config, tmp_path / "work")
    assert waited == [tmp_path / ".classifier.lock"]
    assert accuracy == artifacts.upstream(finished_run, "classifier")["summary"]["accuracy"]
