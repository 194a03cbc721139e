"""Low-rank adapters, LoRA (Hu et al. 2021, arXiv 2106.09685)."""

import math

import jax
import jax.numpy as jnp
from flax import traverse_util

from vdu_jax.types import Params

KERNEL = "kernel"


def init_adapters(params: Params, rank: int, key: jax.Array) -> Params:
    """Initialise adapters for every kernel that is larger than its adapter.

    The adapter of a kernel W (…, in, out) is A (in, rank), drawn from N(0, 1/in), and B (rank,
    out), zero, so that at first nothing changes. The spatial axes of a convolution count as "in".

    Args:
      params: nested dicts of arrays, or of their shapes.
      rank: rank of every adapter, at least 1.
      key: the random key.

    Returns:
      `{path of a kernel, joined by "/": {"down": A, "up": B}}`.

    Raises:
      ValueError: if the rank is not positive, or no kernel is larger than its adapter.
    """
    if rank < 1:
        raise ValueError(f"rank must be ≥ 1, not {rank}")
    adapters = {}
    for index, (path, leaf) in enumerate(
        sorted(traverse_util.flatten_dict(params, sep="/").items())
    ):
        if path.split("/")[-1] != KERNEL or len(leaf.shape) < 2:
            continue
        rows, columns = math.prod(leaf.shape[:-1]), leaf.shape[-1]
        if rank * (rows + columns) < rows * columns:
            down = jax.random.normal(jax.random.fold_in(key, index), (rows, rank)) / math.sqrt(rows)
            adapters[path] = {"down": down, "up": jnp.zeros((rank, columns))}
    if not adapters:
        raise ValueError(
            f"no matrix is larger than an adapter of rank {rank}; choose a smaller rank"
        )
    return adapters


def merge_adapters(adapters: Params, params: Params) -> Params:
    """Replace each kernel W that has an adapter by W + A B.

    Args:
      adapters: from `init_adapters`.
      params: nested dicts of arrays.

    Returns:
      The merged parameters, of the structure and types of `params`.
    """
    flat = dict(traverse_util.flatten_dict(params, sep="/"))
    for path, adapter in adapters.items():
        kernel = flat[path]
        change = (adapter["down"] @ adapter["up"]).reshape(kernel.shape)
        flat[path] = kernel + change.astype(kernel.dtype)
    return traverse_util.unflatten_dict(flat, sep="/")
