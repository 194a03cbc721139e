"""What unlearning costs, against the network's own operations."""

import jax
import jax.numpy as jnp

from vdu_jax import config as vdu_config
from vdu_jax import tasks
from vdu_jax.runtime import artifacts, operations
from vdu_jax.stages import cost


def evaluation(task):
    """Operations of the network for one image."""
    shape = task.batch_shapes(1)["image"].shape
    image = jax.ShapeDtypeStruct(shape, jnp.float32)
    time = jax.ShapeDtypeStruct((1,), jnp.int32)
    return operations.count(jax.jit(task.score_fn), task.param_shapes, image, time)


def test_a_method_draws_and_judges_replay_and_each_snapshots_images(finished_run, config):
    task = tasks.of(config, finished_run)
    one = evaluation(task)
    drawn = 3 * one  # config.sampler.steps
    judged = len(config.replay.feature_times) * one  # or less: up to the features
    found = cost.of_method(task, "plain")
    assert found.updates == artifacts.upstream(finished_run, "unlearn/plain")["summary"]["flops"]
    training = artifacts.upstream(finished_run, "train")["summary"]["flops"]
    assert found.training == training and found.percent(training) == 100
    # 120 images of replay, 150 of D_f, and 50 at each of two snapshots.
    assert 120 * drawn < found.replay < 1.1 * (120 * (drawn + judged) + 150 * judged)
    assert 100 * drawn < found.curve < 1.1 * (100 * (drawn + judged) + 120 * judged)
    assert found.total == found.updates + found.replay + found.curve
    config.replay.images = 240
    doubled = tasks.of(config, finished_run).replay_flops()
    of_forget = 2 * found.replay - doubled  # what does not grow with replay: judging D_f
    assert 0.2 * 150 * judged < of_forget < 1.1 * 150 * judged


def test_what_is_trained_anew_draws_nothing(finished_run, config):
    config.methods.plain = vdu_config.method("retrain")
    found = cost.of_method(tasks.of(config, finished_run), "plain")
    assert (found.replay, found.curve) == (0, 0) and found.total == found.updates
