"""Type names used throughout the library.

Letters in docstrings:
  B: images in a batch.
  H, W, C: height and width in pixels, and channels.
  T: training time steps.
  d: parameters of the network.
  D_f, D_r: the forget data and the retained data.
  θ, θ*: the parameters, and those of the original model.

A model's images are float arrays (B, H, W, C) in [-1, 1].
"""

from collections.abc import Callable, Iterator, Mapping
from typing import Any, NamedTuple, TypeAlias

import chex
import jax

Params: TypeAlias = chex.ArrayTree
"""A pytree of arrays: the parameters of a network, or anything of their structure."""

Part = Mapping[str, jax.Array]
"""A batch of one kind of data: "image" (B, H, W, C), and for a conditional network "cond" (B, …).

"negative" (B, …), where guidance needs it, is the condition of an image that has none.
"""

Batch = Mapping[str, Part]
"""One `Part` per kind of data: "forget", "retain" or "replay"."""

Batches = Mapping[str, Iterator[Part]]
"""An endless iterator over batches per kind of data."""

Metrics = Mapping[str, jax.Array]
"""Scalars to log, by name."""

Cond: TypeAlias = chex.ArrayTree | None
"""The condition of a batch of images: a pytree with a row for each image, or None."""

Noise: TypeAlias = chex.ArrayTree
"""All random numbers of one update step.

Each array has a row for each image of one kind of data, so that noise is split over devices,
processes and parts of a batch exactly as those images are.
"""

ScoreFn = Callable[..., jax.Array]
"""A network, `score_fn(params, xt, t, cond=None, *, dropout_key=None) -> prediction`.

xt is (B, H, W, C), t (B,) an integer or real time in [0, T), the prediction (B, H, W, C). A
`Parameterization` beside the network says what the prediction is; without one it is the noise ε.
`dropout_key` (B,) is a random key for each image, from which its dropout masks are drawn; without
it the network is deterministic.
"""

KINDS = frozenset({"forget", "retain", "replay"})
"""The kinds of data that an objective may ask to see."""

PREREQUISITES = frozenset({"posterior"})
"""What an objective may need besides the model and its data."""


class Objective(NamedTuple):
    """A training or unlearning method, in the manner of `optax.GradientTransformation`.

    One step computes `loss(params, state, batch, draw(key, batch))`. No field has a default, so
    that every method states each of them.

    Attributes:
      sees: the kinds of data that the method may open, a subset of `KINDS`.
      needs: what must have been made before, a subset of `PREREQUISITES`.
      init: `(params, batches, key) -> state`, called once. `batches` has an iterator for each kind
        in `sees`. The state is a pytree of arrays (a Fisher, a mask, a teacher) or `()`.
      draw: `(key, batch) -> noise`, all random numbers of a step, see `Noise`. An image's partner
        within the batch is part of the noise.
      loss: `(params, state, batch, noise) -> (scalar, metrics)`, deterministic and differentiable.
      is_mean: whether the loss is a mean over images, plus terms without images. Only then is the
        loss of a batch the mean of the losses of its parts.
      init_computes: whether `init` passes images through the network. The count of operations
        needs to know.
    """

    sees: frozenset[str]
    needs: frozenset[str]
    init: Callable[[Params, Batches, jax.Array], Any]
    draw: Callable[[jax.Array, Batch], Noise]
    loss: Callable[[Params, Any, Batch, Noise], tuple[jax.Array, Metrics]]
    is_mean: bool
    init_computes: bool


def no_state(params: Params, batches: Batches, key: jax.Array) -> tuple:
    """Return `()`: `Objective.init` of a method without state."""
    del params, batches, key
    return ()
