"""Find, read and write the files of a network's tensors: variants and shards.

For a name NAME.safetensors, and a variant such as fp16 or ema:

    NAME.safetensors                    the usual file
    NAME.fp16.safetensors               a variant
    NAME.safetensors.index.json         the index of shards, NAME-00001-of-00002.safetensors, …
    NAME.safetensors.index.fp16.json    the index of a variant's shards; other versions of diffusers
                                        call it NAME.fp16.safetensors.index.json
                                        or NAME.safetensors.fp16.index.json

"weight_map" in an index gives the file of each tensor.
"""

import json
import re
from collections.abc import Callable, Mapping, Set
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from vdu_jax.errors import UserError
from vdu_jax.interop import tensors
from vdu_jax.interop.tensors import INDEX, SHARD

# Suffixes of files with weights, of any library.
SUFFIXES = (
    ".safetensors", *tensors.PICKLES, ".msgpack", ".h5", ".onnx", ".onnx_data", ".pb", ".gguf",
    ".flashpack",
)  # fmt: skip


class Found(NamedTuple):
    """Files of a network's tensors, not opened yet.

    Attributes:
      file: the single file, or the index of the shards.
      variant: e.g. "fp16"; "" for the usual file.
      shards: file name -> names of its tensors, by the index; empty for a single file.
      others: the other variants in the folder.
    """

    file: Path
    variant: str
    shards: dict[str, list[str]]
    others: tuple[str, ...] = ()


class Stored(NamedTuple):
    """A network's tensors, and how they were distributed over files.

    Attributes:
      tensors: arrays by name, of the stored types.
      metadata: the single file's strings by name; empty for shards.
      shards: file name -> {"tensors": names, "metadata": strings}; empty for a single file.
    """

    tensors: dict[str, np.ndarray]
    metadata: dict[str, str]
    shards: dict[str, dict[str, Any]]


def is_weights(name: str) -> bool:
    """Whether a file has the name of a file with weights, or of an index of such files."""
    return name.endswith(SUFFIXES) or INDEX.search(name) is not None


def read_index(path: Path) -> dict[str, list[str]]:
    """Read the index of shards.

    Args:
      path: the index.

    Returns:
      {file name: names of its tensors}, sorted.

    Raises:
      UserError: if the file is missing or no index, or a shard is missing.
    """
    path = Path(path)
    try:
        value = json.loads(path.read_text(encoding="utf-8"))
    except (ValueError, OSError, RecursionError) as error:
        raise UserError(f"{path} cannot be read as JSON: {error}") from error
    places = value.get("weight_map") if isinstance(value, dict) else None
    if not isinstance(places, dict) or not places:
        raise UserError(f"{path} is no index of shards: it has no weight_map")
    shards: dict[str, list[str]] = {}
    for name, file in places.items():
        if not isinstance(file, str) or Path(file).name != file:
            raise UserError(f"{path}: weight_map: {name} lies in {file!r}: it must be a file name")
        shards.setdefault(file, []).append(name)
    for number, file in enumerate(sorted(shards), 1):
        if not (path.parent / file).is_file():
            raise UserError(
                f"{path.parent / file} is missing, shard {number} of {len(shards)} by "
                f"{path.name}: get it again"
            )
    return {file: sorted(names) for file, names in sorted(shards.items())}


def _candidates(network: Path, name: str) -> dict[str, list[Path]]:
    """{variant: its files, single ones and indices}."""
    stem = re.escape(name.removesuffix(".safetensors"))
    patterns = (
        re.compile(rf"{stem}(?:\.(?P<variant>[^.]+))?\.safetensors"),
        re.compile(rf"{stem}\.safetensors\.index(?:\.(?P<variant>[^.]+))?\.json"),
        re.compile(rf"{stem}\.(?P<variant>[^.]+)\.safetensors\.index\.json"),
        re.compile(rf"{stem}\.safetensors\.(?P<variant>[^.]+)\.index\.json"),
    )
    variants: dict[str, list[Path]] = {}
    for path in sorted(network.iterdir()):
        matches = (pattern.fullmatch(path.name) for pattern in patterns)
        match = next((match for match in matches if match), None)
        if match and path.is_file() and not SHARD.search(path.name):
            variants.setdefault(match["variant"] or "", []).append(path)
    return variants


def find(network: Path, name: str, variant: str | None = None) -> Found:
    """Find the files of a network's tensors: the usual ones, or else the only variant.

    Args:
      network: the folder.
      name: name of the usual file, NAME.safetensors.
      variant: the variant to read; "" for the default above; None if the command has no flag
        --variant, for the default and other errors.

    Raises:
      UserError: if there is no file, or there are several variants without the usual file.
    """
    network = Path(network)
    if not network.is_dir():
        raise UserError(f"{network}: no such folder")
    candidates = _candidates(network, name)
    if variant and variant not in candidates:
        have = ", ".join(sorted(v or "the usual one" for v in candidates)) or "none"
        pickled = _pickled(network, name, variant)
        if pickled is not None:
            _refuse_pickle(pickled, network, name, variant)
        raise UserError(
            f"--variant={variant}: {network} has no {_of_variant(name, variant)}; choose one of "
            f"its variants as safetensors: {have}"
        )
    chosen = variant or ""
    if not variant and "" not in candidates:
        if not candidates:
            _refuse_nothing(network, name)
        if len(candidates) > 1:
            names = ", ".join(sorted(candidates))
            do = f"choose one with --variant={'|'.join(sorted(candidates))}"
            if variant is None:
                do = "leave only one of them there"
            raise UserError(f"{network} has no {name} but the variants {names}: {do}")
        (chosen,) = candidates
    files = candidates[chosen]
    if len(files) > 1:
        names = " and ".join(path.name for path in files)
        raise UserError(f"{network} holds the same weights twice, in {names}: delete one of them")
    (file,) = files
    shards = read_index(file) if file.name.endswith(".json") else {}
    return Found(file, chosen, shards, tuple(sorted(candidates.keys() - {chosen})))


def _of_variant(name: str, variant: str) -> str:
    return name.replace(".safetensors", f".{variant}.safetensors")


def _pickled(network: Path, name: str, variant: str = "") -> Path | None:
    """The pickle of these weights, or the index of its shards; None if there is none."""
    # PyTorch's name for model.safetensors is pytorch_model.bin.
    stem = name.removesuffix(".safetensors")
    stems = (stem, "pytorch_model")
    here = sorted(p for p in network.iterdir() if p.is_file())
    indices = [
        p for p in here if INDEX.search(p.name) and ".bin." in p.name and p.name.startswith(stems)
    ]
    some = [*indices, *(p for p in here if p.suffix in tensors.PICKLES)]
    if variant:
        some = [p for p in some if f".{variant}" in p.name]
    return some[0] if some else None


def _refuse_pickle(path: Path, network: Path, name: str, variant: str = "") -> None:
    target = network / (_of_variant(name, variant) if variant else name)
    if path.suffix == ".json":
        raise UserError(
            f"{path} lists pickles, which can run code when loaded: make one safetensors file of "
            f"them with `vdu convert {path} {target}`"
        )
    tensors.refuse_pickle(path, target)


def _refuse_nothing(network: Path, name: str) -> None:
    pickled = _pickled(network, name)
    if pickled is not None:
        _refuse_pickle(pickled, network, name)
    there = sorted(p.name for p in network.iterdir() if p.is_file() and is_weights(p.name))
    shards = [n for n in there if SHARD.search(n)]
    if shards:
        raise UserError(
            f"{network / (name + '.index.json')} is missing, the index of {shards[0]} and the "
            "other shards: get it again"
        )
    if there:
        raise UserError(
            f"{network / name}: no such file; the folder has {', '.join(there)}, but weights are "
            "read from a safetensors file of that name"
        )
    raise UserError(f"{network / name}: no such file: get the weights")


def read(files: Found, ignored: Callable[[str], bool] = lambda name: False) -> Stored:
    """Read all tensors of a network.

    Args:
      files: the files; see `find`.
      ignored: see `tensors.read`.

    Raises:
      UserError: if a file cannot be read (see `tensors.read`), or a shard does not hold exactly the
        tensors that the index lists.
    """
    if not files.shards:
        return Stored(*tensors.read(files.file, ignored), {})
    whole: dict[str, np.ndarray] = {}
    shards = {}
    for file, names in files.shards.items():
        part = tensors.read(files.file.parent / file, ignored)
        wanted = {name for name in names if not ignored(name)}
        check_shard(files.file, file, wanted, part.tensors.keys())
        whole |= part.tensors
        shards[file] = {"tensors": sorted(wanted), "metadata": part.metadata}
    return Stored(whole, {}, shards)


def check_shard(index: Path, file: str, wanted: Set[str], held: Set[str]) -> None:
    """Check that a shard holds exactly the tensors that its index lists.

    Args:
      index: the index.
      file: file name of the shard.
      wanted: names of tensors that the index lists.
      held: names of tensors in the shard.

    Raises:
      UserError: naming the first tensor that is missing or unexpected.
    """
    for names, problem in ((wanted - held, "lacks"), (held - wanted, "holds")):
        if names:
            says = "lists there" if problem == "lacks" else "does not list there"
            raise UserError(
                f"{index.parent / file} {problem} the tensor {min(names)}, which {index.name} "
                f"{says}: get both again"
            )


def write(
    folder: Path,
    file: str,
    named: Mapping[str, np.ndarray],
    metadata: Mapping[str, str],
    shards: Mapping[str, Mapping[str, Any]],
) -> None:
    """Write tensors as they were stored, to one file or to shards.

    Args:
      folder: the network's folder.
      file: name of the single file; not used for shards, whose index the caller writes.
      named: arrays by name.
      metadata: strings by name, for the single file.
      shards: see `Stored`; empty for a single file.
    """
    if not shards:
        tensors.write(folder / file, named, metadata)
    for name, shard in shards.items():
        part = {tensor: named[tensor] for tensor in shard["tensors"]}
        tensors.write(folder / name, part, shard["metadata"])
