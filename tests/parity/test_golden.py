"""Our numbers against the golden ones that PyTorch made, without PyTorch."""

import json

import jax
import numpy as np
import pytest

from vdu_jax.parity import check, compare, components, inputs

BY_NAME = {component.name: component for component in components.COMPONENTS}


@pytest.mark.parametrize("name", BY_NAME)
def test_float32_agrees_with_pytorch(name):
    result = check.against_golden(BY_NAME[name], "float32")
    assert result.verdict == "ok", check.table([result])


def test_names_are_unique():
    assert len(BY_NAME) == len(components.COMPONENTS)


@pytest.mark.parametrize("name", BY_NAME)
def test_golden_files_say_what_they_were_made_with_and_hold_no_trivial_array(name):
    arrays, made_with = compare.read_golden(name)
    packages = {"torch", "diffusers", "transformers", "pytorch-fid", "numpy"}
    assert packages | {"python", "date", "script"} == set(made_with)
    assert all(made_with.values())
    for array in arrays.values():
        assert array.dtype == np.float32 and np.isfinite(array).all() and np.abs(array).max() > 0


def test_golden_files_are_small_and_hold_no_component_that_is_gone():
    folder = compare.golden_folder()
    files = {path.name: path.stat().st_size for path in folder.iterdir()}
    assert set(files) == {f"{compare.group(name)}.npz" for name in BY_NAME}
    assert sum(files.values()) < 1_000_000
    for name in files:
        with np.load(folder / name, allow_pickle=False) as file:
            known = {key.partition(":")[0] for key in file.files} - {compare.MADE_WITH}
        assert known <= set(BY_NAME)


def test_tolerances_are_the_contract():
    def tolerance(start):
        found = {c.tolerance["float32"] for c in BY_NAME.values() if c.name.startswith(start)}
        (value,) = found
        return value

    assert tolerance("unet/") == tolerance("class_conditional/") == 2e-5
    assert tolerance("dit/") == 1e-5  # relative
    assert tolerance("loss") == tolerance("gradients/") == 1e-4
    assert tolerance("schedule/") == 1e-6
    assert {tolerance(f"sampler/{name}") for name in inputs.SAMPLERS} == {1e-5}
    assert tolerance("sampler/ddim_50_images") == 1e-3
    assert tolerance("vdu/loss") == tolerance("vdu/100_steps/losses") == 1e-4
    assert tolerance("vdu/100_steps/parameters") == 1e-3
    assert {tolerance(f"stable_diffusion/{part}") for part in ("text", "vae", "unet")} == {1e-4}
    assert tolerance("stable_diffusion/image") == 1e-2
    assert tolerance("inception") == tolerance("frechet") == 1e-4
    for component in BY_NAME.values():
        assert component.tolerance.keys() == components.PRECISIONS.keys()


def test_bfloat16_is_within_its_own_tolerance_and_not_within_that_of_float32():
    component = BY_NAME["unet/one_head_one_level"]
    result = check.against_golden(component, "bfloat16")
    assert result.verdict == "ok", check.table([result])
    assert result.error > component.tolerance["float32"]


def test_the_run_of_100_updates_is_one_that_could_go_wrong():
    """It moves the parameters by more than a hundredth of them, and the loss by much."""
    run = components.vdu_run("float32")
    losses, end, update = (
        run[part][key]
        for part, key in (("losses", "loss"), ("parameters", "parameters"), ("update", "update"))
    )
    assert 0.01 < np.linalg.norm(update) / np.linalg.norm(end) < 0.5
    assert losses[-10:].mean() < losses[:10].mean() - abs(losses[:10].mean())
    assert 50_000 < len(end) < 150_000


@pytest.fixture
def only(monkeypatch):
    """`only(name, …)` leaves these components alone to be checked."""

    def leave(*names):
        monkeypatch.setattr(check, "COMPONENTS", [BY_NAME[name] for name in names])

    return leave


def test_check_prints_device_versions_and_a_line_for_each_component(only, capsys):
    only("schedule/linear", "posterior/mean")
    assert check.run(["float32", "tf32"]) == 0
    out = capsys.readouterr().out
    assert "cpu" in out and "jax " in out and "diffusers " in out
    assert out.count("schedule/linear") == out.count("posterior/mean") == 2
    assert "FAIL" not in out and "4 of 4 within tolerance" in out


def test_check_fails_when_a_golden_number_is_another(only, capsys, monkeypatch):
    only("schedule/linear", "posterior/mean")
    read = compare.read_golden

    def perturbed(name):
        arrays, made_with = read(name)
        if name == "posterior/mean":
            arrays["norm.weight"][3] += 1e-4
        return arrays, made_with

    monkeypatch.setattr(compare, "read_golden", perturbed)
    assert check.run(["float32"], as_json=True) == 1
    found = json.loads(capsys.readouterr().out)
    assert not found["ok"]
    assert [r["verdict"] for r in found["results"]] == ["ok", "FAIL"]
    assert found["results"][1]["max_abs"] == pytest.approx(1e-4, rel=0.01)
    assert found["environment"]["versions"]["jax"] and found["golden"]["torch"]

    assert check.run(["float32"]) == 1
    out = capsys.readouterr().out
    assert "1 of 2 within tolerance" in out
    (line,) = [line for line in out.splitlines() if line.startswith("posterior/mean")]
    assert line.endswith("FAIL")


def test_precisions_are_in_force_where_a_component_computes():
    def ours(precision):
        seen.append((precision, jax.config.jax_default_matmul_precision))
        return {}

    seen = []
    for precision in components.PRECISIONS:
        BY_NAME["loss"]._replace(ours=ours).run(precision)
    assert seen == [("float32", "highest"), ("tf32", "tensorfloat32"), ("bfloat16", "highest")]
    for precision, dtype in (("float32", "float32"), ("bfloat16", "bfloat16")):
        net = components.read_network(inputs.SMALLEST, precision)
        jaxpr = str(jax.make_jaxpr(net.score_fn)(net.params, np.zeros((1, 8, 8, 1)), np.zeros(1)))
        assert ("bf16" in jaxpr) == (dtype == "bfloat16")


def test_difference_measures():
    reference = {"a": np.array([3.0, -4.0]), "b": np.array([0.1])}
    ours = {"a": np.array([3.0, -3.0]), "b": np.array([0.2])}
    assert compare.difference(ours, reference) == pytest.approx((1.0, 1.0, 1.0))
    assert compare.difference({"a": ours["a"]}, {"a": reference["a"]}) == pytest.approx(
        (1.0, 0.25, 0.2)
    )
    assert compare.difference(reference, reference) == (0, 0, 0)
    assert compare.difference({"a": np.zeros(2)}, {"a": np.zeros(2)}) == (0, 0, 0)


@pytest.mark.parametrize("bad", [np.nan, np.inf])
def test_what_is_not_finite_is_infinitely_far_away(bad):
    good = {"a": np.array([1.0, 2.0])}
    for pair in ((good, {"a": np.array([1.0, bad])}), ({"a": np.array([1.0, bad])}, good)):
        assert compare.difference(*pair) == (np.inf, np.inf, np.inf)


def test_arrays_that_do_not_match_are_refused():
    with pytest.raises(ValueError, match=r"\['b'\]"):
        compare.difference({"a": np.ones(2), "b": np.ones(2)}, {"a": np.ones(2)})
    with pytest.raises(ValueError, match="a: shape"):
        compare.difference({"a": np.ones(2)}, {"a": np.ones(1)})


def test_a_large_array_is_kept_in_part_but_every_entry_counts():
    values = inputs.normal(0, 200, 100)
    kept = compare.compact({"a": values})
    assert kept["a"].shape == (compare.ENTRIES,)
    assert np.isin(kept["a"], values).all()
    changed = values.copy()
    changed[np.unravel_index(np.flatnonzero(~np.isin(values, kept["a"]))[0], values.shape)] = 100
    again = compare.compact({"a": changed})
    np.testing.assert_array_equal(again["a"], kept["a"])
    assert abs(again["a/rms"] - kept["a/rms"]) > 0.1
    small = compare.compact({"a": np.ones((2, 2)), "b": np.zeros(3)})
    assert {name: array.shape for name, array in small.items()} == {"a": (4,), "b": (3,)}


def test_inputs_are_drawn_by_name_and_never_trivial():
    shapes = {"conv.weight": (8, 4, 3, 3), "conv.bias": (8,), "norm.weight": (8,)}
    drawn = inputs.tensors(shapes)
    again = inputs.tensors(dict(reversed(shapes.items())))
    for name, values in drawn.items():
        np.testing.assert_array_equal(values, again[name])
    assert drawn["conv.weight"].std() == pytest.approx(1 / 6, rel=0.1)
    assert np.abs(drawn["conv.bias"]).max() < 0.5 < drawn["norm.weight"].min()
    assert inputs.TIMES[0] == 0 and inputs.TIMES[-1] == inputs.NUM_TRAIN_STEPS - 1


def test_the_noise_of_a_key_never_changes():
    drawn = inputs.noising(inputs.key(3), (64, 2, 2, 1))
    assert drawn.t.shape == (64,) and drawn.eps.shape == (64, 2, 2, 1)
    np.testing.assert_array_equal(drawn.t[:4], (452, 715, 910, 270))
