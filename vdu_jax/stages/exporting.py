"""Write a model of a workdir as a diffusers folder, which PyTorch loads with
`DDPMPipeline.from_pretrained`."""

from pathlib import Path

from ml_collections import ConfigDict

from vdu_jax import tasks
from vdu_jax.errors import UserError
from vdu_jax.interop import folder, unet2d
from vdu_jax.runtime import artifacts
from vdu_jax.stages import importing, sample
from vdu_jax.tasks import ORIGINAL


def run(
    directory: Path,
    config: ConfigDict | None,
    workdir: Path,
    model: str = ORIGINAL,
    weights: str = "",
    overwrite: bool = False,
) -> None:
    """Export to `directory`.

    Args:
      config: the run's; `None` for a workdir that holds an imported model, which is then written
        as it came, bit by bit.
      model: "original" or the name of a method.
      weights: of the original: "ema" or "params"; empty for the ones that were unlearned from.

    Raises:
      UserError: if there is no such model, or `directory` exists and `overwrite` is off.
    """
    workdir = Path(workdir)
    if config is None:
        if model != ORIGINAL or weights:
            raise UserError("--config is missing; without it only an imported model is exported")
        found = importing.unchanged(workdir / "import")
    else:
        found = _of_run(config, workdir, model, weights)
    folder.write(directory, found, overwrite)
    size = sum(tensor.size for tensor in found.tensors.values())
    print(f"exported {size:,} parameters of {workdir} ({model}) to {directory}")
    if rows := found.settings["model"].get("num_class_embeds"):
        print(
            f"note: no pipeline of diffusers asks for a class: UNet2DModel.from_pretrained"
            f"({str(directory)!r}, subfolder='unet') takes class_labels in 0..{rows - 1}"
        )


def _of_run(config: ConfigDict, workdir: Path, model: str, weights: str) -> folder.ModelFolder:
    if config.model.name != folder.ARCHITECTURE:
        raise UserError(
            f"config key model.name = {config.model.name!r}: only {folder.ARCHITECTURE!r} can be "
            "exported to diffusers; its checkpoints stay usable by the other commands"
        )
    task = tasks.of(config, workdir)
    if model not in sample.models(config):
        raise UserError(f"--model={model}: one of {', '.join(sample.models(config))}")
    if weights:
        if model != ORIGINAL:
            raise UserError(f"--weights={weights}: {model} has one kind of weights only")
        if weights == "ema" and config.train.ema_decay == 0:
            raise UserError("--weights=ema: train.ema_decay = 0 keeps no moving average")
        params = task.load_last(task.original_folder(), weights)
    else:
        params = sample.load_params(task, model)
    settings = {s: config[s].to_dict() for s in ("model", "diffusion", "sampler")}
    where = task.original_folder() if model == ORIGINAL else workdir / "unlearn" / model
    made = artifacts.finished(where)
    origin = {
        "model": model,
        "weights": weights,
        "summary": made["summary"],
        "provenance": made["provenance"],
        "config": config.to_dict(),
    }
    return folder.pipeline(settings, task.image_shape, unet2d.to_tensors(params), origin)
