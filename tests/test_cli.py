import importlib.util
import os
import re
import shlex
import signal
import subprocess
import sys
from pathlib import Path

import jax
import pytest

from vdu_jax import cli
from vdu_jax.cli import arguments, commands
from vdu_jax.errors import UserError

ROOT = Path(__file__).parents[1]
FLAGS = sorted({flag.name for command in commands.COMMANDS.values() for flag in command.flags})


def fails(capsys, *argv):
    """Run a command that must end in one line and exit code 2; returns the line."""
    assert cli.main([str(a) for a in argv]) == 2
    lines = [x for x in capsys.readouterr().err.splitlines() if x.startswith("vdu:")]
    assert len(lines) == 1 and lines[0].startswith("vdu: error: ")
    return lines[0]


def test_help_needs_no_jax():
    code = (
        "import sys; from vdu_jax import cli; assert cli.main(['--help']) == 0; "
        "assert cli.main(['train', '--help']) == 0; "
        "assert 'jax' not in sys.modules and 'absl' not in sys.modules"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert "usage: vdu COMMAND" in done.stdout and "usage: vdu train" in done.stdout


@pytest.mark.parametrize("name", commands.COMMANDS)
def test_help_of_a_command_has_all_that_it_takes(capsys, name):
    said = []
    for words in ([name, "--help"], [name, "--workdir=x", "-h"], ["help", name], ["--help", name]):
        assert cli.main(words) == 0
        said.append(capsys.readouterr().out)
    assert len(set(said)) == 1
    command = commands.COMMANDS[name]
    for entry in (*command.arguments, *command.flags):
        usage = entry.usage if isinstance(entry, commands.Flag) else entry.name
        assert re.search(rf"^  {re.escape(usage)}( |$)", said[0], re.MULTILINE), usage
    assert max(map(len, said[0].splitlines())) <= 100
    assert cli.main(["--help"]) == 0
    assert re.search(rf"^  {name} ", capsys.readouterr().out, re.MULTILINE)


@pytest.mark.parametrize(
    ("argv", "said"),
    [
        (["foo"], "unknown command 'foo'; one of run, train"),
        (["help", "trian"], "unknown command 'trian'; did you mean train?"),
        (["--config=x", "train"], "the command comes first"),
        (["--version", "x"], "unexpected argument 'x'"),
    ],
)
def test_what_is_no_command(capsys, argv, said):
    assert said in fails(capsys, *argv)


@pytest.mark.parametrize("name", commands.COMMANDS)
def test_a_flag_of_another_command_is_refused_with_those_that_take_it(name):
    for flag in FLAGS:
        word = f"--{flag}=x"
        if commands.COMMANDS[name].flag(flag):
            assert arguments.sort(name, [word]).flags == {flag: "x"}
            continue
        with pytest.raises(UserError, match=f"`vdu {name}` does not take --{flag}") as caught:
            arguments.sort(name, [word])
        note = commands.NOTES.get((name, flag))
        assert (note or f"a flag of {commands.takers(flag)[0]}") in str(caught.value)


@pytest.mark.parametrize(
    ("argv", "said"),
    [
        ("train --steps=100", "--steps, a flag of generate; for the setting of the config write "
         "--config.train.steps=100"),
        ("train --steps 100", "--config.train.steps=VALUE"),
        ("train --batch_size=3", "has no flag --batch_size; for the setting of the config write "
         "--config.train.batch_size=3"),
        ("unlearn --steps=4", "--config.methods.METHOD.steps=4"),
        ("sample --steps=4", "--config.sampler.steps=4"),
        ("run --steps=4", "--config.sampler.steps=4 or --config.train.steps=4 or"),
        ("train --weights=ema", "a flag of import, export; see `vdu train --help`"),
        ("train --confg=x", "has no flag --confg; did you mean --config?"),
        ("train --confg.train.steps=3", "did you mean --config?"),
        ("benchmark --overwrite", "use another --workdir"),
        ("check --config.train.steps=3", "`vdu check` does not take --config"),
        ("import d --workdir=w --variant=", "--variant= has no value"),
        ("train --flagfile=x", "has no flag --flagfile"),
        ("train --undefok=steps --steps=3", "has no flag --undefok"),
        ("train --workdir=a --workdir=b", "--workdir is given twice"),
        ("train --config.train.steps=1 --config.train.steps=1", "steps is given twice"),
        ("train --workdir --config=c", "--workdir has no value; give --workdir=DIR"),
        ("train --workdir=w --config", "--config has no value; give --config=FILE"),
        ("train --workdir=w --config=", "--config= has no value"),
        ("train --nooverwrite=3", "--nooverwrite=3: --nooverwrite takes no value"),
        ("export d --workdir=w --config.train.steps=3", "--config=FILE is missing"),
        ("export --workdir=w", "DIR is missing; see `vdu export --help`"),
        ("import d --workdir=w --weights=both", "--weights=both: must be ema or params"),
        ("generate d g.png --prompt=x --precision=float16", "did you mean bfloat16"),
        ("generate d g.png --prompt=x --seed=x", "--seed=x: must be a whole number"),
        ("generate d g.png --prompt=x --guidance=nan", "--guidance=nan: must be a finite number"),
        ("generate d g.png --prompt=x --guidance=-1", "--guidance=-1: must be ≥ 0"),
        ("generate d g.png --prompt=x --guidance -1", "--guidance=-1: must be ≥ 0"),
        ("generate d g.png --prompt=x --guidance=1 --negative=y", "--negative has no effect"),
    ],
)  # fmt: skip
def test_flags_that_cannot_be_meant(capsys, argv, said):
    assert said in fails(capsys, *argv.split())


@pytest.mark.parametrize(
    ("command", "flags", "said"),
    [
        ("benchmark", ["--workdir=w", "--against=x"], "--against is for --only"),
        ("benchmark", ["--workdir=w", "--onto=x", "--only=y"], "--onto is for whole comparisons"),
        ("train", ["--workdir=w", "--process=0"], "--process goes with --coordinator"),
        ("train", ["--workdir=w", "--processes=2"], "--processes goes with --coordinator"),
        ("plan", ["--memory=0"], "--memory=0: must be > 0"),
        ("plan", ["--memory=nan"], "must be a finite number"),
        ("plan", ["--devices=many"], "--devices=many: must be a whole number"),
        ("plan", ["--json=maybe"], "--json=maybe: must be true or false"),
        ("plan", ["--config.train.steps=3", "--config.train={}"], "--config.train replaces what"),
        ("plan", ["--config.train.steps"], "--config.train.steps has no value"),
        ("plan", ["--config.trian.steps=3"], "the config has no 'trian'; did you mean train?"),
        ("plan", ["--config.train.stepz=3"], "section train has no 'stepz'; did you mean steps?"),
        ("plan", ["--config.train.steps.x=3"], "train.steps is a setting and has none of its own"),
        ("plan", ["--config.learning_rate=3"], "did you mean --config.classifier.learning_rate or"),
        ("plan", ["--config.methods.plian.steps=3"], "methods has no 'plian'; did you mean plain?"),
        ("plan", ["--config.methods.plain.gamma=0"], "mean --config.methods.plain.params.gamma?"),
        ("plan", ["--config.methods[0].steps=0"], "section methods has no '0'"),
        ("plan", ["--config.methods[(=0"], "is no key"),
        ("plan", ["--config.parallel.remat=maybe"], "must be True or False"),
        ("plan", ["--config.methods=3"], "--config.methods=3: must be a section"),
    ],
)
def test_flags_and_settings_that_have_no_effect_or_no_sense(
    capsys, config_file, command, flags, said
):
    assert said in fails(capsys, command, f"--config={config_file}", *flags)


def read(command, *words):
    """Flags, config and positional arguments of a command line."""
    values, positional = cli.parse([str(word) for word in words], command)
    found = {name: values[name].value for name in values if name != "config"}
    config = values["config"].value
    return found, config and config.to_dict(), positional


@pytest.mark.parametrize(
    ("command", "words"),
    [
        ("train", ["--workdir", "w"]),
        ("train", ["--workdir", "w", "--overwrite", "true"]),
        ("plan", ["--config.train.steps", "7", "--devices", "3"]),
        ("plan", ["--config.train.learning_rate", "-1"]),
        ("plan", ["--config.forget.classes", "(3, 4)"]),
        ("plan", ["--config.model.mid_attention", "False"]),
        ("plan", ["--config.data.manual_dir", "a b"]),
        ("plan", ["--config.methods", "{}"]),
        ("export", ["--workdir", "w", "--model", "plain"]),
    ],
)
def test_a_value_may_follow_after_a_space(unet_file, command, words):
    where = [] if command != "export" else ["out"]
    pairs = zip(words[::2], words[1::2], strict=True)
    with_equals = [f"{name}={value}" for name, value in pairs]
    expected = read(command, *where, f"--config={unet_file}", *with_equals)
    assert read(command, "--config", unet_file, *words, *where) == expected
    assert read(command, *words, "--config", unet_file, *where) == expected
    assert read(command, *words, "-config", unet_file, "--", *where) == expected


def test_switches_stand_alone_or_with_a_value(unet_file):
    def switches(*words):
        found, config, _ = read("train", f"--config={unet_file}", "--workdir=w", *words)
        return found["overwrite"], config["model"]["mid_attention"], config["parallel"]["remat"]

    assert switches() == (False, True, False)
    changed = ("--overwrite", "--noconfig.model.mid_attention", "--config.parallel.remat")
    assert switches(*changed) == (True, False, True)
    assert switches("--nooverwrite", "--config.parallel.remat=1") == (False, True, True)
    where = [f"--config={unet_file}", "--workdir=w", "--overwrite", "--config.parallel.remat"]
    found, config, positional = read("export", *where, "out")  # no switch takes it for its value
    assert positional == ["out"] and found["overwrite"] and config["parallel"]["remat"]


def test_a_method_whose_name_is_no_python_name_can_be_changed(config_file):
    path = config_file.with_name("dashed.py")
    path.write_text(
        "from tiny import get_config as base\n\ndef get_config():\n    config = base()\n"
        "    config.methods['my-vdu'] = config.methods.plain\n    return config\n"
    )
    _, config, _ = read("plan", f"--config={path}", "--config.methods.my-vdu.steps=9")
    assert config["methods"]["my-vdu"]["steps"] == 9


@pytest.fixture
def home(tmp_path, monkeypatch):
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.setenv("ROOT_OF_ALL", str(tmp_path))
    monkeypatch.setenv("EMPTY", "")
    monkeypatch.delenv("NOT_THERE", raising=False)
    return tmp_path


@pytest.mark.parametrize("start", ["~", "$ROOT_OF_ALL", "${ROOT_OF_ALL}"])
def test_every_path_on_the_command_line_is_expanded(home, config_file, start):
    (home / "c.py").write_text(config_file.read_text())
    config = f"--config={start}/c.py"
    for command in commands.COMMANDS.values():
        for flag in command.flags:
            assert flag.path == (flag.value in ("FILE", "DIR", "RESULTS.json")), flag.name
    values, _, _ = read("benchmark", config, f"--workdir={start}/w", f"--onto={start}/r")
    assert values["workdir"] == f"{home}/w" and values["onto"] == f"{home}/r"
    values, _, _ = read(
        "benchmark", config, "--workdir", f"{start}/w", "--only=x", f"--against={start}/r"
    )
    assert values["against"] == f"{home}/r"
    assert read("convert", f"{start}/a", f"{start}/b")[2] == [f"{home}/a", f"{home}/b"]
    assert read("plan", config, f"--config.data.dir={start}/d")[1]["data"]["dir"] == f"{home}/d"


@pytest.mark.parametrize(
    ("path", "said"),
    [
        ("$NOT_THERE/x", "=$NOT_THERE/x: the environment variable NOT_THERE is not set, or empty"),
        ("${EMPTY}/x", "the environment variable EMPTY is not set, or empty"),
        ("cost$", "write $$ for a dollar sign"),
        ("~nobody-of-that-name/x", "there is no home folder ~nobody-of-that-name"),
    ],
)
def test_a_path_that_cannot_be_expanded(capsys, home, config_file, path, said):
    assert said in fails(capsys, "train", f"--config={config_file}", f"--workdir={path}")
    assert said in fails(capsys, "train", f"--config={path}", "--workdir=w")
    assert said.removeprefix("=") in fails(capsys, "convert", path, "b.safetensors")
    flags = [f"--config={config_file}", f"--config.data.dir={path}"]
    line = fails(capsys, "plan", *flags)
    assert said.removeprefix("=") in line and "config key data.dir = " in line


def test_a_dollar_sign_is_written_twice(home):
    assert read("convert", "a$$b", "c~d")[2] == ["a$b", "c~d"]


def test_the_same_path_written_otherwise_is_the_same_run(
    capsys, monkeypatch, finished_run, config_file
):
    monkeypatch.setenv("HOME", str(finished_run.parent))
    monkeypatch.setenv("HERE", str(finished_run))
    for workdir in (f"~/{finished_run.name}", "$HERE"):
        assert cli.main(["train", "--config", str(config_file), "--workdir", workdir]) == 0
        assert f"train: done already for this config, in {finished_run}/train" in (
            capsys.readouterr().err
        )


def test_what_is_done_is_said_with_its_place(capsys, finished_run, config_file):
    common = [f"--config={config_file}", f"--workdir={finished_run}"]
    assert cli.main(["run", *common]) == 0
    lines = capsys.readouterr().err.splitlines()
    folders = ("train", "posterior", "replay", "unlearn", "samples", "evaluate", "report")
    stages = [name for name in cli.STAGES if name != "relearn"]
    assert lines == [
        f"vdu: {stage}: done already for this config, in {finished_run / folder}"
        for stage, folder in zip(stages, folders, strict=True)
    ]
    for stage, line in zip(stages, lines, strict=True):
        assert cli.main([stage, *common]) == 0
        assert capsys.readouterr().err.splitlines() == [line]


def test_a_stage_says_what_it_took_and_where_it_wrote(capsys, tmp_path, finished_run, config_file):
    (tmp_path / "train").symlink_to(finished_run / "train")
    assert cli.main(["posterior", f"--config={config_file}", f"--workdir={tmp_path}"]) == 0
    (line,) = [x for x in capsys.readouterr().err.splitlines() if x.startswith("vdu:")]
    took = r"(\d\.\d s|\d+ s|\d+ min \d+ s)"
    assert re.fullmatch(
        rf"vdu: posterior: done in {took}, written to {re.escape(str(tmp_path))}/posterior", line
    )


def test_only_a_terminal_has_colours(capsys, monkeypatch, finished_run, config_file):
    common = ["train", f"--config={config_file}", f"--workdir={finished_run}"]
    monkeypatch.setenv("FORCE_COLOR", "1")
    assert cli.main(common) == 0
    line = capsys.readouterr().err
    assert line.startswith(
        "vdu: \x1b[1mtrain\x1b[0m: \x1b[2mdone already\x1b[0m for this config, in"
    )
    assert cli.main(["trian"]) == 2
    assert capsys.readouterr().err.startswith(
        "vdu: \x1b[1;31merror\x1b[0m: unknown command 'trian'"
    )
    monkeypatch.setenv("NO_COLOR", "1")
    assert cli.main(["trian"]) == 2 and cli.main(common) == 0
    assert "\x1b" not in capsys.readouterr().err


def test_a_wrong_stage(capsys):
    assert "unknown command 'trian'; did you mean train?" in fails(capsys, "trian")


def test_missing_flags(capsys, config_file):
    assert "--config is missing" in fails(capsys, "train", "--workdir=x")
    assert "--workdir is missing" in fails(capsys, "train", f"--config={config_file}")


@pytest.mark.parametrize(
    ("override", "said"),
    [
        ("--config.train.stepz=3", "stepz"),
        ("--config.train.steps=many", "steps"),
        ("--config.train.steps=1.5", "steps"),
        ("--config.forget.classes=x", "classes"),
        ("--confg=x", "confg"),
        ("extra", "extra"),
        ("--config.train.steps=0", "train.steps = 0"),
    ],
)
def test_bad_overrides(capsys, tmp_path, config_file, override, said):
    workdir = tmp_path / "w"
    line = fails(capsys, "train", f"--config={config_file}", f"--workdir={workdir}", override)
    assert said in line
    assert not workdir.exists()


GET = "from vdu_jax import config as c\n\ndef get_config():\n    config = c.default()\n"


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("def get_config():\n    return 1 / 0\n",
         ", line 2 (return 1 / 0): ZeroDivisionError: division by zero"),
        ("def get_config():\n    raise ValueError('so\\nit is')\n", "ValueError: so"),
        ("raise SystemExit(3)", "SystemExit: 3"),
        ("import nothing_of_that_name", "ModuleNotFoundError"),
        ("def get_config(: pass", ", line 1: is no Python (invalid syntax)"),
        ("a: 1\n - b", "is no Python"),
        ("\0\1", "is no Python"),
        (b"x = '\xff'", "is no Python"),
        ('{"train": 3}', "has no function get_config()"),
        ("get_config = 3", "has no function get_config()"),
        ("def get_config(): pass", "returned None, which is no ConfigDict"),
        ("def get_config(): return {}", "returned {}, which is no ConfigDict"),
        ("def get_config(): return object()", "returned (object), which"),
        ("def get_config(x): pass", "missing 1 required positional argument"),
        (GET + "    config.trian.steps = 3", "there is no setting trian; did you mean train?"),
        (GET + "    config.qqq.steps = 3", "there is no setting qqq in that section"),
        (GET + "    config.lock().train.stepz = 3", "no setting stepz; did you mean steps?"),
        (GET + "    config.train.stepz = 3\n    return config",
         "config key train.stepz: there is no such setting; did you mean steps?"),
        (GET + "    config.train.steps = config", "the setting steps must be a whole number"),
        (GET + "    config.train = object()", "the setting train must be a ConfigDict"),
        (GET + "    config.methods.x = c.method('vdu', gama=1)",
         ", line 5 (config.methods.x = c.method('vdu', gama=1)): method 'vdu' has no setting "
         "'gama'; did you mean gamma?"),
        (GET + "    c.method('vdu', steps=object())", "steps = (object): must be a whole number"),
        (GET + "    c.method('vdo')", "unknown objective 'vdo'"),
        (GET + "    with config.ignore_type(): config.train.steps = config\n    return config",
         "config key train.steps = (ConfigDict): must be a whole number"),
        (GET + "    with config.ignore_type(): config.train = object()\n    return config",
         "config key train = (object): must be a section"),
        (GET + "    with config.ignore_type(): config.forget.classes = (object(),)\n"
         "    return config", "config key forget.classes"),
    ],
)  # fmt: skip
def test_a_config_file_that_is_wrong(capsys, tmp_path, text, said):
    path = tmp_path / "broken.py"
    path.write_bytes(text if isinstance(text, bytes) else text.encode())
    line = fails(capsys, "run", "--config", path, f"--workdir={tmp_path / 'w'}")
    assert said in line and "ml_collections" not in line and " at 0x" not in line
    assert "broken.py" in line or line.startswith("vdu: error: config key ")


def test_a_mistake_in_a_module_beside_the_config(capsys, tmp_path):
    (tmp_path / "shared_by_two.py").write_text("\nx = 1 / 0\n")
    (tmp_path / "uses_it.py").write_text("import shared_by_two\n")
    line = fails(capsys, "run", f"--config={tmp_path / 'uses_it.py'}", "--workdir=w")
    assert ", line 2 of shared_by_two.py (x = 1 / 0): ZeroDivisionError" in line


def test_a_config_file_that_cannot_be_read(capsys, tmp_path, config_file, monkeypatch):
    assert "no such file; start from a file of https:" in fails(
        capsys, "run", "--config", "nothing.py", "--workdir", "w"
    )
    near = config_file.with_name("tinny.py")
    assert f"did you mean {config_file}?" in fails(capsys, "run", f"--config={near}", "--workdir=w")
    assert "no such file" in fails(capsys, "run", f"--config={config_file}/x", "--workdir=w")
    (tmp_path / "inside.py").touch()
    line = fails(capsys, "run", f"--config={tmp_path}", "--workdir=w")
    assert "is a folder; name a file, e.g. " in line and "inside.py" in line

    def refuse(path):
        raise PermissionError(13, "Permission denied", str(path))

    monkeypatch.setattr(Path, "read_bytes", refuse)  # a superuser may read all
    line = fails(capsys, "run", f"--config={config_file}", "--workdir=w")
    assert "cannot be read (Permission denied)" in line


def test_a_frozen_config_can_be_changed(config_file):
    path = config_file.with_name("frozen.py")
    path.write_text(
        "from ml_collections import FrozenConfigDict\nfrom tiny import get_config as base\n\n"
        "def get_config():\n    return FrozenConfigDict(base())\n"
    )
    assert read("plan", f"--config={path}", "--config.train.steps=9")[1]["train"]["steps"] == 9


def vdu(*argv, **env):
    """Run it as its own process; (exit code, standard error)."""
    done = subprocess.run(
        [sys.executable, "-m", "vdu_jax", *map(str, argv)],
        env=os.environ | env, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True,
    )  # fmt: skip
    return done.returncode, done.stderr


@pytest.mark.parametrize(
    ("variable", "value", "said"),
    [
        ("JAX_PLATFORMS", "nonsense", "JAX_PLATFORMS=nonsense: Backend 'nonsense' is not in the "),
        ("JAX_PLATFORMS", "cuda", "JAX finds cpu here: pip install 'vdu-jax[cuda]'"),
        ("JAX_ENABLE_X64", "maybe", "JAX_ENABLE_X64"),
        ("XLA_FLAGS", "--xla_nonsense=1", "Unknown flag in XLA_FLAGS: --xla_nonsense=1"),
        ("XLA_FLAGS", "nonsense", 'Could not open file "nonsense"'),
    ],
)
def test_an_environment_in_which_jax_cannot_start(variable, value, said):
    if value == "cuda" and importlib.util.find_spec("jax_cuda12_plugin"):
        pytest.skip("has CUDA")
    code, err = vdu("check", **{variable: value})
    (line,) = [line for line in err.splitlines() if line.startswith("vdu:")]
    assert code == 2 and line.startswith("vdu: error: ") and said in line
    assert "Traceback" not in err


def test_a_broken_driver_is_one_line(capsys, monkeypatch):
    def broken():
        raise RuntimeError(
            "Unable to initialize backend 'cuda': FAILED_PRECONDITION: No visible GPU devices. "
            "(you may need to uninstall the failing plugin, or set JAX_PLATFORMS=cpu to skip "
            "this backend.)\nmore"
        )

    monkeypatch.setattr(jax, "devices", broken)
    monkeypatch.setattr(jax.config, "update", lambda *args: None)
    line = fails(capsys, "check")
    assert "JAX finds no device: FAILED_PRECONDITION: No visible GPU devices" in line


def test_convert_needs_no_device(tmp_path):
    code, err = vdu("convert", tmp_path / "a.bin", tmp_path / "b", JAX_PLATFORMS="nonsense")
    assert code == 2 and "a.bin: no such file" in err


@pytest.mark.parametrize("unbuffered", ["", "1"])
@pytest.mark.parametrize("argv", [["--help"], ["train", "--help"], ["--version"], ["trian"]])
def test_a_pipe_that_nobody_reads_ends_it_quietly(argv, unbuffered):
    out, write = os.pipe()
    os.close(out)
    process = subprocess.Popen(
        [sys.executable, "-m", "vdu_jax", *argv],
        stdout=write,
        stderr=write if argv == ["trian"] else subprocess.PIPE,
        env=os.environ | {"PYTHONUNBUFFERED": unbuffered},
    )
    os.close(write)
    _, err = process.communicate()
    assert process.returncode == 128 + signal.SIGPIPE
    assert not err


def test_a_tools_output_into_a_closed_pipe_ends_quietly(config_file):
    out, write = os.pipe()
    os.close(out)
    command = ["plan", f"--config={config_file}", "--config.methods={}"]
    process = subprocess.Popen(
        [sys.executable, "-m", "vdu_jax", *command], stdout=write, stderr=subprocess.PIPE
    )
    os.close(write)
    _, err = process.communicate()
    assert process.returncode == 128 + signal.SIGPIPE
    assert b"Broken" not in err and b"Traceback" not in err


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="has no device that is full")
def test_output_that_cannot_be_written_is_one_line():
    with open("/dev/full", "w") as full:
        done = subprocess.run(
            [sys.executable, "-m", "vdu_jax", "--help"],
            stdout=full, stderr=subprocess.PIPE, text=True,
        )  # fmt: skip
    assert done.returncode == 2
    assert done.stderr.startswith("vdu: error: what is printed cannot be written: ")
    assert done.stderr.count("\n") == 1


def test_what_a_locale_cannot_write_is_written_otherwise():
    code, err = vdu("--help", PYTHONIOENCODING="ascii")
    assert code == 0 and not err


def documented():
    """Every `vdu …` of the docs, configs, scripts and benchmarks, with the file that has it."""
    files = [ROOT / "README.md", ROOT / "Makefile", *ROOT.glob("docs/**/*.md")]
    files += [
        *ROOT.glob("configs/**/*.py"),
        *ROOT.glob("launch/*.*"),
        *ROOT.glob("benchmarks/*.py"),
    ]
    for file in files:
        text = file.read_text().replace("\\\\\n", " ").replace("\\\n", " ")
        for line in text.splitlines():
            found = re.search(r"(?:^ {4}|^\t@\$\(BIN\)/|-- |& |`)vdu ([a-z]+ [^`&#]*)", line)
            if found and "STAGE" not in line:
                yield pytest.param(found[1], id=f"{file.name}: {found[1][:50]}")


@pytest.mark.parametrize("line", list(documented()))
def test_commands_in_the_docs_have_only_flags_that_are_taken(line):
    line = re.sub(r"[\[\]…]", " ", line)
    command, *words = shlex.split(line)
    assert command in commands.COMMANDS
    arguments.sort(command, words)


def test_a_stage_before_its_time(capsys, tmp_path, config_file):
    line = fails(capsys, "posterior", f"--config={config_file}", f"--workdir={tmp_path}")
    assert "run `vdu train`" in line


def test_a_workdir_that_cannot_be_written(capsys, tmp_path, config_file):
    file = tmp_path / "file"
    file.write_text("mine")
    line = fails(capsys, "train", f"--config={config_file}", f"--workdir={file}/work")
    assert str(file) in line
    assert file.read_text() == "mine"


def test_missing_and_truncated_originals(capsys, tmp_path, config_file):
    common = ["train", f"--config={config_file}", f"--workdir={tmp_path / 'w'}"]
    common += ["--config.data.name=mnist", f"--config.data.dir={tmp_path / 'data'}"]
    common += ["--config.model.patch_size=4"]
    missing = tmp_path / "nowhere"
    assert str(missing) in fails(capsys, *common, f"--config.data.manual_dir={missing}")
    manual = tmp_path / "manual"
    manual.mkdir()
    for name in ("train-images-idx3", "t10k-images-idx3", "train-labels-idx1", "t10k-labels-idx1"):
        (manual / f"{name}-ubyte").write_bytes(b"\0\0\x08\x03\0\0\0\x02\0\0\0\x1c\0\0\0\x1c half")
    line = fails(capsys, *common, f"--config.data.manual_dir={manual}")
    assert "-ubyte" in line
    assert not (tmp_path / "w").exists()


def test_another_network_or_config_leaves_the_run_as_it_was(capsys, finished_run, config_file):
    before = {p: p.read_bytes() for p in finished_run.rglob("*.json")}
    common = [f"--config={config_file}", f"--workdir={finished_run}"]
    line = fails(capsys, "train", *common, "--config.train.steps=15")
    assert "train.steps = 12, the config now says 15" in line
    line = fails(capsys, "replay", *common, "--config.replay.images=130")
    assert "replay.images = 120" in line
    line = fails(capsys, "sample", *common, "--config.model.depth=2", "--overwrite")
    assert "model.depth = 1, the config now says 2" in line
    assert {p: p.read_bytes() for p in finished_run.rglob("*.json")} == before


def test_check_refuses_what_it_does_not_know(capsys):
    assert "--precision=float16: must be one of float32" in fails(
        capsys, "check", "--precision=float32,float16"
    )
    assert "unexpected argument" in fails(capsys, "check", "unet")


def test_convert_without_its_arguments(capsys, tmp_path):
    assert "FILE is missing" in fails(capsys, "convert")
    line = fails(capsys, "convert", tmp_path / "x.bin", tmp_path / "x.safetensors")
    assert "no such file" in line
