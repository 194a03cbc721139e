"""Operations of a call, against what is counted by hand."""

import jax
import jax.numpy as jnp
import pytest

from vdu_jax.runtime import operations, parallel

WEIGHT = jnp.ones((64, 64))
PRODUCT = 2 * 8 * 64 * 64  # of an (8, 64) array with it


def once(x):
    return x @ WEIGHT


def repeated(x):
    return jax.lax.scan(lambda c, _: (c @ WEIGHT, None), x, None, length=10)[0]


def nested(x):
    return jax.lax.scan(lambda c, _: (jax.jit(repeated)(c), None), x, None, length=3)[0] @ WEIGHT


@pytest.mark.parametrize(
    ("function", "products"),
    [(once, 1), (repeated, 10), (nested, 31), (jax.checkpoint(repeated), 10)],
)
def test_the_body_of_a_scan_counts_as_often_as_it_runs(function, products):
    for argument in (jnp.ones((8, 64)), jax.ShapeDtypeStruct((8, 64), jnp.float32)):
        found = operations.count(jax.jit(function), argument)
        assert found == pytest.approx(products * PRODUCT, rel=1e-3)


def test_counting_and_calling_trace_a_function_once():
    traced = []

    @jax.jit
    def function(x):
        traced.append(x)
        return once(x)

    x = jnp.ones((8, 64))
    assert operations.count(function, x) == PRODUCT
    function(x)
    assert len(traced) == 1


def test_an_update_in_parts_counts_as_the_update():
    compiled, step = jax.jit(repeated), once
    assert operations.countable(compiled, parallel.Layout(), step) is compiled
    for layout in (parallel.Layout(accumulate=2), parallel.Layout(mode="pmap")):
        counted = operations.countable(compiled, layout, step)
        assert operations.count(counted, jnp.ones((8, 64))) == PRODUCT
