"""The training of the data set's classifier."""

import logging

import jax
import numpy as np

from vdu_jax import data
from vdu_jax.stages import classifier


def test_its_step_is_compiled_once(config, caplog):
    # A state placed in another way than the step returns it would be another program.
    config.classifier.epochs, config.classifier.batch_size = 2, 8
    images = np.random.default_rng(0).integers(0, 256, (20, 4, 4, 1), np.uint8)
    net = classifier.make_net(config, 3)
    with jax.log_compiles(), caplog.at_level(logging.WARNING):
        classifier.train(config, net, data.ArraySource(images))
    compiled = [r.getMessage() for r in caplog.records if "Compiling jit(step)" in r.getMessage()]
    assert len(compiled) == 1
