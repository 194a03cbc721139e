"""A run small enough to be made in seconds, and shared by the tests that need one."""

import fcntl
import gc
import importlib.metadata
import json
import os
import shutil
import sys
import tempfile
from pathlib import Path

os.environ.setdefault("JAX_PLATFORMS", "cpu")
os.environ.pop("FORCE_COLOR", None)  # CI sets it; messages are compared as plain text
# One compiler setting for all, whether JAX has started before the first command or not. Networks
# this small take far longer to compile than to run: without LLVM's optimisations, the emitters of
# fused loops and several modules for one program, half of the time. jaxlib 0.10 alone gains by the
# last two, and an unknown flag ends the process.
os.environ.setdefault(
    "XLA_FLAGS",
    "--xla_backend_optimization_level=0"
    + " --xla_cpu_use_fusion_emitters=false --xla_cpu_parallel_codegen_split_count=1"
    * importlib.metadata.version("jaxlib").startswith("0.10."),
)
# Nor does each operation of a program keep the lines of Python that it comes from.
os.environ.setdefault("JAX_TRACEBACK_IN_LOCATIONS_LIMIT", "0")
# The runs below compile the same programs again and again, in every worker; nothing is kept between
# sessions.
if "PYTEST_XDIST_WORKER" not in os.environ:
    _CACHE = tempfile.TemporaryDirectory(prefix="vdu-test-", ignore_cleanup_errors=True)
    os.environ["JAX_COMPILATION_CACHE_DIR"] = _CACHE.name
    os.environ["JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS"] = "0"
    # Dozens of tests start processes, and each would compile all modules that it imports. Whoever
    # wants no bytecode beside the sources still gets none there.
    if os.environ.pop("PYTHONDONTWRITEBYTECODE", ""):
        os.environ["PYTHONPYCACHEPREFIX"] = sys.pycache_prefix = _CACHE.name + "/bytecode"
        sys.dont_write_bytecode = False

import pytest

from vdu_jax import cli

# Tracing makes and drops objects by the million: at the usual thresholds a sixth of the time goes
# into looking for cycles among them.
gc.set_threshold(100_000, 20, 20)

TINY = """
from vdu_jax import config as vdu_config

def get_config():
    config = vdu_config.default()
    config.data.dir = {data_dir!r}
    # A network of 12 steps draws noise; the classifier puts it into one of these nine for sure.
    config.forget.classes = (0, 1, 2, 3, 4, 5, 6, 7, 8)
    config.forget.limit = 150
    config.model = vdu_config.model({model})
    config.diffusion.num_steps = 50
    config.train.steps = 12
    config.train.batch_size = 16
    config.train.learning_rate = 1e-3
    config.train.warmup_steps = 2
    config.train.ema_decay = 0.5
    config.train.snapshot_every = 3
    config.train.snapshots = 3
    config.train.save_state_every = 4
    config.train.log_every = 2
    config.sampler.steps = 3
    config.sampler.batch_size = 64
    config.replay.images = 120
    config.curve.images = 50
    config.evaluate.images = 60
    config.evaluate.bits_per_dim_images = 2
    config.classifier.widths = (8, 16)
    config.classifier.epochs = 3
    config.classifier.min_accuracy = 0.0
    config.methods.plain = vdu_config.method(
        "vdu", learning_rate=1e-4, steps=4, snapshot_every=2, forget_batch=8, log_every=1
    )
    config.methods.extended = vdu_config.method(
        "vdu_extended", steps=4, snapshot_every=2, forget_batch=8, replay_batch=8, log_every=1
    )
    return config
"""

# What is not about one of them has the transformer, traced and compiled in half the time.
TRANSFORMER = "'dit', patch_size=2, hidden_size=16, depth=1, num_heads=2"
UNET = "'unet', block_out_channels=(8,), attention_levels=(), layers_per_block=1, num_groups=4"

# The files of minutes, the longest first.
LONG = (
    "test_examples.py", "stages/test_benchmark.py", "runtime/test_parallel.py",
    "tasks/text_to_image/test_run.py", "benchmarks/test_accelerator.py", "launch/test_local.py",
    "stages/test_run.py",
    "stages/test_unlearn.py", "stages/test_interop.py", "stages/test_class_conditional.py",
    "stages/test_relearn.py", "test_bad_input.py", "test_cli.py", "test_stop.py",
    "test_extending.py",
)  # fmt: skip


def pytest_collection_modifyitems(items):
    """Long files come first: begun last, one would keep a worker while the others are idle."""
    tests = Path(__file__).parent
    places = {tests / name: place for place, name in enumerate(LONG)}
    items.sort(key=lambda item: places.get(item.path, len(LONG)))


def parse(config_file):
    """The config of a file, free to change."""
    values, _ = cli.parse([f"--config={config_file}", "--workdir=unused"])
    return values["config"].value


@pytest.fixture(scope="session")
def config_file(tmp_path_factory):
    """A config file of a run of a few steps."""
    root = tmp_path_factory.mktemp("config")
    path = root / "tiny.py"
    path.write_text(TINY.format(data_dir=str(root / "data"), model=TRANSFORMER))
    return path


@pytest.fixture(scope="session")
def unet_file(config_file):
    """The same run's with a U-Net."""
    path = config_file.with_name("tiny_unet.py")
    path.write_text(TINY.format(data_dir=str(config_file.parent / "data"), model=UNET))
    return path


@pytest.fixture
def config(config_file):
    return parse(config_file)


@pytest.fixture
def unet_config(unet_file):
    return parse(unet_file)


def make_once(name, config_file, tmp_path_factory, commands=("run",)):
    """The workdir after these commands. Not to be changed.

    The first worker that needs it makes it, and the others copy it and the data prepared for it.
    """
    workdir, root = tmp_path_factory.mktemp(name) / "work", tmp_path_factory.getbasetemp()
    made = (root.parent if "PYTEST_XDIST_WORKER" in os.environ else root) / f"made-{name}"
    with open(made.with_suffix(".lock"), "w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        if not (made / "whole").exists():
            shutil.rmtree(made, ignore_errors=True)
            for command in commands:
                assert cli.main([command, f"--config={config_file}", f"--workdir={workdir}"]) == 0
            shutil.copytree(workdir, made / "work")
            shutil.copytree(config_file.parent / "data", made / "data")
            (made / "whole").touch()
    if not workdir.exists():
        shutil.copytree(made / "work", workdir)
        shutil.copytree(made / "data", config_file.parent / "data", dirs_exist_ok=True)
    return workdir


@pytest.fixture(scope="session")
def finished_run(config_file, tmp_path_factory):
    """A workdir in which every stage has run, through the command line. Not to be changed."""
    return make_once("run", config_file, tmp_path_factory)


@pytest.fixture(scope="session")
def unet_run(unet_file, tmp_path_factory):
    """A workdir with a trained U-Net, and unlearned ones. Not to be changed."""
    stages = ("train", "posterior", "replay", "unlearn")
    return make_once("unet", unet_file, tmp_path_factory, stages)


@pytest.fixture
def edit_json():
    """`edit(path, **values)` sets keys of a JSON file."""

    def edit(path, **values):
        path.write_text(json.dumps(json.loads(path.read_text()) | values))

    return edit


@pytest.fixture
def split_weights():
    """`split(network, variant)` makes three shards of a network's weights, as diffusers does."""

    from vdu_jax.interop import tensors

    def split(network, variant=""):
        stem, dot = "diffusion_pytorch_model", f".{variant}" if variant else ""
        whole = tensors.read(network / f"{stem}.safetensors")
        names, mapping = sorted(whole.tensors), {}
        for i in range(3):
            file = f"{stem}{dot}-{i + 1:05}-of-00003.safetensors"
            part = {name: whole.tensors[name] for name in names[i::3]}
            tensors.write(network / file, part, whole.metadata)
            mapping |= dict.fromkeys(part, file)
        index = network / f"{stem}.safetensors.index{dot}.json"
        index.write_text(json.dumps({"metadata": {"total_size": 1}, "weight_map": mapping}))
        (network / f"{stem}.safetensors").unlink()

    return split
