"""The contract that every task of `TASKS` keeps, planned from a config: no data, no weights."""

import inspect

import jax
import pytest

from vdu_jax import config as vdu_config
from vdu_jax import tasks
from vdu_jax.runtime import artifacts
from vdu_jax.tasks import Evaluator, Task
from vdu_jax.tasks.evaluators import ImageEvaluator
from vdu_jax.tasks.text_to_image.evaluator import TextEvaluator


def text_config():
    config = vdu_config.default(vdu_config.TEXT_TO_IMAGE)
    config.forget.prompts = ("a red bag",)
    config.replay.prompts = ("a blue bag", "a coat")
    config.evaluate.images = 60
    return config


# One small config of each task of `TASKS`, and what it measures with.
CONFIGS = {"TextToImage": text_config, "ImageTask": vdu_config.default}
EVALUATORS = {"TextToImage": TextEvaluator, "ImageTask": ImageEvaluator}
NOT_PLANNED = {
    "workdir", "original_params", "num_forget", "trained_on", "subject", "class_names",
}  # fmt: skip


def members(protocol):
    """Its methods, name -> function."""
    return {
        name: getattr(protocol, name)
        for name, value in vars(protocol).items()
        if isinstance(value, staticmethod | classmethod) or inspect.isfunction(value)
        if not name.startswith("_")
    }


def parameters(function):
    return [
        (p.name, p.kind, p.default)
        for p in inspect.signature(function).parameters.values()
        if p.name != "self"
    ]


@pytest.fixture(params=tasks.TASKS, ids=lambda kind: kind.__name__)
def kind(request):
    return request.param


def of_kind(kind):
    return kind.planned(CONFIGS[kind.__name__]())


def test_every_member_is_answered_with_the_same_arguments(kind):
    for name, wanted in members(Task).items():
        assert parameters(getattr(kind, name)) == parameters(wanted), name
    for name, wanted in members(Evaluator).items():
        found = getattr(EVALUATORS[kind.__name__], name)
        assert parameters(found) == parameters(wanted), name


def test_every_attribute_is_there(kind):
    task = of_kind(kind)
    names = [name for name, value in vars(Task).items() if isinstance(value, property)]
    assert {"score_fn", "image_shape", "subject"} <= set(names)
    for name in names:
        assert hasattr(kind, name) or name in vars(task), name
        if name not in NOT_PLANNED:
            getattr(task, name)
    with pytest.raises(AssertionError, match="no workdir"):
        _ = task.workdir


def test_its_own_config_is_taken_and_it_can_be_made_of_a_workdir(kind, tmp_path):
    config = CONFIGS[kind.__name__]()
    assert kind.takes(config) is True
    assert type(tasks.of(config, tmp_path)) is type(tasks.planned(config)) is kind
    assert kind(config, tmp_path).workdir == tmp_path


def test_every_config_has_one_task():
    taken = [type(tasks.planned(CONFIGS[kind.__name__]())) for kind in tasks.TASKS]
    assert taken == list(tasks.TASKS)


def test_batches_are_what_the_network_takes(kind):
    task = of_kind(kind)
    batch = task.batch_shapes(4)
    assert {len(rows.shape) > 0 and rows.shape[0] for rows in batch.values()} == {4}
    # float32 images and times, and a condition if there is one
    t = jax.ShapeDtypeStruct((4,), "int32")
    inputs = [task.param_shapes, batch["image"], t, batch.get("cond")]
    predicted = jax.eval_shape(lambda *given: task.score_fn(*given), *inputs)
    assert predicted.shape == batch["image"].shape


def test_what_is_drawn_has_the_shape_of_its_images(kind):
    task = of_kind(kind)
    draw, params, asked = task.drawing(4)
    keys = jax.eval_shape(lambda: jax.random.split(jax.random.key(0), 4))
    assert jax.eval_shape(draw, params, keys, *asked).shape == (4, *task.image_shape)


def test_requests_say_how_many_images_and_what_each_is_asked_for_with(kind):
    task = of_kind(kind)
    uses = {use: task.request(use) for use in ("replay", "curve", "relearn")}
    for request in [*uses.values(), *task.requests().values()]:
        assert all(len(rows) == request.count for rows in request.asked)
        assert artifacts.dumps(request.about)
    assert task.requests() and uses["replay"].count > 0


def test_what_finished_stages_are_told_apart_by_can_be_written(kind):
    task = of_kind(kind)
    found = [task.inputs, task.scorer_inputs(), task.evaluation_inputs(), task.relearning_inputs()]
    for inputs in found:
        assert isinstance(inputs, dict) and artifacts.dumps(inputs)


def test_columns_have_heads_and_no_key_of_the_table(kind):
    task = of_kind(kind)
    taken = {"pul", "u_fid", "u_fid_bias", "images", "steps", "seconds"}
    assert not taken & task.columns.keys()
    assert all(isinstance(head, str) and head for head in task.columns.values())
    assert isinstance(task.about_columns, str)
