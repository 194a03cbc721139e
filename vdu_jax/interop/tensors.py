"""Safetensors files: read and written whole, never a pickle."""

import hashlib
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import NamedTuple

import ml_dtypes
import numpy as np
import safetensors

from vdu_jax.errors import UserError
from vdu_jax.runtime import artifacts

PICKLES = (".bin", ".pt", ".pth", ".ckpt", ".pkl")
FLOATS = {"F32": np.float32, "F16": np.float16, "BF16": ml_dtypes.bfloat16}
NAMED_TYPES = {np.dtype(t).name: np.dtype(t) for t in FLOATS.values()}


class TensorFile(NamedTuple):
    """tensors: arrays by name, of their stored types. metadata: the file's own strings."""

    tensors: dict[str, np.ndarray]
    metadata: dict[str, str]


def refuse_pickle(path: Path, converted: Path | None = None) -> None:
    """Refuse a file that is named like a pickle, which can run code when it is loaded.

    Args:
      converted: where the error proposes to put the tensors.

    Raises:
      UserError: with the command that converts it.
    """
    if path.suffix in PICKLES:
        converted = converted or path.with_suffix(".safetensors")
        raise UserError(
            f"{path} is a pickle, which can run code when loaded: make a safetensors file of it "
            f"with `vdu convert {path} {converted}`"
        )


def read(path: Path, ignored: Callable[[str], bool] = lambda name: False) -> TensorFile:
    """All tensors of a safetensors file.

    Args:
      ignored: of a name, whether that tensor is left out, whatever it holds.

    Raises:
      UserError: if the file is missing, a pickle, truncated, or holds anything but finite float32,
        float16 or bfloat16 numbers.
    """
    path = Path(path)
    refuse_pickle(path)
    if not path.is_file():
        raise UserError(f"{path}: no such file")
    try:
        parts = dict(safetensors.deserialize(path.read_bytes()))
        with safetensors.safe_open(path, framework="np") as file:
            metadata = dict(file.metadata() or {})
    except safetensors.SafetensorError as error:
        raise UserError(
            f"{path} is damaged or no safetensors file ({error}): get it again"
        ) from error
    tensors = {}
    for name, part in parts.items():
        if ignored(name):
            continue
        if part["dtype"] not in FLOATS:
            raise UserError(
                f"{path}: tensor {name} is of type {part['dtype']}; float types are "
                f"{', '.join(FLOATS)}"
            )
        tensors[name] = np.frombuffer(part["data"], FLOATS[part["dtype"]]).reshape(part["shape"])
        if not np.isfinite(tensors[name].astype(np.float32)).all():
            raise UserError(f"{path}: tensor {name} holds values that are not finite")
    return TensorFile(tensors, metadata)


def checksums(tensors: Mapping[str, np.ndarray]) -> dict[str, str]:
    """A short hash of each tensor's bytes in C order."""
    return {
        name: hashlib.sha256(np.ascontiguousarray(tensor).tobytes()).hexdigest()[:16]
        for name, tensor in sorted(tensors.items())
    }


def write(path: Path, tensors: Mapping[str, np.ndarray], metadata: Mapping[str, str]) -> None:
    """Write a file, whole or not at all. Equal tensors and metadata give equal bytes."""
    from safetensors.numpy import save_file

    tensors = {name: np.asarray(tensor, order="C") for name, tensor in tensors.items()}
    with artifacts.atomic_path(Path(path)) as temporary:
        save_file(tensors, temporary, dict(metadata) or None)
