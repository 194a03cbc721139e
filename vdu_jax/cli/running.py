"""From a parsed command line to the stages and tools."""

import importlib
import time
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from vdu_jax.cli.commands import STAGES
from vdu_jax.runtime import terminal

if TYPE_CHECKING:
    from absl.flags import FlagValues
    from ml_collections import ConfigDict

FOLDERS = {"sample": "samples"}  # stage -> its folder, where that has another name


def validate(config: "ConfigDict") -> None:
    """Refuse a config that cannot work.

    Raises:
      UserError: naming the key.
    """
    from vdu_jax import config as vdu_config

    vdu_config.validate(config)


def run_stages(command: str, config: "ConfigDict", workdir: Path, overwrite: bool) -> None:
    """Run one stage, or for "run" all in order, on a validated config.

    A line for each stage says how long it took and where it wrote, or that nothing was left to do.

    Raises:
      UserError: if another process works in the workdir.
    """
    from vdu_jax.runtime import artifacts

    with artifacts.claim(workdir):
        _run_stages(command, config, workdir, overwrite)


def _run_stages(command: str, config: "ConfigDict", workdir: Path, overwrite: bool) -> None:
    for name in STAGES if command == "run" else (command,):
        if command == "run" and name == "train" and config.unlearn.init_from:
            continue  # the model is there
        if command == "run" and name == "relearn" and not config.relearn.images:
            continue  # not asked for
        before, began = finished(workdir, name), time.monotonic()
        importlib.import_module(f"vdu_jax.stages.{name}").run(config, workdir, overwrite)
        is_new = finished(workdir, name) != before
        report_stage(workdir, name, bool(before), time.monotonic() - began if is_new else None)


def finished(workdir: Path, stage: str) -> dict[Path, int]:
    """When each part of a stage was finished: `done.json` -> its modification time in ns."""
    folder = Path(workdir) / FOLDERS.get(stage, stage)
    markers = [folder / "done.json", *folder.glob("*/done.json")]
    return {path: path.stat().st_mtime_ns for path in markers if path.exists()}


def report_stage(workdir: Path, stage: str, was_there: bool, seconds: float | None) -> None:
    """Print a stage's line on standard error.

    Args:
      was_there: whether any part of it was finished before.
      seconds: how long it took; None if nothing was left to do.
    """
    from vdu_jax.runtime import processes, progress

    folder, name = Path(workdir) / FOLDERS.get(stage, stage), terminal.paint(stage, "name")
    if seconds is None and not was_there:
        processes.report(f"{name}: this config needs none of it")
    else:
        progress.report_done(name, folder, seconds)


def run_tool(
    command: str, arguments: Sequence[str], values: "FlagValues", config: "ConfigDict | None"
) -> int:
    """Run one of `TOOLS`; returns the exit code."""
    if command == "benchmark":
        from vdu_jax.config import validate_benchmark
        from vdu_jax.stages import benchmark

        validate_benchmark(config)
        if values.only:
            return benchmark.run_only(config, values.workdir, values.only, values.against)
        benchmark.run(config, values.workdir, values.onto)
    elif command == "status":
        from vdu_jax.cli import status

        status.run(Path(arguments[0]), values.json)
    elif command == "completion":
        from vdu_jax.cli import completion

        print(completion.SCRIPTS[arguments[0]], end="")
    elif command == "plan":
        from vdu_jax.stages import plan

        return plan.run(config, values.devices, values.memory or 0.0, values.json)
    elif command == "import":
        from vdu_jax.stages import importing

        workdir = Path(values.workdir)
        importing.run(Path(arguments[0]), workdir, values.weights, values.overwrite, values.variant)
    elif command == "export":
        from vdu_jax.stages import exporting

        folder, workdir = Path(arguments[0]), Path(values.workdir)
        exporting.run(folder, config, workdir, values.model, values.weights, values.overwrite)
    elif command == "generate":
        from vdu_jax.tasks.text_to_image import generate

        generate.run(
            *arguments,
            prompt=values.prompt,
            negative=values.negative,
            images=values.images,
            guidance_scale=values.guidance,
            steps=values.steps,
            seed=values.seed,
            precision=values.precision,
        )
    elif command == "convert":
        from vdu_jax.interop import convert

        convert.convert(*arguments)
    else:
        from vdu_jax.parity import check

        return check.run(values.precision.split(","), values.json)
    return 0
