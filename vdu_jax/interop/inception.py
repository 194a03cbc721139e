"""Weights of the Inception network of FID, from pytorch-fid's tensors."""

from collections.abc import Mapping
from pathlib import Path

import numpy as np

from vdu_jax.errors import UserError
from vdu_jax.interop import layout, tensors
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
    """Check the path of the weights; the file is not read.

    Args:
      path: `evaluate.inception_weights`.

    Raises:
      UserError: if it is empty, a pickle, or no file; the message says where to get the weights.
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
    """Load the parameters of `models.inception.InceptionV3` from a safetensors file.

    Args:
      path: the file.

    Raises:
      UserError: if the file is missing, a pickle or damaged, or naming a tensor that doesn't fit.
    """
    check_file(path)
    path = Path(path).expanduser()
    return params_from_tensors(tensors.read(path, ignored).tensors, path)


def ignored(name: str) -> bool:
    """Whether a tensor is not needed for features: the last layer, and counts of batches."""
    return name.startswith("fc.") or name.endswith(".num_batches_tracked")


def tensor_name(path: tuple[str, ...]) -> str:
    """Name in PyTorch of a parameter, e.g. of ("Mixed_5b", "branch1x1", "conv", "kernel")."""
    return ".".join([*path[:-1], LEAVES[path[-1]]])


def params_from_tensors(named: Mapping[str, np.ndarray], where: str | Path = "weights") -> Params:
    """Convert PyTorch's tensors to parameters.

    Args:
      named: tensors by their names in PyTorch; a convolution's is (out, in, height, width).
      where: name of the file in errors.

    Returns:
      float32 parameters of `models.inception.InceptionV3`.

    Raises:
      UserError: naming a tensor that is missing, unexpected or of another shape.
    """
    like = inception.param_shapes()
    wanted = layout.pytorch_shapes(like, tensor_name)
    theirs = {name for name in named if not ignored(name)}
    for names, problem in (
        (wanted.keys() - theirs, "lacks"),
        (theirs - wanted.keys(), "has an unexpected"),
    ):
        if names:
            raise UserError(
                f"{where} {problem} tensor {min(names)}: these are not the weights of FID's "
                f"Inception network, which are at {URL}"
            )
    for name, shape in wanted.items():
        if named[name].shape != shape:
            raise UserError(
                f"{where}: tensor {name} has shape {named[name].shape}, not {shape}: these are "
                f"not the weights of FID's Inception network, which are at {URL}"
            )
    return layout.from_pytorch({name: named[name] for name in wanted}, like, tensor_name, where)


def tensors_from_params(params: Params) -> dict[str, np.ndarray]:
    """Convert parameters to PyTorch's tensors; inverts `params_from_tensors`."""
    return layout.to_pytorch(params, tensor_name)
