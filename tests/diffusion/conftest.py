"""Gaussian data: the one distribution for which everything about diffusion is known exactly."""

from typing import NamedTuple

import jax.numpy as jnp
import numpy as np
import pytest


class Gaussian(NamedTuple):
    """x0 ~ N(mean, std²) in each pixel, under a schedule of ᾱ (float64).

    Then x_t ~ N(α m, S²) with S² = ᾱ s² + 1 − ᾱ, and E[ε | x_t] = σ (x_t − α m) / S².
    """

    alphas_cumprod: np.ndarray
    mean: float
    std: float

    @classmethod
    def of(cls, schedule, mean, std):
        levels = np.cumprod(1 - np.asarray(schedule.betas, np.float64))
        return cls(levels, mean, std)

    @property
    def alpha(self):
        return np.sqrt(self.alphas_cumprod)

    @property
    def sigma(self):
        return np.sqrt(1 - self.alphas_cumprod)

    @property
    def marginal_std(self):
        return np.sqrt(self.alphas_cumprod * self.std**2 + 1 - self.alphas_cumprod)

    def eps(self, x, t):
        """The optimal noise prediction, float64."""
        return self.sigma[t] * (x - self.alpha[t] * self.mean) / self.marginal_std[t] ** 2

    def score_fn(self, params, xt, t, cond=None, *, dropout_key=None):
        """The same as a `ScoreFn`."""
        slope = jnp.asarray(self.sigma / self.marginal_std**2, jnp.float32)[t]
        centre = jnp.asarray(self.alpha * self.mean, jnp.float32)[t]
        expand = (slice(None),) + (None,) * (xt.ndim - 1)
        return slope[expand] * (xt - centre[expand])


@pytest.fixture(scope="session")
def gaussian():
    """`gaussian(schedule, mean, std) -> Gaussian`."""
    return Gaussian.of
