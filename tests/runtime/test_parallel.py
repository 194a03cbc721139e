"""The same steps on one device, on eight, on two processes with four each, and in parts."""

import json
import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import parallel_job
import pytest

from vdu_jax import objectives, posterior
from vdu_jax.diffusion.parameterization import epsilon
from vdu_jax.diffusion.schedule import make_schedule
from vdu_jax.errors import UserError
from vdu_jax.runtime import fit as fit_lib
from vdu_jax.runtime import parallel
from vdu_jax.runtime.checkpoints import Store, abstract

JOB = Path(parallel_job.__file__)
# Eight devices on busy cores: one may wait for another longer than XLA allows by default.
WAIT = "--xla_cpu_collective_call_terminate_timeout_seconds=600"
LAUNCH = JOB.parents[2] / "launch" / "local.py"
LAYOUTS = parallel_job.LAYOUTS


def run_job(folder, devices, layouts=(), processes=1):
    env = os.environ | {"XLA_FLAGS": f"{os.environ['XLA_FLAGS']} {WAIT}", "JAX_PLATFORMS": "cpu"}
    env["JAX_NUM_CPU_DEVICES"] = str(devices)
    command = [sys.executable, str(JOB), str(folder), *layouts]
    if processes > 1:
        spread = [f"--processes={processes}", f"--devices={devices}"]
        command = [sys.executable, str(LAUNCH), *spread, "--", *command]
    done = subprocess.run(command, env=env, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr[-3000:]


def result(folder):
    """Losses and the last parameters of the job in a folder of its name."""
    lines = (folder / "metrics.jsonl").read_text().splitlines()
    losses = [json.loads(line)["loss"] for line in lines]
    _, params, _ = parallel_job.make(folder.name)
    with Store(folder / "snapshots", read_only=True) as store:
        return np.array(losses), store.restore(parallel_job.STEPS, "params", abstract(params))


def assert_equal(found, expected):
    assert len(expected[0]) == parallel_job.STEPS
    np.testing.assert_allclose(found[0], expected[0], rtol=1e-5)
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, atol=1e-4), found[1], expected[1])


@pytest.fixture(scope="module")
def one_device(tmp_path_factory):
    folder = tmp_path_factory.mktemp("one")
    run_job(folder, 1)
    return {name: result(folder / "jit" / name) for name in ("ddpm", "vdu")}


@pytest.fixture(scope="module")
def eight_devices(tmp_path_factory):
    """Of one process, in every layout."""
    folder = tmp_path_factory.mktemp("eight")
    run_job(folder, 8, LAYOUTS)
    return folder


@pytest.mark.parametrize("layout", LAYOUTS)
def test_a_layout_changes_nothing(eight_devices, one_device, layout):
    folder = eight_devices / layout
    for name, expected in one_device.items():
        assert_equal(result(folder / name), expected)
    held = json.loads((folder / "bytes.json").read_text())
    assert held["devices"] == 8
    # Each device draws the noise of its own 2 of 16 images.
    program = (folder / "draw.txt").read_text()
    assert "f32[2,8,8,1]" in program and "[16" not in program
    assert not re.search("all-gather|all-to-all|all-reduce|collective-permute", program)
    if layout == "fsdp":
        assert held["bytes"] <= held["whole"] * (1 / 8 + 0.05)


def test_what_two_processes_began_one_device_ends(tmp_path, one_device):
    last = f"{parallel_job.STEPS:08d}"
    run_job(tmp_path, 4, ["fsdp"], processes=2)
    assert json.loads((tmp_path / "fsdp" / "bytes.json").read_text())["devices"] == 8
    for name, expected in one_device.items():
        assert_equal(result(tmp_path / "fsdp" / name), expected)
        for kind in ("state", "snapshots"):  # back to what they had saved half-way
            shutil.rmtree(tmp_path / "fsdp" / name / kind / last)
    (tmp_path / "fsdp").rename(tmp_path / "jit")
    run_job(tmp_path, 1)
    for name, expected in one_device.items():
        assert_equal(result(tmp_path / "jit" / name), expected)


def affine():
    """The smallest noise predictor, for what is not about networks."""

    def score_fn(params, xt, t, cond=None, *, dropout_key=None):
        return params["a"] * xt + params["b"]

    return score_fn, {"a": jnp.full((8, 8, 1), 0.5), "b": jnp.full((8, 8, 1), 0.1)}


def batch_loss(name, wrap=lambda f: f, network=affine):
    """Loss, metrics and gradients of one batch of an objective."""
    objective, params, loaders = parallel_job.make(name, network)
    state = objective.init(params, loaders, jax.random.key(0))
    batch = {kind: next(loader) for kind, loader in loaders.items()}
    function = wrap(jax.value_and_grad(objective.loss, has_aux=True))
    noise = objective.draw(jax.random.key(9), batch)
    return jax.jit(function)(params, state, batch, noise)


MEANS = [name for name in ["ddpm", *objectives.FACTORIES] if name not in ("erase_diff", "siss")]


@pytest.mark.parametrize("name", MEANS)
def test_a_mean_is_the_same_in_parts(name):
    whole = batch_loss(name)
    parts = batch_loss(name, lambda f: parallel.in_parts(f, 4))
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=2e-4, atol=2e-5), whole, parts)


def test_dropout_masks_are_the_same_in_parts():
    whole = batch_loss("ddpm", network=parallel_job.small_network)
    parts = batch_loss("ddpm", lambda f: parallel.in_parts(f, 4), parallel_job.small_network)
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=2e-4, atol=2e-5), whole, parts)


@pytest.mark.parametrize("parts", [2, 4])
def test_noise_is_split_as_the_images_are_that_it_belongs_to(parts):
    """Whatever the numbers of images of each kind; every row in one part, beside its image."""
    rows = {"forget": jnp.arange(8.0), "replay": jnp.arange(24.0)}
    batch = {kind: {"image": numbers[:, None]} for kind, numbers in rows.items()}
    keys = jax.random.split(jax.random.key(0), 24)

    def function(params, state, batch, noise):
        gaps = [jnp.abs(batch[kind]["image"][:, 0] - noise[kind]).sum() for kind in rows]
        own = jax.random.key_data(noise["keys"])
        expected = jax.random.key_data(keys)[batch["replay"]["image"][:, 0].astype(int)]
        return sum(gaps) + (own != expected).sum(), {k: noise[k].sum() for k in rows}

    noise = rows | {"keys": keys}
    gap, sums = jax.jit(parallel.in_parts(function, parts))((), (), batch, noise)
    assert gap == 0
    for kind, numbers in rows.items():
        assert float(sums[kind]) * parts == float(numbers.sum())


def test_a_partner_is_the_same_whatever_the_devices():
    """4 forget and 8 replay images on 2 devices, of which the first has half of the prompts."""
    rng, network = np.random.default_rng(0), affine()

    def score_fn(params, xt, t, cond=None, *, dropout_key=None):
        return network[0](params, xt, t) + cond[:, :, None, None]

    batch = {
        kind: {
            "image": rng.uniform(-1, 1, (n, 8, 8, 1)).astype(np.float32),
            "cond": rng.normal(0, 0.2, (n, 1)).astype(np.float32),
        }
        for kind, n in (("forget", 4), ("replay", 8))
    }
    params = network[1]
    trained = posterior.GaussianPosterior(params, params, jnp.int32(5))
    predicts = epsilon(make_schedule(num_steps=50))
    objective = objectives.vdu_extended(
        score_fn, predicts, trained, 40, plasticity="mismatched", cap=0.5
    )
    state, noise = objective.init(params, {}, None), objective.draw(jax.random.key(0), batch)
    whole = objective.loss(params, state, batch, noise)
    split = jax.tree.map(lambda a: a.reshape(2, -1, *a.shape[1:]), (batch, noise))
    on_each = parallel.over_devices(objective.loss, "devices")
    found = jax.vmap(on_each, (None, None, 0, 0), axis_name="devices")(params, state, *split)
    jax.tree.map(
        lambda a, b: np.testing.assert_allclose(a[0], b, rtol=1e-5, atol=1e-6), found, whole
    )


def test_what_is_no_mean_is_not_taken_in_parts(tmp_path):
    for name in {*objectives.FACTORIES} - {*MEANS}:
        objective, params, loaders = parallel_job.make(name, affine)
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
