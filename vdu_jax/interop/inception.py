"""The weights of the Inception network that FID is taken with, by their names in PyTorch."""

from collections.abc import Mapping
from pathlib import Path

import jax
import numpy as np

from vdu_jax.errors import UserError
from vdu_jax.interop import tensors
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


def check_file(path: str | Path) -> None:
    """Refuse a path (`evaluate.inception_weights`) at which there can be no weights.

    Raises:
      UserError: if it is empty, a pickle, or no file; says where to get the weights.
    """
    if path and Path(path).expanduser().is_file():
        tensors.refuse_pickle(Path(path).expanduser())
        return
    problem = "no such file" if path else "evaluate.features = 'inception' needs the weights"
    raise UserError(
        f"config key evaluate.inception_weights = {str(path)!r}: {problem}; get {URL} and run "
        f"`vdu convert {Path(URL).name} inception.safetensors`, or choose evaluate.features = "
        "'classifier', which needs no file"
    )


def load(path: str | Path) -> Params:
    """Parameters of `models.inception.InceptionV3` from a safetensors file.

    Raises:
      UserError: if the file is missing, a pickle or damaged, or naming a tensor that doesn't fit.
    """
    check_file(path)
    path = Path(path).expanduser()
    return params_from_tensors(tensors.read(path, ignored).tensors, path)


def ignored(name: str) -> bool:
    """Whether a tensor plays no part in the features: the last layer, and counts of batches."""
    return name.startswith("fc.") or name.endswith(".num_batches_tracked")


def _name(path: tuple) -> str:
    *modules, leaf = (key.key for key in path)
    return ".".join([*modules, LEAVES[leaf]])


def params_from_tensors(named: Mapping[str, np.ndarray], where: str | Path = "weights") -> Params:
    """Parameters (float32) from PyTorch's tensors; a convolution's is (out, in, height, width).

    Raises:
      UserError: naming `where` and a tensor that is missing, unexpected or of another shape.
    """
    shapes = inception.param_shapes()
    expected = {_name(path) for path, _ in jax.tree_util.tree_leaves_with_path(shapes)}
    found = {name for name in named if not ignored(name)}
    for names, problem in ((expected - found, "lacks"), (found - expected, "has an unexpected")):
        if names:
            raise UserError(
                f"{where} {problem} tensor {min(names)}: these are not the weights of FID's "
                f"Inception network, which are at {URL}"
            )

    def take(path: tuple, like: jax.ShapeDtypeStruct) -> np.ndarray:
        value = np.asarray(named[_name(path)], np.float32)
        shape = tuple(like.shape[i] for i in (3, 2, 0, 1)) if len(like.shape) == 4 else like.shape
        if value.shape != shape:
            raise UserError(
                f"{where}: tensor {_name(path)} has shape {value.shape}, not {shape}: these are "
                f"not the weights of FID's Inception network, which are at {URL}"
            )
        return np.ascontiguousarray(value.transpose(2, 3, 1, 0)) if value.ndim == 4 else value

    return jax.tree_util.tree_map_with_path(take, shapes)


def tensors_from_params(params: Params) -> dict[str, np.ndarray]:
    """The inverse of `params_from_tensors`."""
    named = {}
    for path, leaf in jax.tree_util.tree_leaves_with_path(params):
        value = np.asarray(leaf)
        named[_name(path)] = value.transpose(3, 2, 0, 1) if value.ndim == 4 else value
    return named
