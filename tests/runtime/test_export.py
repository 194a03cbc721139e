"""What the stages compile lowers for GPUs and TPUs, which need not be there, and computes in the
types that a config asks for."""

import functools
import re

import jax
import jax.numpy as jnp
import pytest
from jax import export

from vdu_jax import tasks, training
from vdu_jax.runtime import parallel
from vdu_jax.stages import posterior, train, unlearn
from vdu_jax.tasks import base

SHAPE = (8, 8, 1)
PRODUCT = re.compile(
    r"stablehlo\.(?P<kind>convolution|dot_general)\b"
    r"(?:[^\n]*?lhs_precision_type = (?P<as_left>\w+), rhs_precision_type = (?P<as_right>\w+))?"
    r"[^\n]*: \(tensor<(?:\d+x)*(?P<left>\w+)>, tensor<(?:\d+x)*(?P<right>\w+)>\)"
)


@pytest.fixture(params=["cuda", "tpu"])
def platform(request):
    return request.param


@pytest.fixture
def config(unet_config):
    config = unet_config
    config.model.attention_levels = (0,)
    config.model.dropout = 0.1
    config.model.dtype = "bfloat16"
    return config


def abstract_step(config, method, mode):
    """A method's update step as `fit` compiles it (None: of training), and its arguments."""
    config.parallel.mode = mode
    task = tasks.of(config, image_shape=SHAPE)
    params = task.param_shapes
    if method is None:
        objective, optimizer = train.make_objective(task), train.optimizer(config)
    else:
        trained = posterior.shapes(params, config.posterior.family, 3)
        zeros = jax.tree.map(lambda s: jnp.zeros(s.shape, s.dtype), trained)
        objective = unlearn.make_objective(task, method, (params, {}), zeros, 100, 0.1)
        optimizer = unlearn.optimizer(config, method, zeros)
    decay = config.train.ema_decay
    mesh = parallel.make_mesh()
    state = jax.eval_shape(lambda p: training.init_state(p, optimizer, decay), params)
    state = parallel.placed(state, mesh)
    batch = {kind: task.batch_shapes(8) for kind in objective.sees}
    key = jax.eval_shape(lambda: jax.random.key(0))

    def endless(some):
        return iter(lambda: jax.tree.map(lambda s: jnp.zeros(s.shape, s.dtype), some), None)

    def init(params, key):
        images = {kind: endless(some) for kind, some in batch.items()}
        return objective.init(params, images, key)

    of_objective = jax.eval_shape(init, params, key)
    draw = functools.partial(training.draw_noise, objective)
    update = functools.partial(training.make_update, objective, optimizer, decay)
    step = parallel.compile_step(draw, update, base.layout(config), mesh, state)
    return step, (state, of_objective, batch, key)


def products(text):
    """The kinds of products, and the types that their operands are multiplied in."""
    kinds, types = set(), set()
    for found in PRODUCT.finditer(text):
        kinds.add(found["kind"])
        types |= {found["as_left"] or found["left"], found["as_right"] or found["right"]}
    return kinds, types


def lowered(function, arguments, platform):
    made = export.export(function, platforms=[platform])(*arguments)
    assert made.platforms == (platform,)
    return made.mlir_module()


def assert_in_bfloat16(text):
    assert products(text) == ({"convolution", "dot_general"}, {"bf16"})
    assert "f64" not in text
    assert "callback" not in text  # nothing asks the host


@pytest.mark.parametrize("method", [None, "plain", "extended"])
def test_a_step_lowers_for_an_accelerator_in_bfloat16(config, platform, method):
    step, arguments = abstract_step(config, method, "jit")
    text = lowered(step, arguments, platform)
    assert_in_bfloat16(text)
    # All of the state is used up, so that the new one takes its place.
    given = len(re.findall(r"tf\.aliasing_output|jax\.buffer_donor", text))
    assert given == len(jax.tree.leaves(arguments[0]))


@pytest.mark.parametrize("method", [None, "plain"])
def test_a_pmapped_step_lowers_for_an_accelerator(config, platform, method):
    step, arguments = abstract_step(config, method, "pmap")
    assert_in_bfloat16(lowered(jax.jit(step), arguments, platform))


def test_drawing_lowers_for_an_accelerator_in_bfloat16(config, platform):
    draw, params, _ = tasks.of(config, image_shape=SHAPE).drawing(4)
    keys = jax.eval_shape(lambda: jax.random.split(jax.random.key(0), 4))
    assert_in_bfloat16(lowered(jax.jit(draw), (params, keys), platform))


def test_float32_stays_where_it_is_asked_for(config, platform):
    """That the tests above tell types apart."""
    config.model.dtype = "float32"
    _, types = products(lowered(*abstract_step(config, None, "jit"), platform))
    assert types == {"f32"}
