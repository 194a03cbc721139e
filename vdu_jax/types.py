"""Type names used throughout the library.

Shapes in docstrings: B images in a batch, H×W pixels, C channels, T training time steps,
d parameters. Images of the model are float arrays (B, H, W, C) in [-1, 1].
"""

from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

import chex

Params = chex.ArrayTree
Batch = Mapping[str, Mapping[str, chex.Array]]
"""One entry per kind of data ("forget", "retain", "replay"); each is a dict with "image", and for a
conditional network "cond"."""

Metrics = Mapping[str, chex.Array]

ScoreFn = Callable[..., chex.Array]
"""`score_fn(params, xt, t, cond=None, *, dropout_key=None) -> eps`.

xt (B, H, W, C); t (B,) integer or real time in [0, T); returns the predicted noise (B, H, W, C).
Without `dropout_key` the network is deterministic.
"""

KINDS = frozenset({"forget", "retain", "replay"})
"""The kinds of data that an objective may ask to see."""


class Objective(NamedTuple):
    """A training or unlearning method, in the manner of `optax.GradientTransformation`.

    Attributes:
      sees: the kinds of data that the method may see, a subset of `KINDS`.
      init: `(params, batches, key) -> state`, called once. `batches` maps each kind in `sees` to
        an iterator over batches; the state is a pytree of arrays (a Fisher, a mask, a teacher) or
        `()`.
      loss: `(params, state, batch, key) -> (scalar, metrics)`, pure and differentiable.
      is_mean: whether the loss is a mean over images (and terms without images), with what it draws
        for them drawn by `process.draw_for`. Then a batch may be computed in parts.
      init_computes: whether `init` passes the images that it takes through the network; for the
        count of operations.
    """

    sees: frozenset
    init: Callable[[Params, Mapping[str, Any], chex.PRNGKey], Any]
    loss: Callable[[Params, Any, Batch, chex.PRNGKey], tuple[chex.Array, Metrics]]
    is_mean: bool = True
    init_computes: bool = True


def no_state(params: Params, batches: Mapping[str, Any], key: chex.PRNGKey) -> tuple:
    """`Objective.init` of a method that needs no state."""
    del params, batches, key
    return ()
