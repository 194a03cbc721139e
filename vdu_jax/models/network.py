"""The network of a diffusion model: its interface, parameters, score function and features.

A network is a linen module with hashable settings, called as

    prediction = module(xt, t, cond, deterministic=True)

`xt` and the prediction are (B, H, W, C), `t` is (B,), `cond` a pytree with a row for each image or
None. The method `example_cond()` returns the condition of one image, with which parameters are
initialised (None for an unconditional network). The module sows the activations (B, …, F) that
describe an image best under the name "features".
"""

from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

import flax.linen as nn
import jax
import jax.numpy as jnp

from vdu_jax.types import Cond, Params, ScoreFn


class Architecture(NamedTuple):
    """An entry of `registry.ARCHITECTURES`: a kind of network that a config can choose.

    Attributes:
      settings: the architecture's keys of `config.model` with their defaults, `SHARED` included.
      make: `(settings, channels) -> module` for images of `channels` channels. A tuple among the
        settings may be given as a list.
      check: `(c, image_size) -> None` raises UserError for settings that cannot work on square
        images of `image_size` pixels a side. `c` is a `vdu_jax.config.Check`; keys begin with
        "model.".
    """

    settings: Mapping[str, Any]
    make: Callable[[Mapping[str, Any], int], nn.Module]
    check: Callable[[Any, int], None]


SHARED = {
    # Rows of the class embedding: 0 for an unconditional network, the number of classes, or one
    # more. The additional last row is an image without a class, which guidance needs.
    "num_class_embeds": 0,
    "dropout": 0.0,  # dropout rate, in [0, 1)
    "dtype": "float32",  # compute type, or "bfloat16"
    "param_dtype": "float32",  # storage type of the parameters
}
"""Settings of every architecture, with their defaults."""


def check_shared(c: Any) -> None:
    """Check the settings of `SHARED`.

    Args:
      c: a `vdu_jax.config.Check`, as for `Architecture.check`.

    Raises:
      UserError: for a value that cannot work; it names the key.
    """
    c.require("model.num_class_embeds", lambda v: v == 0 or v >= 2, "must be 0 (no classes) or ≥ 2")
    c.require("model.dropout", lambda v: 0 <= v < 1, "must lie in [0, 1)")
    for key in ("model.dtype", "model.param_dtype"):
        c.one_of(key, ("float32", "bfloat16"))


def label_rows(module: nn.Module) -> jax.Array | None:
    """Return `example_cond()` of a network with `num_class_embeds`: (1,) int32, or None for 0."""
    return jnp.zeros((1,), jnp.int32) if module.num_class_embeds else None


def check_cond(module: nn.Module, cond: Cond) -> None:
    """Check that a condition is given if, and only if, the network takes one.

    Args:
      module: a network with `num_class_embeds`.
      cond: the condition of a batch, or None.

    Raises:
      ValueError: if the condition is missing, or given to an unconditional network.
    """
    if (cond is None) == bool(module.num_class_embeds):
        known = "needs the classes of its images" if cond is None else "knows no condition"
        raise ValueError(f"the network {known} (num_class_embeds = {module.num_class_embeds})")


def init_params(module: nn.Module, key: jax.Array, image_shape: tuple[int, int, int]) -> Params:
    """Initialise the parameters of a network. Usable under `jit` and `eval_shape`.

    Args:
      module: the network.
      key: the random key.
      image_shape: (H, W, C).

    Returns:
      Random parameters, a nested dict.
    """
    xt = jnp.zeros((1, *image_shape), jnp.float32)
    return module.init(key, xt, jnp.zeros((1,), jnp.int32), module.example_cond())["params"]


def make_score_fn(module: nn.Module) -> ScoreFn:
    """Make the pure score function of a network.

    Args:
      module: the network.

    Returns:
      `score_fn(params, xt, t, cond=None, *, dropout_key=None) -> prediction`, see
      `vdu_jax.types.ScoreFn`.
    """

    apply: Callable[..., Any] = module.apply  # its own type also has what `mutable` adds

    def score_fn(
        params: Params,
        xt: jax.Array,
        t: jax.Array,
        cond: Cond = None,
        *,
        dropout_key: jax.Array | None = None,
    ) -> jax.Array:
        if dropout_key is None:
            return apply({"params": params}, xt, t, cond)

        # A key for each image, so that its dropout masks do not depend on the rest of the batch.
        def one(x: jax.Array, t: jax.Array, key: jax.Array, cond: Cond) -> jax.Array:
            x, t, cond = jax.tree.map(lambda a: a[None], (x, t, cond))
            rngs = {"dropout": key}
            return apply({"params": params}, x, t, cond, deterministic=False, rngs=rngs)[0]

        return jax.vmap(one)(xt, t, dropout_key, cond)

    return score_fn


def make_feature_fn(module: nn.Module) -> Callable[..., jax.Array]:
    """Make the feature function of a network.

    Denoising networks learn linearly separable features (Baranchuk et al. 2022, arXiv 2112.03126;
    Xiang et al. 2023, arXiv 2303.09769).

    Args:
      module: a network that sows "features".

    Returns:
      `feature_fn(params, xt, t, cond=None) -> (B, F)` float32: the sown activations, averaged over
      space and concatenated.
    """

    def feature_fn(params: Params, xt: jax.Array, t: jax.Array, cond: Cond = None) -> jax.Array:
        _, state = module.apply({"params": params}, xt, t, cond, mutable=["intermediates"])
        maps = state["intermediates"]["features"]
        means = [m.astype(jnp.float32).mean(tuple(range(1, m.ndim - 1))) for m in maps]
        return jnp.concatenate(means, axis=-1)

    return feature_fn
