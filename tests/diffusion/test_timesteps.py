import jax
import jax.numpy as jnp
import numpy as np
import pytest

from vdu_jax.diffusion import samplers, timesteps
from vdu_jax.diffusion.schedule import make_schedule


@pytest.mark.parametrize("power", [1.0, 1.5, 2.0, 7.0])
@pytest.mark.parametrize("total", [1, 7, 250, 1000])
def test_power_grids_decrease_strictly_from_the_last_time(total, power):
    for n in {1, 2, 3, total // 3, total - 1, total} & set(range(1, total + 1)):
        grid = timesteps.power_grid(total, n, power)
        assert len(grid) == n and np.issubdtype(grid.dtype, np.integer)
        assert np.all(np.diff(grid) < 0) and grid[0] == total - 1 and grid[-1] >= 0


def test_power_grids_known_by_hand():
    assert timesteps.power_grid(101, 4, 1).tolist() == [100, 75, 50, 25]
    assert timesteps.power_grid(101, 4, 2).tolist() == [100, 56, 25, 6]


def test_the_search_comes_near_the_best_times_and_keeps_to_its_evaluations():
    calls = []

    def distance(grid):
        calls.append(tuple(grid))
        return np.abs(grid - np.array([999, 300, 210, 20])).sum()

    best, least = timesteps.search(distance, 1000, 4, 80)
    assert len(set(calls)) == len(calls) <= 80  # each once
    assert least == distance(best) < 0.2 * distance(timesteps.power_grid(1000, 4))
    again, _ = timesteps.search(distance, 1000, 4, 80)
    assert again.tolist() == best.tolist()
    calls.clear()
    timesteps.search(distance, 1000, 4, 12)
    assert len(calls) == 12


def test_no_grid_that_is_tried_names_a_time_twice():
    """Not even where the distance asks for it."""

    def distance(grid):
        assert np.all(np.diff(grid) < 0) and grid[0] == 99 and grid[-1] >= 0
        return grid[1] - grid[2]

    assert timesteps.search(distance, 100, 4, 200)[1] == 1


def test_searched_times_suit_noise_that_the_search_did_not_see(two_peaks):
    rng, plan_of = np.random.default_rng(0), samplers.make_plan
    noise = rng.normal(size=(2, 400))
    many = [two_peaks.sample(x, plan_of(two_peaks.schedule, "dpm++2m", 200)) for x in noise]

    def distance(times, part=0):
        plan = plan_of(two_peaks.schedule, "dpm++2m", len(times), timesteps=times)
        return np.sqrt(np.square(two_peaks.sample(noise[part], plan) - many[part]).mean())

    best, _ = timesteps.search(distance, 1000, 5, 80)
    even = samplers.time_grid(1000, 5)
    assert distance(best, 1) < 0.6 * distance(even, 1)
    assert distance(best, 1) < distance(timesteps.power_grid(1000, 5), 1)


@pytest.mark.parametrize("wrong", [(1, 10), (11, 100), (5, 5)])
def test_a_search_out_of_range_is_refused(wrong):
    with pytest.raises(ValueError, match="out of range"):
        timesteps.search(lambda grid: 0.0, 10, *wrong)


@pytest.mark.parametrize("wrong", [(10, 0, 1), (10, 11, 1), (10, 5, 0.5)])
def test_a_power_grid_out_of_range_is_refused(wrong):
    with pytest.raises(ValueError, match="out of range"):
        timesteps.power_grid(*wrong)


class TwoPeaks:
    """x0 = -0.7 or 0.5 with a spread of 0.1, and the optimal noise prediction."""

    def __init__(self):
        self.schedule = make_schedule()
        self.means, self.std = jnp.array([-0.7, 0.5]), 0.1
        self.run = jax.jit(lambda x, plan: samplers.integrate(self.eps, {}, plan, x, clip_x0=False))

    def eps(self, params, x, t, cond):
        level = self.schedule.alphas_cumprod[t[0]]
        alpha, variance = jnp.sqrt(level), level * self.std**2 + 1 - level
        gaps = x - alpha * self.means  # (B, 1, 1, 2)
        weights = jax.nn.softmax(-0.5 * gaps**2 / variance)
        return jnp.sqrt(1 - level) * (weights * gaps).sum(-1, keepdims=True) / variance

    def sample(self, x, plan):
        return np.asarray(self.run(x[:, None, None, None], plan)).ravel()


@pytest.fixture
def two_peaks():
    return TwoPeaks()
