"""`vdu import`: copy a diffusers model into a workdir.

The workdir can then be named in `train.init_from`, `unlearn.init_from` or `posterior.runs`.

import/snapshots/0/params   the model's parameters
import/config.py            a config that unlearns it, to be completed
import/done.json            all that `vdu export` needs to write the same folder again
"""

import textwrap
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from ml_collections import ConfigDict

from vdu_jax import config as vdu_config
from vdu_jax import tasks
from vdu_jax.errors import UserError
from vdu_jax.interop import folder, tensors, unet2d
from vdu_jax.runtime import artifacts
from vdu_jax.runtime.checkpoints import Store
from vdu_jax.types import Params

# Recorded in `inputs.json` as the noise schedule of a model without a scheduler.
UNKNOWN = "unknown"
CONFIG = '''"""Unlearning with the model of {source}.

    vdu run --config=THIS_FILE --workdir=DIR

Set the data set and the classes to forget, at least one more imported checkpoint of the same model
for the posterior (or its family "fisher", which needs none), and the methods.
"""

from vdu_jax import config as vdu_config
from vdu_jax import tasks


def get_config():
    config = vdu_config.default()
    config.unlearn.init_from = {workdir!r}
    config.posterior.source = "runs"
    config.posterior.runs = ()  # workdirs of further imported checkpoints
{notes}{settings}
    # config.data.name, config.forget.classes
    # config.methods.vdu = vdu_config.method("vdu")
    return config
'''


# For a model without a scheduler; no noise schedule is assumed.
UNKNOWN_SCHEDULE = f"""\
    # The model came without a scheduler. Say here how it was trained: the noise schedule
    # ("linear", "scaled_linear" or "cosine") and, where they differ, the settings below it.
    config.diffusion.schedule = {UNKNOWN!r}
    # config.diffusion.num_steps, beta_start, beta_end, prediction
    config.unlearn.assume_schedule = True  # the model was trained with this schedule
"""


def settings_of(model: folder.ModelFolder, where: Path) -> ConfigDict:
    """The default config with an imported model's settings, checked.

    Args:
      model: the model.
      where: its folder, for messages.

    Raises:
      UserError: if a setting has the wrong type or cannot work.
    """
    config = vdu_config.default(folder.ARCHITECTURE)
    for section, values in model.settings.items():
        for key, value in values.items():
            try:
                config[section][key] = value
            except (TypeError, ValueError) as error:
                raise UserError(f"{where}: {section}.{key} = {value!r}: {error}") from error
    try:
        for size in set(known_shape(config, model.image_shape)[:2]):
            vdu_config.validate_model(config, size)
        vdu_config.validate_diffusion(config)
    except UserError as error:
        raise UserError(f"{where}: {error}") from error
    return config


def known_shape(config: ConfigDict, image_shape: tuple[int, int, int]) -> tuple[int, int, int]:
    """An image shape that fits a U-Net, for tracing it.

    Args:
      config: all settings.
      image_shape: (H, W, C); H and W are 0 if the model's folder does not name them.

    Returns:
      (H, W, C), with the smallest size that the network takes for one that is 0.
    """
    smallest = 2 ** (len(config.model.block_out_channels) - 1)
    height, width, channels = image_shape
    return (height or smallest, width or smallest, channels)


def read(
    source: Path, weights: str = "params", variant: str = ""
) -> tuple[folder.ModelFolder, ConfigDict, Params]:
    """Read a diffusers folder of a pixel model.

    Args:
      source: pipeline or `UNet2DModel` folder.
      weights: "params" or "ema".
      variant: variant of the weights' files, such as "fp16"; "" for the files without one, or the
        only one.

    Returns:
      The folder's contents, the default config with its settings, and its parameters.

    Raises:
      UserError: see `interop.folder.read`.
    """
    model = folder.read(source, weights, variant)
    config = settings_of(model, source)
    like = tasks.of(config, image_shape=known_shape(config, model.image_shape)).abstract_params
    return model, config, unet2d.to_params(model.tensors, like, str(source / model.weights))


def run(
    source: Path,
    workdir: Path,
    weights: str = "params",
    overwrite: bool = False,
    variant: str = "",
) -> None:
    """Import a diffusers folder into a workdir.

    Args:
      source: pipeline or `UNet2DModel` folder.
      workdir: folder for the imported model.
      weights: "params" or "ema".
      overwrite: whether an imported model may be replaced.
      variant: as in `read`.

    Raises:
      UserError: see `interop.folder.read`; or if another process writes to the workdir.
    """
    with artifacts.claim(workdir):
        _run(Path(source), Path(workdir), weights, overwrite, variant)


def _run(source: Path, workdir: Path, weights: str, overwrite: bool, variant: str) -> None:
    model, config, params = read(source, weights, variant)
    stage = artifacts.StageDir(
        workdir,
        "import",
        {
            "model": config.model.to_dict(),
            "diffusion": config.diffusion.to_dict() if model.settings["diffusion"] else UNKNOWN,
            "tensors": tensors.checksums(model.tensors),
            "texts": model.texts,
        },
    )
    if not stage.done(overwrite):
        path = stage.begin()
        with Store(path / "snapshots") as store:
            store.save(0, {"params": params})
            store.wait()
        artifacts.write_text(path / "config.py", _config_text(model, source, workdir))
        types = {name: str(tensor.dtype) for name, tensor in model.tensors.items()}
        stage.finish(
            {
                "steps": 0,
                "source": str(source.absolute()),
                "image_shape": model.image_shape,
                "parameters": sum(tensor.size for tensor in model.tensors.values()),
                "settings": model.settings,
                "metadata": model.metadata,
                "weights": model.weights,
                "texts": model.texts,
                "shards": model.shards,
                "types": types,
            }
        )
    summary = artifacts.finished(stage.path)["summary"]
    print(f"imported {summary['parameters']:,} parameters of {source} into {stage.path}")
    for note in model.notes:
        print(f"note: {note}")
    if not model.settings["diffusion"]:
        print(f"note: {_no_schedule(source, stage.path / 'config.py')}")
    print(f"a config to start from: {stage.path / 'config.py'}")


def _no_schedule(source: Path, config: Path) -> str:
    said = f"{source} has no scheduler_config.json, so the noise schedule it was trained with is "
    said += f"not known: set config.diffusion in {config}"
    near = [source.absolute().parent / name for name in ("", "scheduler")]
    near = [path / "scheduler_config.json" for path in near]
    return said + "".join(f" (there is one at {path})" for path in near if path.is_file())


def _config_text(model: folder.ModelFolder, source: Path, workdir: Path) -> str:
    lines = [
        f"    config.{section}.{key} = {value!r}"
        for section, values in model.settings.items()
        for key, value in values.items()
    ]
    comment: dict[str, Any] = {
        "width": 100,
        "initial_indent": "    # ",
        "subsequent_indent": "    # ",
    }
    notes = "".join(textwrap.fill(note, **comment) + "\n" for note in model.notes)
    if not model.settings["diffusion"]:
        notes += UNKNOWN_SCHEDULE
    return CONFIG.format(
        source=repr(str(source))[1:-1].replace('"', '\\"'),
        workdir=str(workdir.absolute()).replace("$", "$$"),  # as paths in configs are expanded
        notes=notes,
        settings="\n".join(lines),
    )


def unchanged(path: Path) -> folder.ModelFolder:
    """The diffusers folder that was imported, tensor for tensor.

    Args:
      path: the folder `import` of a workdir.

    Raises:
      UserError: if the import has not finished or is damaged.
    """
    summary: Mapping[str, Any] = artifacts.finished(path)["summary"]
    image_shape = tuple(summary["image_shape"])
    config = vdu_config.default(folder.ARCHITECTURE)
    for key, value in summary["settings"]["model"].items():
        config.model[key] = tuple(value) if isinstance(value, list) else value
    task = tasks.of(config, image_shape=known_shape(config, image_shape))
    params = task.load_snapshot(path, 0, "params")
    types = summary["types"]
    named = unet2d.to_tensors(params, unet2d.attention_names(types))
    named = {name: value.astype(tensors.NAMED_TYPES[types[name]]) for name, value in named.items()}
    return folder.ModelFolder(
        summary["settings"], image_shape, named, summary["metadata"], summary["weights"],
        summary["texts"], summary.get("shards", {}),
    )  # fmt: skip
