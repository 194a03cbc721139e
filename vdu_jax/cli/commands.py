"""The one table of the command line: each command, its positional arguments and its flags.

Parsing, refusals, `vdu --help`, `vdu COMMAND --help` and shell completion are made from it. It
imports nothing of JAX, so that they are fast.
"""

import textwrap
from typing import Any, NamedTuple

import vdu_jax
from vdu_jax.errors import CONFIGS

STAGES = ("train", "posterior", "replay", "unlearn", "sample", "evaluate", "relearn", "report")


class Argument(NamedTuple):
    """A positional argument: a path, or one of some words.

    Attributes:
      name: what help calls it.
      about: one line of help.
      choices: all values that are allowed; empty for a path.
    """

    name: str
    about: str
    choices: tuple[str, ...] = ()


class Flag(NamedTuple):
    """A flag.

    Attributes:
      name: without the dashes.
      about: its line of help.
      value: what help calls its value; "" for a switch, which needs none.
      kind: type of the value: str, int, float or bool.
      default: the value where the flag is not given.
      choices: all values that are allowed; empty for no such list.
      low: the smallest number allowed.
      above: the largest number that is too small.
      path: whether `~` and environment variables are expanded in it.
      blank: whether an empty value means something.
    """

    name: str
    about: str
    value: str = ""
    kind: type = str
    default: Any = None
    choices: tuple[str, ...] = ()
    low: float | None = None
    above: float | None = None
    path: bool = False
    blank: bool = False

    @property
    def usage(self) -> str:
        return f"--{self.name}={self.value}" if self.value else f"--{self.name}"


class Command(NamedTuple):
    """A command.

    Attributes:
      about: its line of help.
      arguments: its positional arguments; all of them must be given.
      flags: its flags, without --debug.
      required: names of the flags that must be given.
      more: what else `vdu COMMAND --help` says.
      devices: whether it computes, so that JAX must find a device.
    """

    about: str
    arguments: tuple[Argument, ...] = ()
    flags: tuple[Flag, ...] = ()
    required: tuple[str, ...] = ()
    more: str = ""
    devices: bool = True

    def flag(self, name: str) -> Flag | None:
        """The flag of that name, if the command takes it."""
        return next((flag for flag in (*self.flags, DEBUG) if flag.name == name), None)


DEBUG = Flag("debug", "print the traceback of a user's mistake", kind=bool, default=False)
CONFIG = Flag("config", f"Python file with the settings; examples: {CONFIGS}", "FILE", path=True)
WORKDIR = Flag("workdir", "folder of the run; all results are written there", "DIR", path=True)
OVERWRITE = Flag(
    "overwrite", "replace results of another config or model", kind=bool, default=False
)
JSON = Flag("json", "print one line of JSON", kind=bool, default=False)
DISTRIBUTED = (
    Flag(
        "coordinator",
        "address of process 0 of a stage that runs as several processes; auto finds all three "
        "settings under Slurm, on a TPU pod, in Kubernetes",
        "HOST:PORT",
        default="",
    ),
    Flag("processes", "number of processes", "N", int, low=1),
    Flag("process", "index of this process, from 0", "I", int, low=0),
)
WEIGHTS = ("ema", "params")
SHELLS = ("bash", "zsh", "fish")


def _unbroken(text: str) -> str:
    """`text` with spaces at which `_fill` breaks no line."""
    return text.replace(" ", "\N{NO-BREAK SPACE}")


def _stage(about: str, more: str = "") -> Command:
    flags = (CONFIG, WORKDIR, OVERWRITE, *DISTRIBUTED)
    return Command(about, (), flags, ("config", "workdir"), more)


COMMANDS = {
    "run": _stage(
        "run all stages below in order; skip those that are done for the same config",
        "The stages: " + ", ".join(STAGES) + ". Stopped or killed, the same command continues.",
    ),
    "train": _stage("train the diffusion model and keep its last checkpoints"),
    "posterior": _stage(
        "compute the Gaussian over the parameters, from checkpoints or the Fisher information"
    ),
    "replay": _stage("draw images from the model and leave out those like the forget data"),
    "unlearn": _stage("unlearn with every method of the config"),
    "sample": _stage("draw images from the original and the unlearned models"),
    "evaluate": _stage("measure PUL, u-FID, KID, precision, recall, class histogram, confidence"),
    "relearn": _stage(
        "count training steps until the class is back; only with relearn.images > 0"
    ),
    "report": _stage("write report.html and print the table"),
    "benchmark": Command(
        "compare methods on every forget class and seed of the config",
        (),
        (
            CONFIG,
            WORKDIR,
            Flag(
                "onto",
                "published results whose cells are kept; only the others are made",
                "RESULTS.json", default="", path=True,
            ),
            Flag("only", "make this one cell again", "METHOD/CLASS/SEED", default=""),
            Flag(
                "against",
                "published results to compare the cell of --only with; without it those of the "
                "workdir, if there are any",
                "RESULTS.json", default="", path=True,
            ),
        ),
        ("config", "workdir"),
        "Started more than once on one workdir, the processes share the cells. With --only the "
        "exit code is 1 if a figure is not the published one.",
    ),
    "status": Command(
        "print what a workdir holds, what is done, and the next command",
        (Argument("WORKDIR", "folder of a run or of a benchmark; nothing is written there"),),
        (JSON,),
        devices=False,
    ),
    "plan": Command(
        "print the device memory that training, unlearning and sampling need",
        (),
        (
            CONFIG,
            Flag("devices", "number of devices", "N", int, 1),
            Flag("memory", "memory of a device; the exit code is 1 if a stage needs more", "GIB",
                 float, above=0.0),
            JSON,
        ),
        ("config",),
        "Nothing is allocated.",
    ),
    "import": Command(
        "import a diffusers model (a folder with safetensors weights)",
        (Argument("DIR", "folder of the pipeline, or of its UNet2DModel"),),
        (
            WORKDIR,
            Flag("weights", "which parameters to import", "|".join(WEIGHTS), str, "params",
                 WEIGHTS),
            Flag("variant", "variant of the weights' files, e.g. fp16; by default those without",
                 "NAME", default=""),
            OVERWRITE,
        ),
        ("workdir",),
        "The workdir can then be named in unlearn.init_from, train.init_from and posterior.runs.",
    ),
    "export": Command(
        "write a model as a diffusers folder, which PyTorch loads",
        (Argument("DIR", "the folder to write"),),
        (
            CONFIG,
            WORKDIR,
            Flag("model", "original, or the name of a method", "NAME", default="original"),
            Flag(
                "weights",
                "which parameters of the original model; by default those that are unlearned",
                "|".join(WEIGHTS), str, "", WEIGHTS,
            ),
            OVERWRITE,
        ),
        ("workdir",),
        "For DDPMPipeline.from_pretrained or, for a text-to-image model, "
        "StableDiffusionPipeline.from_pretrained; the latter takes no --overwrite. Without "
        "--config an imported model is written as it came.",
    ),
    "generate": Command(
        "draw images of a prompt with a Stable Diffusion folder (extra sd)",
        (
            Argument("DIR", "the model's folder"),
            Argument("GRID.png", "the picture to write, with GRID.json beside it"),
        ),
        (
            Flag("prompt", "the prompt", "TEXT"),
            Flag("negative", "the negative prompt", "TEXT", default="", blank=True),
            Flag("guidance", "guidance scale; 1 is no guidance", "S", float, 7.5,
                 low=0.0),
            Flag("images", "number of images", "N", int, 4),
            Flag("steps", "sampling steps (DDIM)", "N", int, 50),
            Flag("seed", "seed of the noise", "N", int, 0),
            Flag("precision", "number format that the networks compute in", "float32|bfloat16",
                 str, "float32", ("float32", "bfloat16")),
        ),
        ("prompt",),
    ),
    "convert": Command(
        "convert a PyTorch checkpoint to safetensors (extra torch)",
        (
            Argument("FILE", "the checkpoint"),
            Argument("FILE.safetensors", "the file to write"),
        ),
        devices=False,
    ),
    "check": Command(
        "compare this machine's numbers with PyTorch's",
        (),
        (
            Flag("precision", "one or more of float32, tf32, bfloat16, with commas between them",
                 "NAMES", str, "float32"),
            JSON,
        ),
        (),
        "The exit code is 1 if a component is out of tolerance.",
    ),
    "completion": Command(
        "print a shell's script for completing commands, flags and config keys",
        (Argument("SHELL", f"one of {', '.join(SHELLS)}", SHELLS),),
        (),
        (),
        f"In ~/.bashrc: {_unbroken('source <(vdu completion bash)')}. In ~/.zshrc, after compinit: "
        f"{_unbroken('source <(vdu completion zsh)')}. In ~/.config/fish/config.fish: "
        f"{_unbroken('vdu completion fish | source')}.",
        devices=False,
    ),
}  # fmt: skip
TOOLS = tuple(name for name in COMMANDS if name not in ("run", *STAGES))

# (command, flag) -> what is said where the flag is refused.
ALONE = "it runs in one process: leave --coordinator out"
NOTES = {(tool, "coordinator"): ALONE for tool in TOOLS} | {
    ("benchmark", "coordinator"): f"{ALONE}; several on one workdir share the cells",
    ("benchmark", "overwrite"): "use another --workdir, or delete the folder of that cell",
    ("import", "config"): "the model's own settings are read",
}

EXAMPLE = "vdu run --config=digits.py --workdir=runs/digits"


def takers(flag: str) -> list[str]:
    """Names of the commands that take a flag; all stages together are one entry."""
    names = [name for name, command in COMMANDS.items() if command.flag(flag)]
    if {"run", *STAGES} <= set(names):
        names = ["run and each stage", *(name for name in names if name in TOOLS)]
    return names


def overview() -> str:
    """The text of `vdu --help`."""
    lines = ["usage: vdu COMMAND [ARGUMENTS] [--FLAG=VALUE …]", "", "STAGES (--config, --workdir)"]
    rows = [(name, command.about) for name, command in COMMANDS.items()]
    stages, tools = rows[: -len(TOOLS)], rows[-len(TOOLS) :]
    lines += _table(stages) + ["", "TOOLS"] + _table(tools)
    lines += ["", "FLAGS (`vdu COMMAND --help` has all that a command takes)"]
    lines += _table(
        [
            (CONFIG.usage, CONFIG.about),
            ("--config.KEY=VALUE", "change one setting, e.g. --config.forget.classes='(3,)'"),
            *((flag.usage, flag.about) for flag in (WORKDIR, OVERWRITE, *DISTRIBUTED, DEBUG)),
        ]
    )
    lines += [
        "",
        "In every path ~, ~USER, $VARIABLE and ${VARIABLE} are expanded; $$ is a dollar sign.",
        "",
        f"vdu {vdu_jax.__version__}. Example:",
        f"  {EXAMPLE}",
    ]
    return "\n".join(lines)


def usage(name: str) -> str:
    """The first lines of `vdu COMMAND --help`: the command and all its flags."""
    command = COMMANDS[name]
    words = ["usage: vdu", name, *(argument.name for argument in command.arguments)]
    for flag in (*command.flags, DEBUG):
        words.append(flag.usage if flag.name in command.required else f"[{flag.usage}]")
        if flag.name == "config":
            words.append(_unbroken("[--config.KEY=VALUE …]"))
    return _fill(" ".join(words), "  ")


def _fill(text: str, indent: str = "") -> str:
    """`text` in lines of 100 characters, with an indent from the second one on."""
    filled = textwrap.fill(
        text, 100, subsequent_indent=indent, break_on_hyphens=False, break_long_words=False
    )
    return filled.replace("\N{NO-BREAK SPACE}", " ")


def help_of(name: str) -> str:
    """The text of `vdu COMMAND --help`."""
    command = COMMANDS[name]
    rows = [(argument.name, argument.about) for argument in command.arguments]
    for flag in (*command.flags, DEBUG):
        about = flag.about
        if flag.value and flag.default not in (None, ""):
            about += f" (default: {flag.default})"
        rows.append((flag.usage, about))
        if flag.name == "config":
            rows.append(("--config.KEY=VALUE", "change one setting of that file"))
    lines = [usage(name), "", command.about[0].upper() + command.about[1:] + ".", ""]
    lines += _table(rows)
    if command.more:
        lines += ["", _fill(command.more)]
    return "\n".join(lines)


def _table(rows: list[tuple[str, str]]) -> list[str]:
    """Lines of two columns, the second one wrapped."""
    width = min(30, max(len(left) for left, _ in rows))
    lines = []
    for left, right in rows:
        indent = " " * (width + 4)
        first = f"  {left:<{width}}  "
        text = textwrap.fill(
            right, 100, initial_indent=indent, subsequent_indent=indent, break_on_hyphens=False
        )
        lines.append(f"{first}{text.lstrip()}" if len(left) <= width else f"{first}\n{text}")
    return lines
