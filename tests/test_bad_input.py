"""Whatever a user gives: exit code 2 and one line, or a config that is accepted; no traceback."""

import contextlib
import io
import re
import string
import sys
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from vdu_jax import cli
from vdu_jax.parity import check
from vdu_jax.stages import benchmark, plan

QUIET = settings(
    max_examples=300,
    deadline=None,
    derandomize=True,  # the same inputs in every run
    suppress_health_check=[HealthCheck.function_scoped_fixture],
)

NUMBERS = st.one_of(
    st.integers(-3, 3),
    st.integers(-(10**20), 10**20),
    st.floats(),
    st.sampled_from([1e-300, 1e300, 0.5, 2**31, 2**63]),
)
WORDS = st.one_of(
    st.text(string.printable, max_size=12),
    st.sampled_from(
        ["", "None", "True", "adam", "nan", "-inf", "(", "[]", "{}", "'", "../..", "é"]
    ),
)
ANYTHING = st.recursive(
    st.one_of(NUMBERS, WORDS, st.none(), st.booleans(), st.binary(max_size=4)),
    lambda inner: st.one_of(
        st.lists(inner, max_size=3),
        st.lists(inner, max_size=3).map(tuple),
        st.dictionaries(st.sampled_from(["a", "steps", "name"]), inner, max_size=2),
    ),
    max_leaves=4,
)


def keys(section, prefix=""):
    """Every key of a config, sections as well as their leaves."""
    for name, value in section.items():
        yield f"{prefix}{name}"
        if hasattr(value, "items"):
            yield from keys(value, f"{prefix}{name}.")


COMPARISON = """
from tiny import get_config as base

def get_config():
    config = base()
    config.forget.classes = (3,)
    config.benchmark.classes = (8,)
    config.benchmark.seeds = (0, 4)
    config.benchmark.tuning_class = 5
    config.benchmark.method_seeds = {"plain": (0,)}
    config.benchmark.grids = {"plain": ({"learning_rate": 1e-4}, {"gamma": 0.2})}
    config.benchmark.changes = {"plain": {"posterior": {"count": 2}}}
    return config
"""


@pytest.fixture(scope="module")
def comparison(config_file):
    path = config_file.with_name("comparison.py")
    path.write_text(COMPARISON)
    return path


@pytest.fixture(scope="module")
def names(comparison):
    values, _ = cli.parse([f"--config={comparison}"], "plan")
    return sorted(keys(values["config"].value))


@pytest.fixture
def run(monkeypatch):
    """`run(*argv)`: the exit code; what is accepted is not computed."""
    # Byte code is taken for that of a file of equal size and second.
    monkeypatch.setattr(sys, "dont_write_bytecode", True)
    monkeypatch.setattr(cli, "run_stages", lambda *args: None)
    for tool in (benchmark, plan, check):
        monkeypatch.setattr(tool, "run", lambda *args: 0)
    monkeypatch.setattr(benchmark, "run_only", lambda *args: 0)

    def call(*argv):
        err = io.StringIO()
        with contextlib.redirect_stderr(err), contextlib.redirect_stdout(io.StringIO()):
            code = cli.main([*argv])
        lines = err.getvalue().splitlines()
        assert code in (0, 2), argv
        if code == 2:
            assert len(lines) == 1 and lines[0].startswith("vdu: error: "), (argv, lines)
            assert not re.search(r" at 0x|!!python|ConfigDict\(", lines[0]), lines[0]
        return code

    return call


def test_the_start_of_all_is_good(run, comparison):
    assert run("benchmark", f"--config={comparison}", "--workdir=unused") == 0


@QUIET
@given(st.data())
def test_overrides(run, names, comparison, data):
    some = st.one_of(st.sampled_from(names), WORDS)
    flags = [
        f"--config.{data.draw(some)}={data.draw(st.one_of(ANYTHING.map(str), WORDS))}"
        for _ in range(data.draw(st.integers(1, 2)))
    ]
    run("benchmark", f"--config={comparison}", "--workdir=unused", *flags)


@QUIET
@given(st.data())
def test_values_that_a_config_file_sets(run, names, comparison, data):
    key, value = data.draw(st.sampled_from(names)), data.draw(ANYTHING)
    path = comparison.with_name("changed.py")
    path.write_text(
        "from comparison import get_config as base\n"
        "nan, inf = float('nan'), float('inf')\n\n"
        "def get_config():\n"
        "    config = base()\n"
        "    with config.ignore_type():\n"
        f"        config.update_from_flattened_dict({{{key!r}: {value!r}}})\n"
        "    return config\n"
    )
    run("benchmark", f"--config={path}", "--workdir=unused")


FILES = st.one_of(
    st.text(max_size=40),
    st.sampled_from(
        [
            "", "get_config = 3", "def get_config(): return 3", "def get_config(): return None",
            "def get_config(): raise ValueError('no\\nway')", "def get_config(: pass",
            "import nothing_of_that_name", "raise SystemExit(3)", "1 / 0",
            "from ml_collections import ConfigDict\ndef get_config(): return ConfigDict()",
            "from ml_collections import ConfigDict\n"
            "def get_config(): return ConfigDict({'train': 3, 'data': {'name': 'digits'}})",
        ]
    ),
)  # fmt: skip


@QUIET
@given(FILES)
def test_config_files(run, config_file, text):
    path = config_file.with_name("wrong.py")
    path.write_bytes(text.encode("utf-8", "surrogatepass"))
    assert run("train", f"--config={path}", "--workdir=unused") == 2


ARGUMENTS = st.one_of(
    WORDS,
    st.sampled_from(
        ["run", "train", "plan", "benchmark", "import", "export", "convert", "check", "--config",
         "--workdir", "--workdir=", "--overwrite", "--overwrite=7", "--processes=2", "--process=x",
         "--coordinator=", "--only=a/b", "--onto=x", "--against=x", "--devices=-1", "--memory=x",
         "--model=", "--weights=both", "--precision=", "--json=1", "--config=", "--config.x=1"]
    ),
)  # fmt: skip


@QUIET
@given(st.lists(ARGUMENTS, min_size=1, max_size=5), st.booleans())
def test_command_lines(run, config_file, arguments, with_config):
    given = [f"--config={config_file}", "--workdir=unused"] if with_config else []
    if arguments[0] not in ("-h", "--help", "help", "--version"):
        run(*arguments[:1], *given, *arguments[1:])
    assert not Path("unused").exists()
