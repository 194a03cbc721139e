"""Safetensors files: read and written whole, never a pickle."""

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
# Of the names of one of several files, and of the index that says which tensor lies in which.
SHARD = re.compile(r"-(\d{5})-of-(\d{5})(?=\.)")
INDEX = re.compile(r"\.index(\.[^.]+)?\.json$")
FLOATS = {"F32": np.float32, "F16": np.float16, "BF16": ml_dtypes.bfloat16}
NAMED_TYPES = {np.dtype(t).name: np.dtype(t) for t in FLOATS.values()}


class TensorFile(NamedTuple):
    """tensors: arrays by name, of their stored types. metadata: the file's own strings."""

    tensors: dict[str, np.ndarray]
    metadata: dict[str, str]


def shard_count(path: Path) -> int:
    """How many files a shard's name says that there are; 1 for a name of no shard."""
    match = SHARD.search(path.name)
    return int(match[2]) if match else 1


def index_of(shard: Path) -> Path | None:
    """The index beside a file that lists it as one of several, if there is one."""
    for path in sorted(shard.parent.glob("*.json")):
        if not INDEX.search(path.name):
            continue
        try:
            files = set(json.loads(path.read_text(encoding="utf-8"))["weight_map"].values())
        except (ValueError, OSError, KeyError, TypeError, AttributeError, RecursionError):
            continue  # whatever it is, it lists nothing
        if shard.name in files and len(files) > 1:
            return path
    return None


def check_not_shard(path: Path, converted: Path | None = None) -> None:
    """Refuse a pickle that holds only some of a network's tensors.

    Raises:
      UserError: with the command that converts all of them.
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
    """Refuse a file that is named like a pickle, which can run code when it is loaded.

    Args:
      converted: where the error proposes to put the tensors.

    Raises:
      UserError: with the command that converts it.
    """
    if path.suffix in PICKLES:
        check_not_shard(path, converted)
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
    """Write a file, whole or not at all. Equal tensors and metadata give equal bytes."""
    from safetensors.numpy import save_file

    tensors = {name: np.asarray(tensor, order="C") for name, tensor in tensors.items()}
    with artifacts.atomic_path(Path(path)) as temporary:
        save_file(tensors, temporary, dict(metadata) or None)
