"""Convert PyTorch's checkpoints, which are pickles, to safetensors files; needs PyTorch."""

import zipfile
from collections.abc import Mapping
from pathlib import Path
from types import ModuleType
from typing import Any

from vdu_jax.errors import UserError
from vdu_jax.interop import contents, tensors, weights
from vdu_jax.runtime import artifacts


def convert(source: str | Path, destination: str | Path) -> None:
    """Convert a PyTorch checkpoint to a safetensors file; no code in it is run.

    Args:
      source: a state dict that `torch.save` wrote, or a dict that holds one under "state_dict"; or
        the index of several such files, NAME.bin.index.json, whose shards become one file.
      destination: a new file, NAME.safetensors.

    Raises:
      UserError: if PyTorch is missing, `destination` exists or has another suffix, or `source` is
        missing, damaged, a single shard, or holds anything but tensors.
    """
    source, destination = Path(source), Path(destination)
    if source.is_dir():
        raise UserError(f"{source} is a folder: name the checkpoint, or the index of its shards")
    if not source.is_file():
        raise UserError(f"{source}: no such file")
    if destination.suffix != ".safetensors":
        raise UserError(f"{destination}: the new file's name must end in .safetensors")
    if destination.exists():
        raise UserError(f"{destination} exists already: name another file, or delete it")
    indexed = tensors.INDEX.search(source.name) is not None
    shards = weights.read_index(source) if indexed else {}
    if not shards:
        tensors.check_not_shard(source, destination)
    for file in [source.parent / name for name in shards] or [source]:
        _check_contents(file)
    try:
        import torch
        from safetensors.torch import save_file
    except ImportError:
        raise UserError(
            "`vdu convert` needs PyTorch to read its files: pip install 'vdu-jax[torch]'"
        ) from None
    if shards:
        named: dict[str, Any] = {}
        left_out: list[str] = []
        for name, wanted in shards.items():
            part, more = _read(source.parent / name, torch)
            weights.check_shard(source, name, set(wanted), set(part))
            named |= part
            left_out += more
    else:
        loaded, left_out = _read(source, torch)
        named = dict(loaded)
    # safetensors refuses tensors that share memory, as tied weights do.
    copies = {name: value.detach().clone().contiguous() for name, value in named.items()}
    with artifacts.atomic_path(destination) as temporary:
        save_file(copies, temporary, {"format": "pt"})
    files = f" of {len(shards)} shards" if shards else ""
    print(f"{len(copies)} tensors{files} of {source} written to {destination}")
    if left_out:
        print(f"left out, because they are not in the state dict: {', '.join(left_out)}")


def _check_contents(path: Path) -> None:
    """Refuse a file that is no PyTorch checkpoint, and name its type, before PyTorch is needed."""
    content = contents.look(path)
    if content is None:
        raise UserError(f"{path} is damaged or no PyTorch checkpoint: get it again")
    if content.kind == "pickle":
        return
    if content.kind == "safetensors":
        content = content._replace(do="it needs no conversion")
    elif content.kind == "zip":
        content = _of_zip(path)
    if content is not None:
        raise UserError(f"{path} is {content.what}, not a PyTorch checkpoint: {content.do}")


def _of_zip(path: Path) -> contents.Contents | None:
    """Type of a zip archive; None for one that `torch.save` wrote."""
    try:
        with zipfile.ZipFile(path) as archive:
            names = archive.namelist()
    except (zipfile.BadZipFile, OSError, ValueError, NotImplementedError):
        raise UserError(f"{path} is damaged or no PyTorch checkpoint: get it again") from None
    if any(name.endswith("/constants.pkl") or "/code/" in name for name in names):
        do = "save the model's state_dict() alone with torch.save"
        return contents.Contents("torchscript", "a TorchScript program", do)
    if any(name == "data.pkl" or name.endswith("/data.pkl") for name in names):
        return None
    if names and all(name.endswith(".npy") for name in names):
        do = "get the weights as safetensors"
        return contents.Contents("npz", "a NumPy archive", do)
    return contents.Contents("zip", "a zip archive", "unpack it")


def _read(source: Path, torch: ModuleType) -> tuple[Mapping[str, Any], list[str]]:
    """The state dict in a file, and the names of its other entries."""
    try:
        loaded = torch.load(source, weights_only=True, map_location="cpu")
    except Exception as error:  # its type depends on the bytes of a damaged file
        # An unsupported operand is a byte that is no pickle operation: damage, not code.
        if "weights only" in str(error).lower() and "unsupported operand" not in str(error).lower():
            raise UserError(
                f"{source} holds more than tensors and could run code when loaded: save the "
                "model's state_dict() alone with torch.save, where you trust it"
            ) from error
        raise UserError(
            f"{source} is damaged or no PyTorch checkpoint ({type(error).__name__}): get it again, "
            "or save the model's state_dict() alone with torch.save"
        ) from error
    left_out = []
    if isinstance(loaded, Mapping) and isinstance(loaded.get("state_dict"), Mapping):
        left_out = sorted(str(name) for name in loaded if name != "state_dict")
        loaded = loaded["state_dict"]
    if not isinstance(loaded, Mapping) or not loaded:
        raise UserError(f"{source} holds no state dict: save the model's state_dict() alone")
    for name, value in loaded.items():
        if not isinstance(name, str) or not isinstance(value, torch.Tensor):
            raise UserError(
                f"{source}: entry {name!r} is no named tensor but {type(value).__name__}: save the "
                "model's state_dict() alone"
            )
    return loaded, left_out
