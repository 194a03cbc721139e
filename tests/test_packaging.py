"""The wheel, the version policy, and what continuous integration runs."""

import ast
import configparser
import re
import shutil
import subprocess
import sys
import zipfile
from pathlib import Path

import pytest
import yaml

import vdu_jax
from vdu_jax import errors

ROOT = Path(__file__).parents[1]
PACKAGE = ROOT / "vdu_jax"
SETUP = configparser.ConfigParser()
SETUP.read(ROOT / "setup.cfg")
CI = yaml.safe_load((ROOT / ".github" / "workflows" / "ci.yml").read_text())
BUILD = "import sys; from setuptools import build_meta; build_meta.build_wheel(sys.argv[1])"


@pytest.fixture(scope="module")
def wheel(tmp_path_factory):
    """The wheel, built without network from a copy of what it is made of."""
    source = tmp_path_factory.mktemp("source")
    for name in ("setup.cfg", "pyproject.toml", "README.md", "LICENSE"):
        shutil.copy(ROOT / name, source)
    for name in ("vdu_jax", "tests"):
        shutil.copytree(ROOT / name, source / name, ignore=shutil.ignore_patterns("__pycache__"))
    subprocess.run([sys.executable, "-c", BUILD, "."], cwd=source, check=True, capture_output=True)
    (path,) = source.glob("*.whl")
    with zipfile.ZipFile(path) as archive:
        yield archive


def test_the_wheel_has_every_file_of_the_package_and_no_other(wheel):
    expected = {
        path.relative_to(ROOT).as_posix()
        for path in PACKAGE.rglob("*")
        if path.is_file() and "__pycache__" not in path.parts
    }
    found = {name for name in wheel.namelist() if ".dist-info/" not in name}
    assert found == expected


def test_the_wheel_starts_the_command_line_and_has_the_license(wheel):
    info = f"vdu_jax-{vdu_jax.__version__}.dist-info"
    assert "vdu = vdu_jax.__main__:main" in wheel.read(f"{info}/entry_points.txt").decode()
    assert wheel.read(f"{info}/licenses/LICENSE") == (ROOT / "LICENSE").read_bytes()
    metadata = wheel.read(f"{info}/METADATA").decode()
    assert "License-Expression: Apache-2.0" in metadata


def names_a_config(text):
    return "configs/" in text.replace(errors.CONFIGS, "")


def test_no_message_leads_into_a_folder_that_an_installed_package_lacks():
    assert names_a_config("see configs/digits.py")
    for path in PACKAGE.rglob("*.py"):
        tree = ast.parse(path.read_text())
        about = {ast.get_docstring(tree, clean=False)}  # a module's docstring is no message
        strings = {
            node.value
            for node in ast.walk(tree)
            if isinstance(node, ast.Constant) and isinstance(node.value, str)
        }
        assert [text for text in strings - about if names_a_config(text)] == [], path


def test_the_oldest_versions_are_the_lower_bounds():
    bounds = SETUP["options"]["install_requires"].split()
    expected = {name: low for name, low in (bound.split(">=") for bound in bounds)}
    expected["jaxlib"] = expected["jax"]
    lines = (ROOT / "constraints-oldest.txt").read_text().splitlines()
    pins = [line.split("==") for line in lines if not line.startswith("#")]
    assert dict(pins) == expected and len(pins) == len(expected)


def files(tests):
    """The test files of paths as the shell expands them."""
    for word in tests.split():
        paths = list(ROOT.glob(word))
        assert paths, word
        for path in paths:
            yield from path.rglob("test_*.py") if path.is_dir() else [path]


def test_every_test_file_is_in_one_shard():
    shards = CI["jobs"]["test"]["strategy"]["matrix"]["tests"]
    found = sorted(path for shard in shards for path in files(shard))
    assert found == sorted((ROOT / "tests").rglob("test_*.py"))
    assert list(files(CI["jobs"]["oldest"]["steps"][2]["env"]["TESTS"]))


def test_what_is_run_are_targets_of_make():
    targets = re.findall(r"^([\w-]+):", (ROOT / "Makefile").read_text(), re.MULTILINE)
    steps = [step.get("run", "") for job in CI["jobs"].values() for step in job["steps"]]
    run = {target for step in steps for target in re.findall(r"^make (\S+)", step)}
    assert run == {"lint", "test", "test-parity", "docs"}
    assert run <= set(targets)


def test_the_supported_versions_of_python_are_tested():
    classifiers = SETUP["metadata"]["classifiers"]
    supported = re.findall(r":: Python :: (3\.\d+)", classifiers)
    assert CI["jobs"]["test"]["strategy"]["matrix"]["python"] == supported
    assert SETUP["options"]["python_requires"] == f">={supported[0]}"


def test_the_changes_and_the_citation_are_of_this_version():
    changes = (ROOT / "CHANGELOG.md").read_text()
    assert re.search(rf"^## \[{re.escape(vdu_jax.__version__)}\]", changes, re.MULTILINE)
    citation = yaml.safe_load((ROOT / "CITATION.cff").read_text())
    assert citation["version"] == vdu_jax.__version__
    (paper,) = citation["references"]
    assert paper["url"] in (ROOT / "README.md").read_text()


def test_the_readmes_config_is_valid():
    readme = (ROOT / "README.md").read_text()
    (code,) = re.findall(r"```python\n(# mine\.py.*?)```", readme, re.DOTALL)
    names = {}
    exec(code, names)
    config = names["get_config"]()
    vdu_jax.config.validate(config)
    assert (config.data.name, config.model.name) == ("digits", "unet")
