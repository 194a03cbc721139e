"""Type names used throughout the library.

Shapes in docstrings: B images in a batch, H×W pixels, C channels, T training time steps,
d parameters. Images of the model are float arrays (B, H, W, C) in [-1, 1].
"""

from collections.abc import Callable, Iterator, Mapping
from typing import Any, NamedTuple, TypeAlias

import chex
import jax

Params: TypeAlias = chex.ArrayTree

Part = Mapping[str, jax.Array]
Batch = Mapping[str, Part]
"""One entry per kind of data ("forget", "retain", "replay"); each is a dict with "image", and for a
conditional network "cond"."""

Batches = Mapping[str, Iterator[Part]]

Metrics = Mapping[str, jax.Array]

Cond: TypeAlias = chex.ArrayTree | None
"""What a batch of images is asked for with: a pytree with a row for each image, or None."""

Noise: TypeAlias = chex.ArrayTree
"""Every random number of one update step. Each array has a row for each image of one kind of data,
so it is split over devices, processes and parts of a batch exactly as those images are."""

ScoreFn = Callable[..., jax.Array]
"""A network, `score_fn(params, xt, t, cond=None, *, dropout_key=None) -> prediction`.

xt (B, H, W, C); t (B,) integer or real time in [0, T); returns (B, H, W, C). What it predicts is
said by a `Parameterization` beside it; where there is none, it predicts the noise ε.
`dropout_key` (B,): a random key for each image, from which its dropout masks are drawn. Without it
the network is deterministic.
"""

KINDS = frozenset({"forget", "retain", "replay"})
"""The kinds of data that an objective may ask to see."""

PREREQUISITES = frozenset({"posterior"})
"""What an objective may need besides the model and the data that it sees."""


class Objective(NamedTuple):
    """A training or unlearning method, in the manner of `optax.GradientTransformation`.

    One step is `loss(params, state, batch, draw(key, batch))`. Nothing has a default: whoever makes
    an objective says all of it.

    Attributes:
      sees: the kinds of data that the method may see, a subset of `KINDS`.
      needs: what must have been made before, a subset of `PREREQUISITES`.
      init: `(params, batches, key) -> state`, called once. `batches` maps each kind in `sees` to
        an iterator over batches; the state is a pytree of arrays (a Fisher, a mask, a teacher) or
        `()`.
      draw: `(key, batch) -> noise`, all that is random in a step, drawn for a whole batch; see
        `Noise`. What one image gets from another one of the batch (a partner) is part of it.
      loss: `(params, state, batch, noise) -> (scalar, metrics)`, deterministic and differentiable.
      is_mean: whether the loss is a mean over images, plus terms without images. Only then is the
        loss of a batch the mean of the losses of its parts.
      init_computes: whether `init` passes the images that it takes through the network; for the
        count of operations.
    """

    sees: frozenset[str]
    needs: frozenset[str]
    init: Callable[[Params, Batches, jax.Array], Any]
    draw: Callable[[jax.Array, Batch], Noise]
    loss: Callable[[Params, Any, Batch, Noise], tuple[jax.Array, Metrics]]
    is_mean: bool
    init_computes: bool


def no_state(params: Params, batches: Batches, key: jax.Array) -> tuple:
    """`Objective.init` of a method that needs no state."""
    del params, batches, key
    return ()
