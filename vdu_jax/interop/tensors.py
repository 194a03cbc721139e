"""Safetensors files: read and written whole, never a pickle.

A file that we write of a model of our own carries a checksum of every tensor in its metadata, so
that a tensor damaged, exchanged or permuted later is found when it is read again.
"""

import hashlib
import json
from collections.abc import Mapping
from pathlib import Path
from typing import NamedTuple

import ml_dtypes
import numpy as np
import safetensors

from vdu_jax.errors import UserError
from vdu_jax.runtime import artifacts

PICKLES = (".bin", ".pt", ".pth", ".ckpt", ".pkl")
CHECKSUMS = "vdu_jax.sha256"
FLOATS = {"F32": np.float32, "F16": np.float16, "BF16": ml_dtypes.bfloat16}


class TensorFile(NamedTuple):
    """tensors: arrays by name, of their stored types. metadata: the file's own strings."""

    tensors: dict[str, np.ndarray]
    metadata: dict[str, str]


def refuse_pickle(path: Path) -> None:
    """Raises: UserError if `path` is named like a pickle, which can run code when it is loaded."""
    if path.suffix in PICKLES:
        raise UserError(
            f"{path} is a pickle, which can run code when loaded: convert it with "
            f"`vdu convert {path} {path.with_suffix('.safetensors')}` and use that"
        )


def read(path: Path) -> TensorFile:
    """All tensors of a safetensors file.

    Raises:
      UserError: if the file is missing, a pickle, truncated, holds anything but finite float32,
        float16 or bfloat16 numbers, or a tensor does not match its checksum.
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
        if part["dtype"] not in FLOATS:
            raise UserError(
                f"{path}: tensor {name} is of type {part['dtype']}; float types are "
                f"{', '.join(FLOATS)}"
            )
        tensors[name] = np.frombuffer(part["data"], FLOATS[part["dtype"]]).reshape(part["shape"])
        if not np.isfinite(tensors[name].astype(np.float32)).all():
            raise UserError(f"{path}: tensor {name} holds values that are not finite")
    for name, expected in json.loads(metadata.get(CHECKSUMS, "{}")).items():
        if name in tensors and checksum(tensors[name]) != expected:
            raise UserError(
                f"{path}: tensor {name} is not the one that was written (checksum): get it again"
            )
    return TensorFile(tensors, metadata)


def checksum(tensor: np.ndarray) -> str:
    """A short hash of a tensor's bytes in C order."""
    return hashlib.sha256(np.ascontiguousarray(tensor).tobytes()).hexdigest()[:16]


def with_checksums(tensors: Mapping[str, np.ndarray]) -> dict[str, str]:
    """The metadata of a file of ours: the format mark that diffusers asks for, and checksums."""
    sums = {name: checksum(tensor) for name, tensor in sorted(tensors.items())}
    return {"format": "pt", CHECKSUMS: json.dumps(sums)}


def write(path: Path, tensors: Mapping[str, np.ndarray], metadata: Mapping[str, str]) -> None:
    """Write a file, whole or not at all. Equal tensors and metadata give equal bytes."""
    from safetensors.numpy import save_file

    tensors = {name: np.ascontiguousarray(tensor) for name, tensor in tensors.items()}
    with artifacts.atomic_path(Path(path)) as temporary:
        save_file(tensors, temporary, dict(metadata) or None)
