"""Read and write safetensors files; pickles are refused."""

import hashlib
import json
import re
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import NamedTuple

import ml_dtypes
import numpy as np
import safetensors

from vdu_jax.errors import UserError
from vdu_jax.interop import contents
from vdu_jax.runtime import artifacts

PICKLES = (".bin", ".pt", ".pth", ".ckpt", ".pkl")
# In the name of a shard, and of the index that says which tensor lies in which shard.
SHARD = re.compile(r"-(\d{5})-of-(\d{5})(?=\.)")
INDEX = re.compile(r"\.index(\.[^.]+)?\.json$")
FLOATS = {"F32": np.float32, "F16": np.float16, "BF16": ml_dtypes.bfloat16}
NAMED_TYPES = {np.dtype(t).name: np.dtype(t) for t in FLOATS.values()}


class TensorFile(NamedTuple):
    """Contents of a safetensors file.

    Attributes:
      tensors: arrays by name, of the stored types.
      metadata: strings by name.
    """

    tensors: dict[str, np.ndarray]
    metadata: dict[str, str]


def shard_count(path: Path) -> int:
    """Number of shards by the name of one of them; 1 if the file is no shard."""
    match = SHARD.search(path.name)
    return int(match[2]) if match else 1


def index_of(shard: Path) -> Path | None:
    """The index file beside a shard that lists it, or None."""
    for path in sorted(shard.parent.glob("*.json")):
        if not INDEX.search(path.name):
            continue
        try:
            files = set(json.loads(path.read_text(encoding="utf-8"))["weight_map"].values())
        except (ValueError, OSError, KeyError, TypeError, AttributeError, RecursionError):
            continue  # not an index
        if shard.name in files and len(files) > 1:
            return path
    return None


def check_not_shard(path: Path, converted: Path | None = None) -> None:
    """Check that a pickle is not one of several shards.

    Args:
      path: the pickle.
      converted: the safetensors file that the error's command names; None for one beside `path`.

    Raises:
      UserError: if it is; the message has the command that converts all shards.
    """
    index, count = index_of(path), shard_count(path)
    if index is not None:
        converted = converted or path.with_name(INDEX.sub(r"", index.name)).with_suffix(
            ".safetensors"
        )
        raise UserError(
            f"{path} holds only some of the tensors: convert all shards by their index, with "
            f"`vdu convert {index} {converted}`"
        )
    if count > 1:
        raise UserError(
            f"{path} is one of {count} shards and holds only some of the tensors: get their index, "
            f"{SHARD.sub('', path.name)}.index.json, and run `vdu convert` on that"
        )


def refuse_pickle(path: Path, converted: Path | None = None) -> None:
    """Refuse a file with the suffix of a pickle, which can run code when it is loaded.

    Args:
      path: the file.
      converted: the safetensors file that the error's command names; None for one beside `path`.

    Raises:
      UserError: if it has; the message has the command that converts it.
    """
    if path.suffix in PICKLES:
        check_not_shard(path, converted)
        converted = converted or path.with_suffix(".safetensors")
        raise UserError(
            f"{path} is a pickle, which can run code when loaded: make a safetensors file of it "
            f"with `vdu convert {path} {converted}`"
        )


def read(path: Path, ignored: Callable[[str], bool] = lambda name: False) -> TensorFile:
    """Read all tensors of a safetensors file.

    Args:
      path: the file.
      ignored: `(name) -> bool`: whether to leave out a tensor, whatever its type and values.

    Raises:
      UserError: if the file is missing, a pickle or truncated, or holds anything but finite
        float32, float16 or bfloat16 numbers.
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
        what = contents.explain(path)
        raise UserError(
            f"{path} is {what}"
            if what
            else f"{path} is damaged or no safetensors file ({error}): get it again"
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
    """Write a safetensors file atomically; equal tensors and metadata give equal bytes.

    Args:
      path: the file.
      tensors: arrays by name.
      metadata: strings by name.
    """
    from safetensors.numpy import save_file

    tensors = {name: np.asarray(tensor, order="C") for name, tensor in tensors.items()}
    with artifacts.atomic_path(Path(path)) as temporary:
        save_file(tensors, temporary, dict(metadata) or None)
