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
