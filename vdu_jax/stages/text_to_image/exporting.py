"""Write an unlearned model as a diffusers folder, for `StableDiffusionPipeline.from_pretrained`."""

from pathlib import Path

from ml_collections import ConfigDict

from vdu_jax.errors import UserError
from vdu_jax.interop import pipeline
from vdu_jax.stages.text_to_image import build, evaluate


def run(directory: Path, config: ConfigDict, workdir: Path, model: str) -> None:
    """Export to `directory`: the original's folder with the method's U-Net.

    Raises:
      UserError: if there is no such model, or something at `directory` already.
    """
    if model not in evaluate.models(config):
        raise UserError(f"--model={model}: one of {', '.join(evaluate.models(config))}")
    original = build.original(config, workdir)
    unet = evaluate.load_unet(config, workdir, original, model)
    source = build.original_folder(config, workdir)
    left_out = pipeline.write(directory, source, {"unet": unet})
    print(f"exported {workdir} ({model}) to {directory}")
    if left_out:
        print(f"not copied from {source}, for they may hold its weights: {', '.join(left_out)}")
