"""From PyTorch's checkpoints, which are pickles, to safetensors files. Needs PyTorch."""

from collections.abc import Mapping
from pathlib import Path

from vdu_jax.errors import UserError
from vdu_jax.runtime import artifacts


def convert(source: str | Path, destination: str | Path) -> None:
    """Write the tensors of a checkpoint as they are; no code in it is run.

    Args:
      source: a state dict that `torch.save` wrote, or a dict that holds one under "state_dict".
      destination: a new file, NAME.safetensors.

    Raises:
      UserError: if PyTorch is missing, `destination` exists or has another suffix, or `source` is
        missing, damaged, or holds anything but tensors.
    """
    source, destination = Path(source), Path(destination)
    if not source.is_file():
        raise UserError(f"{source}: no such file")
    if destination.suffix != ".safetensors":
        raise UserError(f"{destination}: the new file's name must end in .safetensors")
    if destination.exists():
        raise UserError(f"{destination} exists already: name another file, or delete it")
    try:
        import torch
        from safetensors.torch import save_file
    except ImportError:
        raise UserError(
            "`vdu convert` needs PyTorch to read its files: pip install 'vdu-jax[torch]'"
        ) from None
    found = _read(source, torch)
    # Tensors that share memory, as tied weights do, are not allowed in the format.
    tensors = {name: value.detach().clone().contiguous() for name, value in found.items()}
    with artifacts.atomic_path(destination) as temporary:
        save_file(tensors, temporary, {"format": "pt"})


def _read(source: Path, torch) -> Mapping:
    try:
        found = torch.load(source, weights_only=True, map_location="cpu")
    except Exception as error:  # damaged files raise whatever the bytes happen to mean
        if "weights only" in str(error).lower():
            raise UserError(
                f"{source} holds more than tensors and could run code when loaded: save the "
                "model's state_dict() alone with torch.save, where you trust it"
            ) from error
        raise UserError(
            f"{source} is damaged or no PyTorch checkpoint ({type(error).__name__}): get it again"
        ) from error
    if isinstance(found, Mapping) and isinstance(found.get("state_dict"), Mapping):
        found = found["state_dict"]
    if not isinstance(found, Mapping) or not found:
        raise UserError(f"{source} holds no state dict: save the model's state_dict() alone")
    for name, value in found.items():
        if not isinstance(name, str) or not isinstance(value, torch.Tensor):
            raise UserError(
                f"{source}: entry {name!r} is no named tensor but {type(value).__name__}: save the "
                "model's state_dict() alone"
            )
    return found
