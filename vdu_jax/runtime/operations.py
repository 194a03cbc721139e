"""Count of floating-point operations of functions that JAX compiles."""

import math
from collections.abc import Callable, Iterator
from typing import Any, cast

import jax
from jax.extend import core

from vdu_jax.runtime import parallel


def count(function: jax.stages.Wrapped, *arguments: Any) -> float:
    """Floating-point operations of one call of a jitted function, before XLA optimises it.

    XLA counts them in the program for a CPU, whatever the function runs on, because its GPU clients
    do not count. The body of a `lax.scan` counts as often as it runs, the body of a
    `lax.while_loop` once.

    Args:
      function: a jitted function.
      arguments: arrays or `jax.ShapeDtypeStruct`s.

    Returns:
      The number of operations. NaN if JAX has no CPU device (JAX_PLATFORMS=cuda), or if a CPU
      cannot run the function (cuDNN's attention).
    """
    try:
        if jax.default_backend() == "cpu":
            return _count(function.trace(*arguments))  # reuses the trace of the call itself
        shapes = jax.tree.map(lambda x: jax.ShapeDtypeStruct(x.shape, x.dtype), arguments)
        with jax.default_device(jax.local_devices(backend="cpu")[0]):
            return _count(function.trace(*shapes))
    except RuntimeError:
        return math.nan


def countable(compiled: Callable, layout: parallel.Layout, step: Callable) -> jax.stages.Wrapped:
    """The function whose operations are those of a step, whatever the layout.

    A step that is compiled for parts of a batch or for pmap has sums and copies that the update
    itself has not.

    Args:
      compiled: the step of `parallel.compile_step`.
      layout: its layout.
      step: the pure step; see `training.make_step`.
    """
    if layout.mode == "jit" and layout.accumulate == 1:
        return cast(jax.stages.Wrapped, compiled)  # in this mode it is jitted
    return jax.jit(step)


def _count(traced: jax.stages.Traced) -> float:
    return _bodies_once(traced) + _more_of_scans(traced)


def _bodies_once(traced: jax.stages.Traced) -> float:
    return float((traced.lower().cost_analysis() or {}).get("flops", math.nan))


def _more_of_scans(traced: jax.stages.Traced) -> float:
    """Operations of the second and later runs of the bodies of scans."""
    total = 0.0
    for scan in _scans(traced.jaxpr.jaxpr):
        body, length = scan.params["jaxpr"], scan.params["length"]
        shapes = [jax.ShapeDtypeStruct(a.shape, a.dtype) for a in body.in_avals]
        inner = jax.jit(core.jaxpr_as_fun(body)).trace(*shapes)
        total += (length - 1) * _bodies_once(inner) + length * _more_of_scans(inner)
    return total


def _scans(jaxpr: Any) -> Iterator[Any]:
    """The outermost `lax.scan`s of a program, also those inside calls and branches."""
    for equation in jaxpr.eqns:
        if equation.primitive.name == "scan":
            yield equation
        else:
            for inner in jax.tree.leaves(
                list(equation.params.values()), is_leaf=lambda v: hasattr(v, "eqns")
            ):
                inner = getattr(inner, "jaxpr", inner)
                if hasattr(inner, "eqns"):
                    yield from _scans(inner)
