"""The command line: `vdu STAGE --config=FILE --workdir=DIR [--config.a.b=VALUE …]`, and tools."""

import contextlib
import ctypes
import errno
import importlib
import os
import re
import sys
import threading
import traceback
from collections.abc import Mapping, Sequence
from pathlib import Path

import vdu_jax
from vdu_jax.errors import UserError
from vdu_jax.runtime import preemption

STAGES = ("train", "posterior", "replay", "unlearn", "sample", "evaluate", "relearn", "report")
TEXT_KIND = "text_to_image"  # of a config, `config.kind`
TEXT_STAGES = ("train", "posterior", "replay", "unlearn", "evaluate", "report")

USAGE = f"""usage: vdu STAGE --config=FILE --workdir=DIR [--config.KEY=VALUE …] [FLAGS]

STAGE
  run         all of the stages below in order; what is done for the same config is skipped
  train       pretrain the diffusion model, keeping checkpoints
  posterior   the Gaussian over the parameters, from checkpoints or the Fisher information
  replay      draw images from the model and clean them of forget-like ones
  unlearn     every method of the config
  sample      draw images from the original and the unlearned models
  evaluate    PUL, u-FID, class histogram, confidence
  relearn     steps on forget images until the class is back; only with relearn.images > 0
  report      report.html and the table
  Configs of kind text_to_image have all but sample and relearn (extra sd).

TOOLS
  benchmark --config=FILE --workdir=DIR [--onto=RESULTS.json]
            [--only=METHOD/CLASS/SEED [--against=RESULTS.json]]
              every method on every class and seed of the config; --onto takes the cells that a
              published file has as they are; --only makes one cell again and compares it with
              the published figures
  plan --config=FILE [--devices=N] [--memory=GIB] [--json]
              what training, unlearning and sampling hold in a device's memory
  import DIR --workdir=DIR [--weights=params|ema] [--variant=fp16|…]
              bring in a diffusers model (a folder with safetensors weights)
  export DIR --workdir=DIR [--config=FILE] [--model=original|METHOD] [--weights=ema|params]
              write a model as a diffusers folder, for DDPMPipeline.from_pretrained or, of a
              text-to-image model, StableDiffusionPipeline.from_pretrained
  generate DIR GRID.png --prompt=TEXT [--negative=TEXT] [--guidance=7.5] [--images=4]
            [--steps=50] [--seed=0] [--precision=float32|bfloat16]
              draw images of a text with a Stable Diffusion folder (needs the extra sd)
  convert FILE FILE.safetensors
              turn a PyTorch checkpoint into safetensors (needs the extra torch)
  check [--precision=float32,tf32,bfloat16] [--json]
              compare this machine's numbers with PyTorch's

--config.KEY=VALUE  changes one setting, e.g. --config.forget.classes='(3,)'
--overwrite         replace what the workdir holds of another config
--coordinator=HOST:PORT --processes=N --process=I
                    be process I of N that run a stage together; HOST:PORT is process 0's.
                    --coordinator=auto finds all three under Slurm, on a TPU pod, in Kubernetes
--debug             show the traceback of a user's mistake, too

vdu {vdu_jax.__version__}. Example:
  vdu run --config=configs/digits.py --workdir=runs/digits
"""

# XLA's fused CPU library calls: 1.5 times faster U-Nets. Set XLA_FLAGS to choose otherwise.
XLA_FLAGS = (
    "--xla_cpu_experimental_ynn_fusion_type="
    "LIBRARY_FUSION_TYPE_DOT,LIBRARY_FUSION_TYPE_ELTWISE,LIBRARY_FUSION_TYPE_REDUCE"
)

# How glibc is to hand out memory: environment variable -> mallopt's parameter and value (malloc.h).
# One pool for all threads; in one for each the peak is a seventh higher (docs/scaling.md).
MALLOC = {"MALLOC_ARENA_MAX": (-8, 1)}
# By default a step's large arrays come from the kernel as fresh pages and go back to it: a quarter
# of a training step's time (docs/performance.md). So what is freed is kept ...
KEEP_FREED = MALLOC | {"MALLOC_MMAP_MAX_": (-4, 0), "MALLOC_TRIM_THRESHOLD_": (-1, -1)}
# ... unless the peak matters more: then blocks from 1 MiB on are always given back.
RETURN_FREED = MALLOC | {"MALLOC_MMAP_THRESHOLD_": (-3, 2**20)}

# Tool -> its positional arguments and the flags that it cannot do without.
TOOLS = {
    "benchmark": ((), ("config", "workdir")),
    "plan": ((), ("config",)),
    "import": (("DIR",), ("workdir",)),
    "export": (("DIR",), ("workdir",)),
    "generate": (("DIR", "GRID.png"), ("prompt",)),
    "convert": (("FILE", "FILE.safetensors"), ()),
    "check": ((), ()),
}
STAGE_ARGUMENTS = ((), ("config", "workdir"))


def parse(argv: Sequence[str], command: str = "run"):
    """The flags and positional arguments of a command line (without the program and the command).

    Returns:
      absl's flag values, and a list as long as the command's positional arguments.

    Raises:
      UserError: for an unknown flag or key, a value of the wrong type, or a missing argument.
    """
    from absl import flags
    from ml_collections import config_flags

    values = flags.FlagValues()
    flags.DEFINE_string("model", "original", "what to export", flag_values=values)
    flags.DEFINE_string("weights", "", "ema or params", flag_values=values)
    flags.DEFINE_string("variant", "", "which of the weights' files", flag_values=values)
    flags.DEFINE_string("only", "", "a cell of the benchmark", flag_values=values)
    flags.DEFINE_string("against", "", "published results.json", flag_values=values)
    flags.DEFINE_string("onto", "", "published results.json to add to", flag_values=values)
    flags.DEFINE_string("precision", "float32", "what to compute in", flag_values=values)
    flags.DEFINE_string("prompt", "", "what to draw", flag_values=values)
    flags.DEFINE_string("negative", "", "what not to draw", flag_values=values)
    flags.DEFINE_float("guidance", 7.5, "weight of the prompt", flag_values=values)
    flags.DEFINE_integer("images", 4, "how many to draw", flag_values=values)
    flags.DEFINE_integer("steps", 50, "of sampling", flag_values=values)
    flags.DEFINE_integer("seed", 0, "of the noise", flag_values=values)
    flags.DEFINE_boolean("json", False, "for machines", flag_values=values)
    flags.DEFINE_integer("devices", 1, "devices to plan for", flag_values=values)
    flags.DEFINE_float("memory", 0.0, "GiB of a device", flag_values=values)
    config_flags.DEFINE_config_file("config", None, "settings", flag_values=values)
    flags.DEFINE_string("workdir", None, "folder of the run", flag_values=values)
    flags.DEFINE_boolean("overwrite", False, "replace other work", flag_values=values)
    flags.DEFINE_boolean("debug", False, "tracebacks", flag_values=values)
    flags.DEFINE_string("coordinator", "", "HOST:PORT of process 0", flag_values=values)
    flags.DEFINE_integer("processes", None, "how many", flag_values=values)
    flags.DEFINE_integer("process", None, "which one", flag_values=values)
    path = next((a.split("=", 1)[1] for a in argv if a.startswith("--config=")), None)
    if path is not None and not Path(path).is_file():
        raise UserError(f"--config={path}: no such file; the configs are in configs/")
    if path is not None:
        # A config may build on another in its folder or in the one above.
        folder = Path(path).resolve().parent
        sys.path[:0] = [str(folder), str(folder.parent)]
    program = sys.argv
    try:
        sys.argv = ["vdu", *argv]  # config_flags looks for overrides there, not in its arguments
        rest = values(sys.argv)[1:]
    except UserError:
        raise
    except (flags.Error, AttributeError, KeyError, TypeError, ValueError) as error:
        raise UserError(f"bad arguments: {_one_line(error)}") from error
    except (Exception, SystemExit) as error:  # whatever the user's config file raises
        raise UserError(f"--config={path} failed: {type(error).__name__}: {error}") from error
    finally:
        sys.argv = program
    positional, required = TOOLS.get(command, STAGE_ARGUMENTS)
    if len(rest) > len(positional):
        raise UserError(f"unexpected argument {rest[len(positional)]!r}; see `vdu --help`")
    if len(rest) < len(positional):
        raise UserError(f"{positional[len(rest)]} is missing; see `vdu --help`")
    for flag in required:
        if not values[flag].value:
            raise UserError(f"--{flag} is missing; see `vdu --help`")
    return values, rest


def _one_line(error: Exception) -> str:
    lines = str(error.args[0] if error.args else error).strip().splitlines()
    # What a config file raises comes as a traceback in the message; its last line says what.
    return lines[-1] if "Traceback (most recent call last):" in lines else lines[0]


def _of_text(config) -> bool:
    """Whether a config is of a text-to-image model."""
    # A config file may give anything; what is no section is refused by `validate`.
    return hasattr(config, "get") and config.get("kind") == TEXT_KIND


def validate(config) -> None:
    """Refuse a config of any kind that cannot work.

    Raises:
      UserError: with the key.
    """
    from vdu_jax import config as images
    from vdu_jax import text_config

    (text_config if _of_text(config) else images).validate(config)


def run_stages(command: str, config, workdir: Path, overwrite: bool) -> None:
    """Run one stage, or for "run" all in order, on a validated config.

    Raises:
      UserError: if another process works in the workdir.
    """
    from vdu_jax.runtime import artifacts

    with artifacts.claim(workdir):
        _run_stages(command, config, workdir, overwrite)


def _run_stages(command: str, config, workdir: Path, overwrite: bool) -> None:
    if _of_text(config):
        if command != "run" and command not in TEXT_STAGES:
            raise UserError(
                f"`vdu {command}` is not for configs of kind {TEXT_KIND!r}: they have the stages "
                f"{', '.join(TEXT_STAGES)}"
            )
        for name in TEXT_STAGES if command == "run" else (command,):
            module = importlib.import_module(f"vdu_jax.stages.text_to_image.{name}")
            module.run(config, workdir, overwrite)
        return
    names = STAGES if command == "run" else (command,)
    for name in names:
        if command == "run" and name == "train" and config.unlearn.init_from:
            continue  # the model is there
        if command == "run" and name == "relearn" and not config.relearn.images:
            continue  # not asked for
        importlib.import_module(f"vdu_jax.stages.{name}").run(config, workdir, overwrite)


def run_tool(command: str, arguments: Sequence[str], values, config) -> int:
    """Run one of `TOOLS`; returns the exit code."""
    if _of_text(config) and command not in ("export", "plan"):
        raise UserError(f"`vdu {command}` does not take configs of kind {TEXT_KIND!r}")
    if command == "benchmark":
        from vdu_jax.config import validate_benchmark
        from vdu_jax.stages import benchmark

        validate_benchmark(config)
        if values.against and not values.only:
            raise UserError("--against is for --only: the published figures to compare a cell with")
        if values.onto and values.only:
            raise UserError("--onto is for whole comparisons; with --only, name it with --against")
        if values.only:
            return benchmark.run_only(config, values.workdir, values.only, values.against)
        benchmark.run(config, values.workdir, values.onto)
    elif command == "plan":
        room = "stages.text_to_image" if _of_text(config) else "stages"
        plan = importlib.import_module(f"vdu_jax.{room}.plan")
        return plan.run(config, values.devices, values.memory, values.json)
    elif command == "import":
        from vdu_jax.stages import importing

        weights = values.weights or "params"
        importing.run(arguments[0], values.workdir, weights, values.overwrite, values.variant)
    elif command == "export" and _of_text(config):
        from vdu_jax.stages.text_to_image import exporting

        exporting.run(arguments[0], config, values.workdir, values.model)
    elif command == "export":
        from vdu_jax.stages import exporting

        exporting.run(
            arguments[0], config, values.workdir, values.model, values.weights, values.overwrite
        )
    elif command == "generate":
        from vdu_jax.stages.text_to_image import generate

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


def main(argv: Sequence[str] | None = None) -> int:
    """Entry point; returns the exit code.

    0, 2 for a user's mistake, 128 + n after signal n, 1 if another process of the run was lost.
    """
    if argv is None:  # the process is this command's
        preemption.listen()
    try:
        code = _main(list(sys.argv[1:] if argv is None else argv))
    except Exception:
        if not _together():
            raise
        traceback.print_exc()
        code = 1
    if _together():
        from vdu_jax.runtime import processes

        failed = code in (1, 2)
        processes.leave(failed)
        if failed:
            # JAX would have this process wait for the others before it ends, and they for it.
            sys.stdout.flush()
            sys.stderr.flush()
            os._exit(code)
    return code


def _main(argv: list[str]) -> int:
    if not argv or argv[0] in ("-h", "--help", "help"):
        print(USAGE)
        return 0
    if argv[0] == "--version":
        print(f"vdu {vdu_jax.__version__}")
        return 0
    stage, *rest = argv
    debug = "--debug" in rest
    try:
        if stage not in ("run", *STAGES, *TOOLS):
            raise UserError(
                f"unknown stage {stage!r}; one of run, {', '.join(STAGES)}, or a tool: "
                f"{', '.join(TOOLS)}"
            )
        set_up_jax(RETURN_FREED if stage == "posterior" else KEEP_FREED)
        _quiet_threads()
        values, arguments = parse(rest, stage)
        if values.weights not in ("", "ema", "params"):
            raise UserError(f"--weights={values.weights}: must be ema or params")
        config = values["config"].value
        _join(stage, values)
        if config is not None:
            from vdu_jax.runtime import processes

            processes.from_leader(validate, config)  # one mistake, one line
        try:
            if stage in TOOLS:
                return run_tool(stage, arguments, values, config)
            run_stages(stage, config, Path(values.workdir), values.overwrite)
        except preemption.Interrupted as stop:
            processes.report(f"{stop}; the same command continues")
            return 128 + stop.signum
        except OSError as error:
            if error.filename is None and error.errno is None:
                raise
            where = error.filename or values.workdir
            full = error.errno in (errno.ENOSPC, errno.EDQUOT)
            do = "free some; the same command continues" if full else "check its path"
            raise UserError(f"{where}: {error.strerror or error}; {do}") from error
        except Exception as error:
            if not _is_lost_peer(error):
                raise
            line = f"another process was lost ({_one_line(error)}); start all again: the same "
            return _report(f"{line}command continues", code=1)
    except UserError as error:
        if debug:
            raise
        return _report(error, code=2)
    return 0


def _quiet_threads() -> None:
    """What a thread could not read or write is raised again where it is waited for."""

    def hook(args):
        if not issubclass(args.exc_type, OSError):
            threading.__excepthook__(args)

    threading.excepthook = hook


def _together() -> bool:
    """Whether this process is one of several that run a stage together."""
    processes = sys.modules.get("vdu_jax.runtime.processes")  # a mistake need not wait for JAX
    return processes is not None and processes.joined()


def _join(stage: str, values) -> None:
    """Meet the other processes, if there are to be any; only the leader prints results."""
    if not values.coordinator:
        if values.processes is not None or values.process is not None:
            raise UserError("--coordinator=HOST:PORT is missing; see `vdu --help`")
        return
    if stage in TOOLS:
        raise UserError(
            f"`vdu {stage}` runs in one process: leave --coordinator out"
            + ("; several on one workdir share the cells" if stage == "benchmark" else "")
        )
    from vdu_jax.runtime import processes

    processes.connect(values.coordinator, values.processes, values.process)
    if not processes.is_leader():
        sys.stdout = open(os.devnull, "w", encoding="utf-8")  # noqa: SIM115 - for all that follows


def _is_lost_peer(error: Exception) -> bool:
    """XLA only says, with various exceptions, that something done with the others failed."""
    status = r"(UNKNOWN|UNAVAILABLE|INTERNAL|ABORTED|CANCELLED|DEADLINE_EXCEEDED): "
    return _together() and re.match(status, str(error)) is not None


def _report(message: str | Exception, code: int) -> int:
    """Print an error, with the number of a process other than the leader; returns `code`."""
    who = ""
    if _together():
        from vdu_jax.runtime import processes

        if processes.is_said(message):
            return code
        who = "" if processes.is_leader() else f"process {processes.index()}: "
    print(f"vdu: {who}error: {message}", file=sys.stderr)
    return code


def set_up_jax(malloc: Mapping[str, tuple[int, int]] = KEEP_FREED) -> None:
    """Fast CPU kernels, glibc's memory, and a compilation cache, unless set already."""
    os.environ.setdefault("XLA_FLAGS", XLA_FLAGS)
    os.environ.setdefault(
        "JAX_COMPILATION_CACHE_DIR", str(Path("~/.cache/vdu_jax/xla").expanduser())
    )
    os.environ.setdefault("JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS", "0")
    with contextlib.suppress(OSError, AttributeError):  # not glibc
        mallopt = ctypes.CDLL(None).mallopt
        for name, (parameter, value) in malloc.items():
            if name not in os.environ:
                mallopt(parameter, value)


if __name__ == "__main__":
    sys.exit(main())
