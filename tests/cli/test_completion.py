"""What shells are offered, and the scripts in the shells themselves."""

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from vdu_jax import cli
from vdu_jax.cli import commands, completion

ROOT = Path(__file__).parents[2]


def offered(line):
    """What may stand in place of the last word of a command line, or None for a path."""
    found = completion.candidates(line.split(" ")[1:])
    return found and [one.word for one in found]


@pytest.mark.parametrize(
    ("line", "expected"),
    [
        ("vdu ev", ["evaluate"]),
        ("vdu re", ["replay", "relearn", "report"]),
        ("vdu --v", ["--version"]),
        ("vdu help pl", ["plan"]),
        ("vdu help plan ", []),
        ("vdu nonsense ", []),
        ("vdu train --o", ["--overwrite"]),
        ("vdu train --overwrite --o", []),
        ("vdu plan ", ["--config=", "--config.", "--devices=", "--memory=", "--json", "--debug",
                       "--help"]),
        ("vdu train --config", ["--config=", "--config."]),
        ("vdu train --config=c.py --config", ["--config."]),
        ("vdu train --config=", None),
        ("vdu train --config=con", None),
        ("vdu train --config ", None),
        ("vdu train --process=", []),
        ("vdu train --process ", []),
        ("vdu train --overwrite tr", []),
        ("vdu import --weights=", ["--weights=ema", "--weights=params"]),
        ("vdu import --weights e", ["ema"]),
        ("vdu import --weights ema ", None),
        ("vdu import folder ", ["--workdir=", "--weights=", "--variant=", "--overwrite",
                                "--debug", "--help"]),
        ("vdu import folder --config.", []),
        ("vdu generate d g.png --precision=b", ["--precision=bfloat16"]),
        ("vdu convert ", None),
        ("vdu convert a.bin ", None),
        ("vdu convert a.bin b.safetensors ", ["--debug", "--help"]),
        ("vdu completion z", ["zsh"]),
        ("vdu status ", None),
        ("vdu status --j", ["--json"]),
    ],
)  # fmt: skip
def test_commands_flags_and_choices(line, expected):
    assert offered(line) == expected


def test_every_command_and_flag_is_offered():
    words = offered("vdu ")
    assert words[: len(commands.COMMANDS)] == list(commands.COMMANDS)
    for name, command in commands.COMMANDS.items():
        flags = {word.rstrip("=") for word in offered(f"vdu {name} --")}
        assert flags >= {f"--{flag.name}" for flag in command.flags}, name


def test_keys_are_those_of_the_file_or_the_defaults(config_file):
    file = f"--config={config_file}"
    assert offered(f"vdu train {file} --config.tr") == ["--config.train."]
    for given in (file, f"--config {config_file}"):
        found = offered(f"vdu train {given} --config.methods.plain.s")
        keys = ("snapshot_every", "steps", "subset")
        assert found == [f"--config.methods.plain.{key}=" for key in keys]
    assert offered(f"vdu train {file} --config.model.pat") == ["--config.model.patch_size="]
    found = completion.candidates(["train", file, "--config.train.steps"])
    assert found == [completion.Candidate("--config.train.steps=", "12 in the config")]
    # The defaults have a U-Net and no methods.
    assert offered("vdu train --config.model.pat") == []
    assert offered("vdu train --config.model.num_g") == ["--config.model.num_groups="]
    assert offered("vdu train --config.methods.") == []
    assert offered("vdu train --config.nothing.at.all") == []
    assert offered("vdu train --config.train.steps.x") == []
    assert offered("vdu train --config.train.steps=") == []
    assert offered("vdu train --config.train.steps ") == []


def test_a_config_file_that_is_wrong_or_talks(tmp_path, capsys):
    wrong, loud = tmp_path / "wrong.py", tmp_path / "loud.py"
    wrong.write_text("1 / 0")
    text = "from vdu_jax import config\nprint('hello')\ndef get_config():\n"
    loud.write_text(f"{text}    print('there')\n    return config.default()\n")
    for path in (wrong, loud, tmp_path / "missing.py"):
        assert cli.main(["__complete", "plan", f"--config={path}", "--config.train.sn"]) == 0
        assert [line.split("\t")[0] for line in capsys.readouterr().out.splitlines()] == [
            "--config.train.snapshot_every=", "--config.train.snapshots=",
        ]  # fmt: skip


def test_commands_and_flags_need_no_jax():
    code = (
        "import sys; from vdu_jax import cli\n"
        "for line in ('tr', 'train --c', 'import --weights='):\n"
        "    assert cli.main(['__complete', *line.split()]) == 0\n"
        "assert not {'jax', 'absl', 'ml_collections'} & set(sys.modules)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.startswith("train\ttrain the")


def test_the_script_is_printed(capsys):
    for shell in commands.SHELLS:
        assert cli.main(["completion", shell]) == 0
        assert capsys.readouterr().out == completion.SCRIPTS[shell]
    assert cli.main(["completion", "bahs"]) == 2
    assert "SHELL bahs: must be bash or zsh or fish; did you mean bash?" in capsys.readouterr().err


@pytest.fixture
def shell(tmp_path, config_file):
    """`shell(name, code, *arguments)` runs a shell in which `vdu` is there; returns its lines."""
    program = tmp_path / "bin" / "vdu"
    program.parent.mkdir()
    program.write_text(f'#!/bin/sh\nexec "{sys.executable}" -m vdu_jax "$@"\n')
    program.chmod(0o755)
    env = os.environ | {
        "PATH": f"{program.parent}:{os.environ['PATH']}", "HOME": str(tmp_path),
        "PYTHONPATH": str(ROOT),
    }  # fmt: skip
    (tmp_path / "work").mkdir()
    (tmp_path / "work" / "conf.py").touch()

    def run(name, code, *arguments):
        if shutil.which(name) is None:
            pytest.skip(f"{name} is not installed")
        options = {"bash": ["--norc"], "zsh": ["-f"], "fish": ["--no-config"]}[name]
        command = [name, *options, "-c", code, *arguments]
        if name == "bash" or name == "zsh":
            command[-len(arguments) :] = [name, *arguments]  # $0
        done = subprocess.run(
            command, env=env, cwd=tmp_path / "work", capture_output=True, text=True, check=True
        )
        assert not done.stderr
        return done.stdout.splitlines()

    return run


IN_BASH = """
source <(vdu completion bash)
compopt() { [[ $2 == default ]] && echo "files"; }  # it is for the shell's own completion alone
COMP_LINE=$1 COMP_POINT=${#1}
_vdu
for word in "${COMPREPLY[@]}"; do echo "$word"; done
complete -p vdu
"""
# The parameters that zsh sets, and stand-ins for the builtins of its completion.
IN_ZSH = """
compdef() { }
compadd() { print -rl -- ${(P)@[-1]} }
compset() { [[ $1 == -P ]] && PREFIX=${PREFIX##${~2}} }
_files() { print "files $PREFIX" }
source <(vdu completion zsh)
words=("${(@s: :)1}") CURRENT=$#words PREFIX=$words[-1]
_vdu
"""
IN_FISH = "vdu completion fish | source; complete -C $argv[1]"
# In bash the last word starts after the =.
LINES = (
    ("vdu ev", ["evaluate"], None),
    ("vdu train --o", ["--overwrite"], None),
    ("vdu import --weights=e", ["--weights=ema"], ["ema"]),
    ("vdu import --weights e", ["ema"], None),
    ("vdu completion ", ["bash", "zsh", "fish"], None),
    ("vdu train --config=CONFIG --config.model.pat", ["--config.model.patch_size="], None),
    ("vdu nonsense --o", [], None),
    ("vdu convert con", None, None),
    ("vdu train --config=con", None, None),
)


@pytest.mark.parametrize(("line", "expected", "in_bash"), LINES)
def test_bash(shell, config_file, line, expected, in_bash):
    *found, registered = shell("bash", IN_BASH, line.replace("CONFIG", str(config_file)))
    assert found == (["files"] if expected is None else in_bash or expected)
    assert registered == "complete -F _vdu vdu"


@pytest.mark.parametrize(("line", "expected", "in_bash"), LINES)
def test_zsh(shell, config_file, line, expected, in_bash):
    found = shell("zsh", IN_ZSH, line.replace("CONFIG", str(config_file)))
    assert [word for word in found if word] == (["files con"] if expected is None else expected)


@pytest.mark.parametrize(("line", "expected", "in_bash"), LINES)
def test_fish(shell, config_file, line, expected, in_bash):
    found = shell("fish", IN_FISH, line.replace("CONFIG", str(config_file)))
    path = "--config=conf.py" if "=" in line else "conf.py"
    words = [path] if expected is None else expected
    assert sorted(line.split("\t")[0] for line in found) == sorted(words)


def test_bash_completes_up_to_the_cursor(shell):
    code = IN_BASH.replace("COMP_POINT=${#1}", "COMP_POINT=6")
    *found, _ = shell("bash", code, "vdu ev --workdir=w")
    assert found == ["evaluate"]
