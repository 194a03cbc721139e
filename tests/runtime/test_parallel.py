"""The same steps on one device and on eight, whole and in parts."""

import json
import os
import subprocess
import sys
from pathlib import Path

import jax
import numpy as np
import parallel_job
import pytest

from vdu_jax import objectives
from vdu_jax.errors import UserError
from vdu_jax.runtime import fit as fit_lib
from vdu_jax.runtime import parallel
from vdu_jax.runtime.checkpoints import Store, abstract

JOB = Path(parallel_job.__file__)
# Eight devices on busy cores: one may wait for another longer than XLA allows by default.
FLAGS = "--xla_cpu_collective_call_terminate_timeout_seconds=600"
LAYOUTS = {
    "jit": (8, []),
    "fsdp": (8, ["--fsdp=8"]),
    "pmap": (8, ["--mode=pmap"]),
}


def run_job(folder, devices, flags=()):
    env = os.environ | {
        "XLA_FLAGS": f"{FLAGS} --xla_force_host_platform_device_count={devices}",
        "JAX_PLATFORMS": "cpu",
    }
    command = [sys.executable, str(JOB), str(folder), *flags]
    done = subprocess.run(command, env=env, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr[-3000:]


def result(folder):
    """Losses and the last parameters."""
    lines = (folder / "metrics.jsonl").read_text().splitlines()
    losses = [json.loads(line)["loss"] for line in lines]
    _, params, _ = parallel_job.make("ddpm")
    with Store(folder / "snapshots", read_only=True) as store:
        return np.array(losses), store.restore(parallel_job.STEPS, "params", abstract(params))


def assert_equal(found, expected):
    assert len(expected[0]) == parallel_job.STEPS
    np.testing.assert_allclose(found[0], expected[0], rtol=1e-5)
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, atol=1e-4), found[1], expected[1])


@pytest.fixture(scope="module")
def one_device(tmp_path_factory):
    folder = tmp_path_factory.mktemp("one") / "job"
    run_job(folder, 1)
    return {name: result(folder / name) for name in ("ddpm", "vdu")}


@pytest.mark.parametrize("layout", LAYOUTS)
def test_a_layout_changes_nothing(tmp_path, one_device, layout):
    devices, flags = LAYOUTS[layout]
    run_job(tmp_path / "many", devices, flags)
    for name, expected in one_device.items():
        assert_equal(result(tmp_path / "many" / name), expected)
    held = json.loads((tmp_path / "many" / "bytes.json").read_text())
    assert held["devices"] == devices
    if layout == "fsdp":
        assert held["bytes"] <= held["whole"] * (1 / 8 + 0.05)


def batch_loss(name, wrap=lambda f: f):
    """Loss, metrics and gradients of one batch of an objective."""
    objective, params, loaders = parallel_job.make(name)
    state = objective.init(params, loaders, jax.random.key(0))
    batch = {kind: next(loader) for kind, loader in loaders.items()}
    function = wrap(jax.value_and_grad(objective.loss, has_aux=True))
    return jax.jit(function)(params, state, batch, jax.random.key(9))


MEANS = [
    name for name in ["ddpm", *objectives.FACTORIES]
    if name not in ("erase_diff", "salun", "siss")
]  # fmt: skip


@pytest.mark.parametrize("name", MEANS)
def test_a_mean_is_the_same_in_parts(name):
    whole = batch_loss(name)
    parts = batch_loss(name, lambda f: parallel.in_parts(f, 4))
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=2e-4, atol=2e-5), whole, parts)


def test_what_is_no_mean_is_not_taken_in_parts(tmp_path):
    for name in {*objectives.FACTORIES} - {*MEANS}:
        objective, params, loaders = parallel_job.make(name)
        for layout in (parallel.Layout(accumulate=2), parallel.Layout(mode="pmap")):
            with pytest.raises(UserError, match="no mean over images"):
                fit_lib.fit(
                    objective, params, loaders, None, key=None, num_steps=1, directory=tmp_path,
                    snapshot_steps=(), save_state_every=1, log_every=1, layout=layout,
                )  # fmt: skip


def test_a_mesh_must_fit_the_devices(monkeypatch):
    monkeypatch.setattr(jax, "devices", lambda: list(range(6)))
    with pytest.raises(UserError, match="parallel.fsdp = 4: does not divide the 6 devices"):
        parallel.make_mesh(4)
    assert parallel.make_mesh(3).devices.shape == (2, 3)


def test_batches_divide_over_devices_and_parts():
    with pytest.raises(UserError, match=r"train.batch_size = 6: .*accumulate = 4; .* of 4"):
        parallel.check_batch_size(6, parallel.Layout(accumulate=4), "train.batch_size")
    parallel.check_batch_size(8, parallel.Layout(accumulate=4), "train.batch_size")
