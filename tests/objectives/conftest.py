"""A noise predictor small enough to differentiate by hand: ε̂ = a x_t + b, b one per channel."""

from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from vdu_jax.diffusion import parameterization, process
from vdu_jax.diffusion.schedule import make_schedule
from vdu_jax.posterior import GaussianPosterior


class Noised(NamedTuple):
    """A noised batch in float64, and w_t of each image."""

    xt: np.ndarray
    eps: np.ndarray
    weights: np.ndarray


class Toy(NamedTuple):
    """The model, its schedule and posterior, and its losses in float64."""

    schedule: object
    posterior: GaussianPosterior
    params: dict
    start: dict

    @staticmethod
    def score_fn(params, xt, t, cond=None, *, dropout_key=None):
        return params["a"] * xt + params["b"]

    @staticmethod
    def images(seed, n):
        return np.random.default_rng(seed).uniform(-1, 1, (n, 4, 3, 2)).astype(np.float32)

    @property
    def predicts(self):
        """Noise, as `score_fn` does."""
        return parameterization.epsilon(self.schedule)

    @property
    def levels(self):
        return np.cumprod(1 - np.asarray(self.schedule.betas, np.float64))

    def weights(self, weighting):
        """w_t of method.md §2 in float64."""
        betas, levels = np.asarray(self.schedule.betas, np.float64), self.levels
        if weighting == "simple":
            return np.ones_like(betas)
        variance = betas * (1 - np.append(1, levels[:-1])) / (1 - levels)
        variance[0] = variance[1]
        return betas**2 / (2 * variance * (1 - betas) * (1 - levels))

    def noising(self, seed, n):
        """Times and noise for n images, handed to an objective."""
        draw = np.random.default_rng(seed)
        eps = draw.normal(size=(n, 4, 3, 2)).astype(np.float32)
        return process.Noising(draw.integers(0, self.schedule.num_steps, n, np.int32), eps)

    def noised(self, noising, x0, weighting="simple"):
        """What the network sees of x0, and is to predict."""
        level = self.levels[noising.t][:, None, None, None]
        eps = noising.eps.astype(np.float64)
        xt = np.sqrt(level) * x0 + np.sqrt(1 - level) * eps
        return Noised(xt, eps, self.weights(weighting)[noising.t])

    @staticmethod
    def error(params, xt, target):
        """Per image: mean (a x_t + b − target)², and its gradient by a (B,) and b (B, C)."""
        a, b = (np.asarray(params[k], np.float64) for k in "ab")
        residual = a * xt + b - target
        by_b = 2 * residual.mean((1, 2)) / xt.shape[-1]
        return (residual**2).mean((1, 2, 3)), 2 * (residual * xt).mean((1, 2, 3)), by_b

    def energy(self, params, mean):
        """Σ (θ − μ)² / 2σ² and its gradient."""
        value, grad = 0.0, {}
        for name, variance in self.posterior.variance.items():
            gap = np.asarray(params[name], np.float64) - np.asarray(mean[name], np.float64)
            value += (gap**2 / (2 * np.asarray(variance, np.float64))).sum()
            grad[name] = gap / np.asarray(variance, np.float64)
        return value, grad

    def run(self, objective, batch, noise, params=None):
        """(loss, metrics, gradient) at `params` after `init` at the start.

        Not jitted: the few operations are compiled once for all tests.
        """
        state = objective.init(self.start, {}, jax.random.key(0))
        grad_fn = jax.value_and_grad(objective.loss, has_aux=True)
        params = self.params if params is None else params
        (loss, metrics), grad = grad_fn(params, state, batch, noise)
        return float(loss), metrics, grad


def tree(a, b):
    return {"a": jnp.asarray(a, jnp.float32), "b": jnp.asarray(b, jnp.float32)}


@pytest.fixture(scope="session")
def toy():
    posterior = GaussianPosterior(tree(0.4, [0.1, -0.1]), tree(0.02, [0.5, 0.04]), jnp.int32(5))
    return Toy(
        make_schedule("linear", 50, 1e-3, 0.2),
        posterior,
        params=tree(0.7, [0.3, -0.4]),
        start=tree(0.5, [0.05, 0.0]),
    )
