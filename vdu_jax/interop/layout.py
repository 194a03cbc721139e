"""Axes and names of tensors here and in PyTorch, the same for every network.

A convolution's kernel is (height, width, in, out) here and (out, in, height, width) there, a dense
layer's (in, out) and (out, in); all else, vectors and tables of embeddings, has the same axes.
"""

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import jax
import numpy as np

from vdu_jax.errors import UserError
from vdu_jax.types import Params

TO_PYTORCH = {4: (3, 2, 0, 1), 2: (1, 0)}
FROM_PYTORCH = {4: (2, 3, 1, 0), 2: (1, 0)}
# A leaf's own name here, and there.
LEAVES = {"kernel": "weight", "scale": "weight", "embedding": "weight", "bias": "bias"}

NameOf = Callable[[tuple[str, ...]], str]
"""From a parameter's path, e.g. ("conv_in", "kernel"), to the tensor's name in PyTorch."""


def named_leaves(params: Params) -> list[tuple[tuple[str, ...], Any]]:
    """The leaves of a parameter tree with their paths as names."""
    leaves = jax.tree_util.tree_leaves_with_path(params)
    return [(tuple(key.key for key in path), leaf) for path, leaf in leaves]


def _axes(path: tuple[str, ...], ndim: int, table: dict[int, tuple[int, ...]]) -> tuple[int, ...]:
    """The order of axes on the other side."""
    same = tuple(range(ndim))
    return table.get(ndim, same) if path[-1] == "kernel" else same


def to_pytorch(params: Params, name_of: NameOf) -> dict[str, np.ndarray]:
    """A parameter tree as named tensors in PyTorch's layout."""
    return {
        name_of(path): np.asarray(leaf).transpose(_axes(path, leaf.ndim, TO_PYTORCH))
        for path, leaf in named_leaves(params)
    }


def pytorch_shapes(like: Params, name_of: NameOf) -> dict[str, tuple[int, ...]]:
    """The shapes in PyTorch of a tree of arrays or `jax.ShapeDtypeStruct`s, by name."""
    return {
        name_of(path): tuple(leaf.shape[axis] for axis in _axes(path, len(leaf.shape), TO_PYTORCH))
        for path, leaf in named_leaves(like)
    }


def from_pytorch(
    named: Mapping[str, np.ndarray], like: Params, name_of: NameOf, where: Path | str
) -> Params:
    """Named tensors as parameters of the structure, shapes and types of `like`.

    Args:
      like: arrays or `jax.ShapeDtypeStruct`s, e.g. from `eval_shape` of the network's init.
      where: named in errors.

    Raises:
      UserError: naming the first tensor that is missing, unexpected, or of another shape.
    """
    wanted = pytorch_shapes(like, name_of)
    missing, unexpected = sorted(wanted.keys() - named), sorted(named.keys() - wanted)
    if missing or unexpected:
        parts = [
            f"{len(names)} tensors are {kind}, the first is {names[0]}"
            for kind, names in (("missing", missing), ("unexpected", unexpected))
            if names
        ]
        raise UserError(f"{where} does not fit the network of its config: {'; '.join(parts)}")
    for name, shape in wanted.items():
        stored = named[name].shape
        if stored != shape:
            permuted = sorted(stored) == sorted(shape)
            raise UserError(
                f"{where}: tensor {name} has the shape {stored}, the network needs {shape}"
                + ("; its axes are permuted" if permuted else "")
            )
    leaves = []
    for path, leaf in named_leaves(like):
        axes = _axes(path, len(leaf.shape), FROM_PYTORCH)
        leaves.append(np.asarray(named[name_of(path)].transpose(axes), leaf.dtype, order="C"))
    return jax.tree.unflatten(jax.tree.structure(like), leaves)
