"""Conversion of parameter trees to PyTorch's tensors and back: axes and names.

The kernel of a convolution is (height, width, in, out) in Flax and (out, in, height, width) in
PyTorch; the kernel of a dense layer (in, out) and (out, in). Vectors and tables of embeddings have
the same axes in both.
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
# Last part of a parameter's name in Flax -> in PyTorch.
LEAVES = {"kernel": "weight", "scale": "weight", "embedding": "weight", "bias": "bias"}

NameOf = Callable[[tuple[str, ...]], str]
"""Name in PyTorch of the parameter with a path, e.g. ("conv_in", "kernel")."""


def named_leaves(params: Params) -> list[tuple[tuple[str, ...], Any]]:
    """(path, leaf) for each leaf of a parameter tree."""
    leaves = jax.tree_util.tree_leaves_with_path(params)
    return [(tuple(key.key for key in path), leaf) for path, leaf in leaves]


def _axes(path: tuple[str, ...], ndim: int, table: dict[int, tuple[int, ...]]) -> tuple[int, ...]:
    """The order of a tensor's axes after conversion."""
    same = tuple(range(ndim))
    return table.get(ndim, same) if path[-1] == "kernel" else same


def to_pytorch(params: Params, name_of: NameOf) -> dict[str, np.ndarray]:
    """Convert a parameter tree to named tensors in PyTorch's layout.

    Args:
      params: the parameters.
      name_of: a parameter's name in PyTorch.
    """
    return {
        name_of(path): np.asarray(leaf).transpose(_axes(path, leaf.ndim, TO_PYTORCH))
        for path, leaf in named_leaves(params)
    }


def pytorch_shapes(like: Params, name_of: NameOf) -> dict[str, tuple[int, ...]]:
    """Shapes in PyTorch of the tensors of a parameter tree, by name.

    Args:
      like: arrays or `jax.ShapeDtypeStruct`s.
      name_of: a parameter's name in PyTorch.
    """
    return {
        name_of(path): tuple(leaf.shape[axis] for axis in _axes(path, len(leaf.shape), TO_PYTORCH))
        for path, leaf in named_leaves(like)
    }


def from_pytorch(
    named: Mapping[str, np.ndarray], like: Params, name_of: NameOf, where: Path | str
) -> Params:
    """Convert PyTorch's tensors to parameters with the structure, shapes and types of `like`.

    Args:
      named: tensors by their names in PyTorch.
      like: arrays or `jax.ShapeDtypeStruct`s, e.g. from `eval_shape` of the network's init.
      name_of: a parameter's name in PyTorch.
      where: name of the file in errors.

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
        raise UserError(
            f"{where} does not fit the network of its config: {'; '.join(parts)}; get both again"
        )
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
