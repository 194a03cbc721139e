import functools
import json
import logging
import shutil
import signal

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from mean_image import OBJECTIVE, START, draw, loss

from vdu_jax import data, training
from vdu_jax.errors import UserError
from vdu_jax.runtime import fit as fit_lib
from vdu_jax.runtime.checkpoints import Store, abstract
from vdu_jax.runtime.preemption import Interrupted

IMAGES = np.random.default_rng(0).integers(0, 256, (23, 2, 2, 1), np.uint8)


class Loader:
    """The loader of every run here; `action` is called when batch number `at` is asked for."""

    def __init__(self, at, action):
        self.inner = data.make_loader(data.ArraySource(IMAGES), 5, 0)
        self.count, self.at, self.action = 0, at, action

    def __next__(self):
        self.count += 1
        if self.count == self.at:
            self.action()
        return next(self.inner)

    def __getattr__(self, name):
        return getattr(self.inner, name)


def run(directory, num_steps=12, objective=OBJECTIVE, at=None, action=None, **changes):
    settings = {
        "key": jax.random.key(1),
        "num_steps": num_steps,
        "directory": directory,
        "snapshot_steps": (6, 12),
        "save_state_every": 4,
        "log_every": 3,
        "ema_decay": 0.9,
    } | changes
    loader = Loader(at, action)
    return fit_lib.fit(objective, START, {"retain": loader}, optax.adam(0.05), **settings)


def snapshot(directory, step, name="params"):
    with Store(directory / "snapshots", read_only=True) as store:
        return store.restore(step, name, abstract(START))


def test_a_resumed_run_is_bit_identical_to_an_uninterrupted_one(tmp_path):
    run(tmp_path / "whole")

    class Killed(Exception):
        pass

    def die():
        raise Killed

    with pytest.raises(Killed):  # at the 11th batch, after the state of step 8 was saved
        run(tmp_path / "resumed", at=11, action=die)
    result = run(tmp_path / "resumed")
    assert result.steps == 12 and result.snapshots == [6, 12]
    for step in (6, 12):
        for name in ("params", "ema"):
            whole = snapshot(tmp_path / "whole", step, name)
            resumed = snapshot(tmp_path / "resumed", step, name)
            jax.tree.map(np.testing.assert_array_equal, whole, resumed)
    lines = [(tmp_path / d / "metrics.jsonl").read_text() for d in ("whole", "resumed")]
    assert lines[0] == lines[1] and lines[0].count("\n") == 4  # also where the kill cut an interval


def test_sigterm_saves_and_the_same_call_continues(tmp_path):
    def terminate():
        signal.raise_signal(signal.SIGTERM)

    before = signal.getsignal(signal.SIGTERM)
    with pytest.raises(Interrupted, match="step 7 of 12"):
        run(tmp_path / "a", at=7, action=terminate, save_state_every=100)
    assert signal.getsignal(signal.SIGTERM) == before
    run(tmp_path / "a")
    run(tmp_path / "b")
    jax.tree.map(
        np.testing.assert_array_equal, snapshot(tmp_path / "a", 12), snapshot(tmp_path / "b", 12)
    )
    lines = [(tmp_path / d / "metrics.jsonl").read_text() for d in "ab"]
    assert lines[0] == lines[1]


@pytest.fixture
def not_ignored():
    """SIGINT as in a terminal; a shell's job in the background starts with it ignored."""
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    yield
    signal.signal(signal.SIGINT, before)


def test_a_signal_in_the_last_step_stops_too(tmp_path, not_ignored):
    with pytest.raises(Interrupted, match="step 12 of 12"):
        run(tmp_path, at=12, action=lambda: signal.raise_signal(signal.SIGINT))
    result = run(tmp_path, at=1, action=pytest.fail)  # nothing is left to do
    assert result.steps == 12 and result.snapshots == [6, 12]


def test_the_guard_ends_the_run_before_the_bad_snapshot(tmp_path):
    def diverging(params, state, batch, noise):
        return -params["b"], {"b": params["b"]}

    objective = OBJECTIVE._replace(loss=diverging)
    guard = fit_lib.Guard({"b": 0.35})
    result = run(tmp_path, objective=objective, guard=guard, ema_decay=0.0)
    assert "b = " in result.stopped and "above its bound 0.35" in result.stopped
    assert result.steps == 9 and result.snapshots == [6]
    # Started again, it stays ended.
    assert run(tmp_path, objective=objective, guard=guard, ema_decay=0.0).steps == 9


def test_guard_sees_what_is_not_finite():
    guard = fit_lib.Guard({})
    assert guard.violation({"loss": float("nan")}) == "loss is nan"
    assert guard.violation({"loss": 1e30}) is None


@pytest.mark.parametrize("shape", [(), (3,), (1, 4)])
def test_noise_without_a_row_for_each_image_is_refused(tmp_path, shape):
    def wrong(key, batch):
        return {"noise": draw(key, batch), "shift": jax.random.normal(key, shape)}

    wrong = OBJECTIVE._replace(draw=wrong, loss=lambda p, s, b, n: loss(p, s, b, n["noise"]))
    with pytest.raises(ValueError, match=r"noise\['shift'\] the shape .*; .* one of \[5\] rows"):
        run(tmp_path, objective=wrong)


def test_loaders_must_be_what_the_objective_sees(tmp_path):
    with pytest.raises(ValueError, match="sees"):
        run(tmp_path, objective=OBJECTIVE._replace(sees=frozenset({"forget"})))


def test_operations_are_counted_and_those_of_the_preparation_too(tmp_path):
    once, twice = run(tmp_path / "a", num_steps=4), run(tmp_path / "b", num_steps=8)
    assert 2 * once.flops == twice.flops > 4 * 20 * 3  # 20 pixels a batch

    def init(params, batches, key):
        return jax.tree.map(jnp.zeros_like, [next(batches["retain"])["image"] for _ in range(3)])

    prepared = run(tmp_path / "c", num_steps=4, objective=OBJECTIVE._replace(init=init))
    assert prepared.flops == pytest.approx(once.flops * 7 / 4)
    again = run(tmp_path / "c", num_steps=4, objective=OBJECTIVE._replace(init=init))
    assert again.flops == prepared.flops


def test_what_is_not_finite_stops_training_with_the_step_and_its_batch(tmp_path):
    """The 8th batch makes a NaN; checked at the 9th step, or before a state is saved of it."""

    def poisoned(params, state, batch, noise):
        value, metrics = loss(params, state, batch, noise)
        return value + jnp.where(batch["retain"]["label"][0] == 7, jnp.nan, 0.0), metrics

    class Poisonous(Loader):
        def __next__(self):
            batch = super().__next__()
            return batch | {"label": np.full(5, self.count - 1)}

    def start(directory, save_state_every):
        loader = Poisonous(None, None)
        return fit_lib.fit(
            OBJECTIVE._replace(loss=poisoned), START, {"retain": loader}, optax.adam(0.05),
            key=jax.random.key(1), num_steps=12, directory=directory, snapshot_steps=(6, 12),
            save_state_every=save_state_every, log_every=9,
        )  # fmt: skip

    for every, good in ((4, "step 4"), (100, "none")):
        directory = tmp_path / str(every)
        with pytest.raises(fit_lib.NotFinite, match=f"nan at step 8; .*last good state: {good}"):
            start(directory, every)
        report = json.loads((directory / "not_finite.json").read_text())
        walk = data.make_loader(data.ArraySource(IMAGES), 5, 0)
        expected = [next(walk)["index"].tolist() for _ in range(8)][-1]
        assert report["step"] == 8 and report["images"] == {"retain": expected}
        with Store(directory / "snapshots", read_only=True) as store:
            assert store.steps() == [6]


def test_a_damaged_state_is_named_and_the_one_before_used(tmp_path, capsys):
    run(tmp_path / "whole")
    cut(tmp_path / "cut")
    flip(tmp_path / "cut" / "state" / "00000008")
    flip(tmp_path / "cut" / "snapshots" / "00000006")
    result = run(tmp_path / "cut")
    said = capsys.readouterr().err
    assert "00000008" in said and "is damaged" in said and "going on from step 4" in said
    assert result.snapshots == [6, 12]
    for step in (6, 12):
        jax.tree.map(
            np.testing.assert_array_equal,
            snapshot(tmp_path / "whole", step), snapshot(tmp_path / "cut", step),
        )  # fmt: skip


def cut(directory):
    """A run that is killed at its 11th batch; states of steps 4 and 8 and a snapshot of 6."""

    class Killed(Exception):
        pass

    def die():
        raise Killed

    with pytest.raises(Killed):
        run(directory, at=11, action=die)


def lose_metadata(folder, name):
    folder.with_name(f"{folder.name}.sums.json").unlink()
    (folder / name / "_METADATA").unlink()


@pytest.mark.parametrize("lost", ["state", "loop", "snapshot", "unsummed snapshot", "no snapshot"])
def test_a_state_without_all_that_it_needs_is_passed_over(tmp_path, capsys, lost):
    run(tmp_path / "whole")
    cut(tmp_path / "cut")
    state, snapshots = tmp_path / "cut/state/00000008", tmp_path / "cut/snapshots"
    if lost == "state":
        lose_metadata(state, "state")
    elif lost == "loop":
        state.with_name("00000008.sums.json").unlink()
        (state / "loop" / "metadata").write_text('{"seconds": 1.0}')
    elif lost == "snapshot":
        flip(snapshots / "00000006")
    elif lost == "unsummed snapshot":
        lose_metadata(snapshots / "00000006", "ema")
    else:
        shutil.rmtree(snapshots / "00000006")
    result = run(tmp_path / "cut")
    (line,) = (x for x in capsys.readouterr().err.splitlines() if x.startswith("vdu:"))
    assert "cut/s" in line and line.endswith("; going on from step 4")
    assert result.steps == 12 and result.snapshots == [6, 12]
    for step in (6, 12):
        jax.tree.map(
            np.testing.assert_array_equal,
            snapshot(tmp_path / "whole", step), snapshot(tmp_path / "cut", step),
        )  # fmt: skip
    lines = [(tmp_path / d / "metrics.jsonl").read_text() for d in ("whole", "cut")]
    assert lines[0] == lines[1]


def test_a_run_with_no_state_to_go_on_from_says_what_to_do_and_keeps_all(tmp_path):
    cut(tmp_path)
    for step in ("00000004", "00000008"):
        lose_metadata(tmp_path / "state" / step, "state")
    before = sorted(tmp_path.rglob("*"))
    with pytest.raises(UserError, match=f"or delete {tmp_path} to start from step 0"):
        run(tmp_path, at=1, action=pytest.fail)
    assert set(before) <= set(tmp_path.rglob("*"))


@pytest.mark.parametrize("ahead", [0, 2])
def test_no_more_than_a_few_steps_are_under_way(tmp_path, monkeypatch, ahead):
    # A signal is heard after what is under way: many long steps would take minutes.
    compile_step, found, under_way = fit_lib.parallel.compile_step, [], []

    def watched(*arguments):
        step_fn = compile_step(*arguments)

        def step(*arguments):
            under_way.append(sum(not metrics["loss"].is_ready() for metrics in found))
            state, metrics = step_fn(*arguments)
            found.append(metrics)
            return state, metrics

        step.trace = step_fn.trace
        return step

    def slow(params, state, batch, noise):
        work = jax.lax.fori_loop(0, 20, lambda _, x: x @ x / 1e3, jnp.full((300, 300), params["b"]))
        value, metrics = loss(params, state, batch, noise)
        return value + 0 * jax.lax.stop_gradient(work.sum()), metrics

    monkeypatch.setattr(fit_lib.parallel, "compile_step", watched)
    monkeypatch.setattr(fit_lib, "steps_ahead", lambda: ahead)
    slow = OBJECTIVE._replace(loss=slow)
    run(tmp_path, 20, slow, snapshot_steps=(20,), save_state_every=20, log_every=20)
    assert len(under_way) == 20 and min(ahead, 1) <= max(under_way) <= ahead


def test_the_first_state_is_fresh_arrays_made_by_one_program(caplog):
    # The step uses its state up, and the caller and the objective go on with `params`.
    mesh = fit_lib.parallel.make_mesh()
    params = fit_lib.parallel.place(START, mesh)
    start = functools.partial(training.init_state, optimizer=optax.adam(0.05), ema_decay=0.9)
    with jax.log_compiles(), caplog.at_level(logging.WARNING):
        state = fit_lib.parallel.init_sharded(start, mesh, params)
    assert sum("Compiling jit" in r.getMessage() for r in caplog.records) == 1
    jax.tree.map(np.testing.assert_array_equal, state, start(params))
    arrays = jax.tree.leaves((state, params))
    assert len({a.unsafe_buffer_pointer() for a in arrays}) == len(arrays)
    assert {a.sharding for a in arrays} == {fit_lib.parallel.replicated(mesh)}


def test_two_stores_never_save_at_once(tmp_path, monkeypatch):
    # Orbax's barriers have the same names for all stores: several processes would hang.
    stores, save = [], Store.save

    def checked(self, *arguments):
        stores.append(self)
        busy = [s for s in stores if s is not self and s._manager.is_saving_in_progress()]
        assert not busy, busy[0].directory
        save(self, *arguments)

    monkeypatch.setattr(Store, "save", checked)
    run(tmp_path, snapshot_steps=range(1, 13), save_state_every=1)
    assert len(stores) == 2 * 12


def flip(folder):
    """Change one bit of the largest file."""
    file = max((f for f in folder.rglob("*") if f.is_file()), key=lambda f: f.stat().st_size)
    content = bytearray(file.read_bytes())
    content[len(content) // 2] ^= 1
    file.write_bytes(bytes(content))
