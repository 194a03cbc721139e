"""The weights of the FID Inception network, from pytorch-fid's file as safetensors."""

from collections.abc import Mapping
from pathlib import Path

import jax
import numpy as np

from vdu_jax.errors import UserError
from vdu_jax.interop import tensors
from vdu_jax.interop.unet2d import named_leaves
from vdu_jax.models import inception
from vdu_jax.types import Params

URL = (
    "https://github.com/mseitzer/pytorch-fid/releases/download/fid_weights/"
    "pt_inception-2015-12-05-6726825d.pth"
)
LEAVES = {
    "kernel": "weight",
    "scale": "weight",
    "bias": "bias",
    "mean": "running_mean",
    "var": "running_var",
}
# Of the classifier on top, and of training: no part of the features.
UNUSED = ("fc.weight", "fc.bias", ".num_batches_tracked")


def tensor_name(path: tuple[str, ...]) -> str:
    """PyTorch's name of our parameter."""
    return ".".join([*path[:-1], LEAVES[path[-1]]])


def to_tensors(params: Params) -> dict[str, np.ndarray]:
    """Parameters as named tensors in PyTorch's layout."""
    return {
        tensor_name(path): np.asarray(leaf).transpose(3, 2, 0, 1) if leaf.ndim == 4 else leaf
        for path, leaf in named_leaves(params)
    }


def to_params(named: Mapping[str, np.ndarray], where: str) -> Params:
    """Named tensors as parameters of `models.inception`.

    Raises:
      UserError: naming `where` and the first tensor that is missing, unexpected or misshapen.
    """
    like = inception.abstract_params()
    wanted = {tensor_name(path): leaf for path, leaf in named_leaves(like)}
    named = {name: value for name, value in named.items() if not name.endswith(UNUSED)}
    for kind, names in (("missing", wanted.keys() - named), ("unexpected", named.keys() - wanted)):
        if names:
            raise UserError(
                f"{where} is not the FID Inception network: {len(names)} tensors are {kind}, the "
                f"first is {min(names)}"
            )
    leaves = []
    for name, leaf in wanted.items():
        value = np.asarray(named[name], np.float32)
        value = value.transpose(2, 3, 1, 0) if value.ndim == 4 else value
        if value.shape != leaf.shape:
            raise UserError(
                f"{where}: tensor {name} has the shape {named[name].shape}, which does not fit the "
                "FID Inception network"
            )
        leaves.append(value)
    return jax.tree.unflatten(jax.tree.structure(like), leaves)


def load(path: str | Path) -> Params:
    """Parameters from a safetensors file.

    Raises:
      UserError: if there is no such file (it says where to get it), or it is not this network's.
    """
    if not str(path) or not Path(path).is_file():
        raise UserError(
            f"config key evaluate.inception_weights = {str(path)!r}: no such file; download {URL}, "
            "run `vdu convert` on it, and set the key to the result (or set "
            "evaluate.features=classifier, which needs no file)"
        )
    return to_params(tensors.read(Path(path)).tensors, str(path))
