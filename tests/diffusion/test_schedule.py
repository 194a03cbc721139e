"""Noise schedules against NumPy in float64 and against published end values."""

import numpy as np
import pytest

from vdu_jax.diffusion.schedule import from_betas, make_schedule


def test_linear_is_ho_et_al():
    schedule = make_schedule("linear", 1000)
    betas = np.linspace(1e-4, 0.02, 1000)
    np.testing.assert_allclose(schedule.betas, betas, rtol=1e-6)
    np.testing.assert_allclose(schedule.alphas_cumprod, np.cumprod(1 - betas), rtol=1e-6)
    assert float(schedule.alphas_cumprod[-1]) == pytest.approx(4.0358e-5, rel=1e-4)


def test_scaled_linear_is_stable_diffusion():
    schedule = make_schedule("scaled_linear", 1000, 0.00085, 0.012)
    np.testing.assert_allclose(np.diff(np.sqrt(schedule.betas), n=2), 0, atol=1e-7)
    assert float(schedule.betas[0]) == pytest.approx(0.00085)
    assert float(schedule.betas[-1]) == pytest.approx(0.012)
    assert float(schedule.alphas_cumprod[-1]) == pytest.approx(0.0682656**2, rel=1e-4)


def test_cosine_follows_its_formula_up_to_the_clip():
    schedule = make_schedule("cosine", 1000)
    f = np.cos((np.arange(1001) / 1000 + 0.008) / 1.008 * np.pi / 2) ** 2
    np.testing.assert_allclose(schedule.alphas_cumprod[:-1], (f / f[0])[1:-1], rtol=1e-5)
    assert float(schedule.betas[-1]) == pytest.approx(0.999)
    assert float(schedule.betas.max()) <= 0.999 + 1e-6 and float(schedule.betas.min()) > 0
    assert 0 < float(schedule.alphas_cumprod[-1]) < 1e-8


@pytest.mark.parametrize("name", ["linear", "scaled_linear", "cosine"])
@pytest.mark.parametrize("num_steps", [10, 300])
def test_every_schedule_is_consistent(name, num_steps):
    schedule = make_schedule(name, num_steps)
    betas = np.asarray(schedule.betas, np.float64)
    levels = np.cumprod(1 - betas)
    assert schedule.num_steps == num_steps == len(schedule.alphas_cumprod)
    assert {str(a.dtype) for a in schedule} == {"float32"}
    np.testing.assert_allclose(schedule.alphas_cumprod, levels, rtol=2e-4)
    assert np.all(np.diff(schedule.alphas_cumprod) < 0)
    previous = np.append(1, levels[:-1])
    expected = betas * (1 - previous) / (1 - levels)
    assert schedule.posterior_variance[0] == 0
    np.testing.assert_allclose(schedule.posterior_variance, expected, rtol=1e-4)


def test_arrays_are_computed_in_float64():
    betas = np.full(1000, 1e-5)
    schedule = from_betas(betas)
    np.testing.assert_allclose(schedule.alphas_cumprod, (1 - 1e-5) ** np.arange(1, 1001), rtol=6e-8)
    t = np.arange(1000)
    exact = 1e-5 * np.expm1(t * np.log1p(-1e-5)) / np.expm1((t + 1) * np.log1p(-1e-5))
    np.testing.assert_allclose(schedule.posterior_variance, exact, rtol=1e-6)


@pytest.mark.parametrize("betas", [[[0.1]], [0.1, 0.0], [0.1, 1.0], [-0.1], [np.nan]])
def test_impossible_betas_raise(betas):
    with pytest.raises(ValueError, match="betas"):
        from_betas(np.array(betas))


def test_unknown_name_and_empty_schedule_raise():
    with pytest.raises(ValueError, match="unknown schedule 'quadratic'; one of linear"):
        make_schedule("quadratic")
    with pytest.raises(ValueError, match="at least 1 step"):
        make_schedule("linear", 0)
