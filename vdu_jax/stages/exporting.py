"""`vdu export`: write a model as a diffusers folder, which PyTorch loads with `from_pretrained`."""

import functools
from pathlib import Path

from ml_collections import ConfigDict

from vdu_jax import posterior, tasks
from vdu_jax.errors import UserError
from vdu_jax.interop import folder
from vdu_jax.stages import importing, sample
from vdu_jax.tasks import ORIGINAL
from vdu_jax.types import Params


def run(
    directory: Path,
    config: ConfigDict | None,
    workdir: Path,
    model: str = ORIGINAL,
    weights: str = "",
    overwrite: bool = False,
) -> None:
    """Export a model of a workdir.

    Args:
      directory: the new folder.
      config: the run's settings; None writes the workdir's imported model again, byte for byte.
      workdir: the run's folder.
      model: "original" or the name of a method.
      weights: parameters of the original, "ema" or "params"; "" for those that were unlearned from.
      overwrite: whether an existing folder may be replaced.

    Raises:
      UserError: if the model does not exist, diffusers has no such architecture, or `directory`
        exists and may not be replaced.
    """
    workdir = Path(workdir)
    if config is None:
        if model != ORIGINAL or weights:
            raise UserError("--config is missing; without it only an imported model is exported")
        imported = importing.unchanged(workdir / "import")
        folder.write(directory, imported, overwrite)
        count, note = sum(tensor.size for tensor in imported.tensors.values()), ""
    else:
        if model not in sample.models(config):
            raise UserError(f"--model={model}: must be one of {', '.join(sample.models(config))}")
        task = tasks.of(config, workdir)
        load = functools.cache(functools.partial(_params, task, model, weights))
        origin = {"model": model, "weights": weights, "config": config.to_dict()}
        note = task.export(directory, load, origin, overwrite)
        count = posterior.num_parameters(load())
    print(f"exported {count:,} parameters of {workdir} ({model}) to {directory}")
    if note:
        print(f"note: {note}")


def _params(task: tasks.Task, model: str, weights: str) -> Params:
    if not weights:
        return sample.load_params(task, model)
    folder, step = task.last_checkpoint()
    if model != ORIGINAL or step is None:
        raise UserError(f"--weights={weights}: {model} has one kind of weights; leave the flag out")
    if weights == "ema" and task.weights != "ema":
        raise UserError("--weights=ema: train.ema_decay = 0 keeps no moving average; use params")
    return task.load_snapshot(folder, step, weights)
