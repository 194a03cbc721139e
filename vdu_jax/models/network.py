"""What every network of a diffusion model is, whatever its architecture.

A network is a linen module with hashable settings, called as

    prediction = module(xt, t, cond, deterministic=True)

xt (B, H, W, C), t (B,), cond a pytree with a row for each image or None, prediction as xt. It has
`example_cond()`, the condition of one image, by which its parameters are made (None if it knows no
condition), and sows under "features" the activations (B, …, F) that describe an image best.
"""

from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

import flax.linen as nn
import jax
import jax.numpy as jnp

from vdu_jax.types import Cond, Params, ScoreFn


class Architecture(NamedTuple):
    """One kind of network, as `registry.ARCHITECTURES` names it.

    Attributes:
      settings: its keys of `config.model` and their defaults, `SHARED` among them.
      make: `(settings, channels) -> module` for images of `channels` channels. Tuples may come as
        lists.
      check: `(c, image_size)` refuses settings that cannot work on square images of a size in
        pixels; c is a `vdu_jax.config.Check`, whose keys begin with "model.".
    """

    settings: Mapping[str, Any]
    make: Callable[[Mapping[str, Any], int], nn.Module]
    check: Callable[[Any, int], None]


# What every architecture has among its settings.
SHARED = {
    # Rows of the table of classes; 0: unconditional. As many as the data has classes, or one more:
    # then the last is an image without its class, which guidance needs.
    "num_class_embeds": 0,
    "dropout": 0.0,
    "dtype": "float32",  # what is computed in, or "bfloat16"
    "param_dtype": "float32",  # what parameters are kept in
}


def check_shared(c: Any) -> None:
    """Refuse values of `SHARED` that cannot work; c as of `Architecture.check`."""
    c.require("model.num_class_embeds", lambda v: v == 0 or v >= 2, "must be 0 (no classes) or ≥ 2")
    c.require("model.dropout", lambda v: 0 <= v < 1, "must lie in [0, 1)")
    for key in ("model.dtype", "model.param_dtype"):
        c.one_of(key, ("float32", "bfloat16"))


def label_rows(module: nn.Module) -> jax.Array | None:
    """`example_cond` of a network that knows classes by their numbers, or none."""
    return jnp.zeros((1,), jnp.int32) if module.num_class_embeds else None


def check_cond(module: nn.Module, cond: Cond) -> None:
    """Raises: ValueError if there is a condition and none is known, or the other way round."""
    if (cond is None) == bool(module.num_class_embeds):
        known = "needs the classes of its images" if cond is None else "knows no condition"
        raise ValueError(f"the network {known} (num_class_embeds = {module.num_class_embeds})")


def init_params(module: nn.Module, key: jax.Array, image_shape: tuple[int, int, int]) -> Params:
    """Fresh parameters for images (H, W, C). jit- and `eval_shape`-compatible."""
    xt = jnp.zeros((1, *image_shape), jnp.float32)
    return module.init(key, xt, jnp.zeros((1,), jnp.int32), module.example_cond())["params"]


def make_score_fn(module: nn.Module) -> ScoreFn:
    """The pure `ScoreFn` of a network; see `vdu_jax.types.ScoreFn`."""

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

        # Each image by its own key: its masks do not depend on the batch that it is part of.
        def one(x: jax.Array, t: jax.Array, key: jax.Array, cond: Cond) -> jax.Array:
            x, t, cond = jax.tree.map(lambda a: a[None], (x, t, cond))
            rngs = {"dropout": key}
            return apply({"params": params}, x, t, cond, deterministic=False, rngs=rngs)[0]

        return jax.vmap(one)(xt, t, dropout_key, cond)

    return score_fn


def make_feature_fn(module: nn.Module) -> Callable[..., jax.Array]:
    """`feature_fn(params, xt, t, cond=None) -> (B, F)`: the network's own description of an image.

    What it sows as "features", averaged over space and concatenated. Denoising networks learn
    linearly separable features (Baranchuk et al. 2022, arXiv 2112.03126; Xiang et al. 2023,
    arXiv 2303.09769).
    """

    def feature_fn(params: Params, xt: jax.Array, t: jax.Array, cond: Cond = None) -> jax.Array:
        _, state = module.apply({"params": params}, xt, t, cond, mutable=["intermediates"])
        maps = state["intermediates"]["features"]
        means = [m.astype(jnp.float32).mean(tuple(range(1, m.ndim - 1))) for m in maps]
        return jnp.concatenate(means, axis=-1)

    return feature_fn
