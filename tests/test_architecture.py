"""Which package may import which, and that everything public says what it is."""

import ast
import subprocess
import sys
from pathlib import Path

import pytest

import vdu_jax

PACKAGE = Path(vdu_jax.__file__).parent
TESTS = Path(__file__).parent
PURE = {
    "models", "diffusion", "posterior", "objectives", "metrics", "forget_detector", "training",
    "types",
}  # fmt: skip
SHELL = {
    "data", "interop", "parity", "runtime", "stages", "tasks", "cli", "config",
    "__main__",
}  # fmt: skip
FORBIDDEN = {
    "data": {"runtime", "tasks", "stages", "cli"},
    "tasks": {"stages", "cli"},
    "runtime": {"tasks", "stages", "cli"},
    "interop": {"tasks", "stages", "cli"},
    "parity": {"tasks", "stages", "cli"},
    "stages": {"cli"},
    "cli": set(),
    "__main__": set(),
    "config": {"tasks", "stages", "runtime", "cli"},
    **{package: SHELL for package in PURE},
}
IO_LIBRARIES = {
    "safetensors",
    "orbax",
    "grain",
    "tensorflow_datasets",
    "absl",
    "ml_collections",
    "tensorboardX",
}
# What stages may import of tasks. The evaluators are here for a warning that two stages share.
OF_TASKS = {"vdu_jax.tasks", "vdu_jax.tasks.base", "vdu_jax.tasks.evaluators"}
# Of one kind of model: no stage knows them.
OF_ONE_TASK = ("prompt", "caption", "text_to_image", "class_conditional")


def dotted(path):
    parts = path.relative_to(PACKAGE.parent).with_suffix("").parts
    return ".".join(parts[:-1] if parts[-1] == "__init__" else parts)


MODULES = {dotted(path): path for path in sorted(PACKAGE.rglob("*.py"))}
TREES = {name: ast.parse(path.read_text()) for name, path in MODULES.items()}


def package(module):
    """The top-level part of a module of the package ("" for the package itself)."""
    return (module.split(".") + [""])[1]


def imports(name, tree=None, is_package=None):
    """Every module that `name` imports, wherever in the file, as a full dotted name."""
    tree = TREES[name] if tree is None else tree
    is_package = MODULES[name].name == "__init__.py" if is_package is None else is_package
    found = set()
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            base = node.module or ""
            if node.level:
                parts = name.split(".")
                parts = parts[: len(parts) - node.level + is_package]
                base = ".".join([*parts, base] if base else parts)
            found |= {f"{base}.{alias.name}" for alias in node.names}
    return found


def packages_imported(name):
    return {package(module) for module in imports(name) if module.split(".")[0] == "vdu_jax"} - {""}


@pytest.mark.parametrize(
    ("source", "expected"),
    [
        ("import vdu_jax.data.loader as l", "vdu_jax.data.loader"),
        ("from vdu_jax import stages", "vdu_jax.stages"),
        ("def f():\n    from vdu_jax.stages.train import run", "vdu_jax.stages.train.run"),
        ("from ..stages import train", "vdu_jax.stages.train"),
        ("from .. import cli", "vdu_jax.cli"),
        ("from . import pul", "vdu_jax.metrics.pul"),
    ],
)
def test_this_test_sees_every_way_to_import(source, expected):
    assert imports("vdu_jax.metrics.frechet", ast.parse(source), False) == {expected}


def test_every_room_is_known():
    packages = {package(name) for name in MODULES}
    assert packages <= PURE | SHELL | {"", "errors"}
    assert packages >= PURE


@pytest.mark.parametrize("name", MODULES)
def test_imports_point_from_the_shell_to_the_core(name):
    assert not packages_imported(name) & FORBIDDEN.get(package(name), {"cli"})


STAGES = [name for name, path in MODULES.items() if path.parent == PACKAGE / "stages"]


@pytest.mark.parametrize("name", STAGES)
def test_stages_know_tasks_and_no_single_one(name):
    of_tasks = {module for module in imports(name) if package(module) == "tasks"}
    modules = {m if m in MODULES else m.rpartition(".")[0] for m in of_tasks}
    assert modules <= OF_TASKS
    text = MODULES[name].read_text().lower().replace("figcaption", "")  # of HTML
    assert [word for word in OF_ONE_TASK if word in text] == []


@pytest.mark.parametrize("name", [name for name in MODULES if package(name) in PURE])
def test_the_core_uses_no_library_for_files_or_flags(name):
    assert not {module.split(".")[0] for module in imports(name)} & IO_LIBRARIES


def test_no_pickle_is_loaded_anywhere():
    for name in MODULES:
        assert not {m.split(".")[0] for m in imports(name)} & {"pickle", "dill", "joblib"}, name


@pytest.mark.parametrize("name", MODULES)
def test_every_module_has_a_docstring(name):
    assert ast.get_docstring(TREES[name])


@pytest.mark.parametrize("name", [name for name in MODULES if package(name) in PURE])
def test_public_functions_and_classes_of_the_core_have_docstrings(name):
    kinds = ast.FunctionDef | ast.ClassDef
    public = [n for n in TREES[name].body if isinstance(n, kinds) and not n.name.startswith("_")]
    assert [node.name for node in public if not ast.get_docstring(node)] == []


def test_importing_the_package_is_cheap():
    code = "import sys, vdu_jax; print(vdu_jax.__version__, 'jax' in sys.modules)"
    run = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, cwd=PACKAGE.parent, check=True
    )
    assert run.stdout.split() == [vdu_jax.__version__, "False"]


def test_tests_of_the_core_mirror_its_modules():
    core = [p for p in TESTS.rglob("test_*.py") if p.relative_to(TESTS).parts[0] in PURE]
    assert core
    for path in [*core, TESTS / "test_forget_detector.py"]:
        name = path.name.removeprefix("test_")
        assert (PACKAGE / path.relative_to(TESTS).with_name(name)).exists(), path


def test_every_module_of_the_core_has_its_tests():
    for name, path in MODULES.items():
        if package(name) in PURE - {"types"} and path.name != "__init__.py":
            relative = path.relative_to(PACKAGE)
            assert (TESTS / relative.with_name("test_" + relative.name)).exists(), name
