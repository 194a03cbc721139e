"""Axes and names of tensors here and in PyTorch, the same for every network.

A convolution's kernel is (height, width, in, out) here and (out, in, height, width) there, a dense
layer's (in, out) and (out, in); all else is a vector.
"""

from collections.abc import Callable
from typing import Any

import jax
import numpy as np

from vdu_jax.types import Params

TO_PYTORCH = {4: (3, 2, 0, 1), 2: (1, 0)}
FROM_PYTORCH = {4: (2, 3, 1, 0), 2: (1, 0)}

NameOf = Callable[[tuple[str, ...]], str]
"""From a parameter's path, e.g. ("conv_in", "kernel"), to the tensor's name in PyTorch."""


def named_leaves(params: Params) -> list[tuple[tuple[str, ...], Any]]:
    """The leaves of a parameter tree with their paths as names."""
    leaves = jax.tree_util.tree_leaves_with_path(params)
    return [(tuple(key.key for key in path), leaf) for path, leaf in leaves]


def to_pytorch(params: Params, name_of: NameOf) -> dict[str, np.ndarray]:
    """A parameter tree as named tensors in PyTorch's layout."""
    named = {}
    for path, leaf in named_leaves(params):
        axes = TO_PYTORCH.get(leaf.ndim)
        named[name_of(path)] = np.asarray(leaf) if axes is None else np.transpose(leaf, axes)
    return named


def pytorch_shape(shape: tuple[int, ...]) -> tuple[int, ...]:
    """The shape in PyTorch of a parameter of this shape here."""
    return tuple(shape[axis] for axis in TO_PYTORCH.get(len(shape), range(len(shape))))


def pytorch_shapes(like: Params, name_of: NameOf) -> dict[str, tuple[int, ...]]:
    """The shapes in PyTorch of a tree of arrays or `jax.ShapeDtypeStruct`s, by name."""
    return {name_of(path): pytorch_shape(leaf.shape) for path, leaf in named_leaves(like)}


def from_pytorch(tensor: np.ndarray, dtype: Any) -> np.ndarray:
    """A tensor in the layout used here, contiguous."""
    axes = FROM_PYTORCH.get(tensor.ndim)
    return np.ascontiguousarray(tensor if axes is None else tensor.transpose(axes), dtype)
