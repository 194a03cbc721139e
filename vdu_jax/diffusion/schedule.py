"""Noise schedules of the forward process.

q(x_t | x_0) = N(√ᾱ_t x_0, (1 − ᾱ_t) I) with ᾱ_t = Π_{s ≤ t} (1 − β_s) (Ho et al. 2020, eq. 4).
Time t runs from 0 (almost clean) to T − 1 (almost pure noise), as in code; the papers' t is t + 1.
"""

from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

NAMES = ("linear", "scaled_linear", "cosine")


class Schedule(NamedTuple):
    """A noise schedule: arrays of length T, float32, computed in float64.

    Attributes:
      betas: (T,) β_t in (0, 1).
      alphas_cumprod: (T,) ᾱ_t, decreasing, in (0, 1).
      posterior_variance: (T,) β̃_t = β_t (1 − ᾱ_{t−1}) / (1 − ᾱ_t), with β̃_0 = 0 (Ho et al. 2020,
        eq. 7).
      inverse_alphas_cumprod: (T,) 1/ᾱ_t.
    """

    betas: jax.Array
    alphas_cumprod: jax.Array
    posterior_variance: jax.Array
    inverse_alphas_cumprod: jax.Array

    @property
    def num_steps(self) -> int:
        """T, the number of training time steps."""
        return self.betas.shape[0]


def from_betas(betas: np.ndarray) -> Schedule:
    """Make a `Schedule` from its betas.

    Args:
      betas: (T,) β_0 … β_{T−1}, each in (0, 1).

    Returns:
      The schedule of T steps.

    Raises:
      ValueError: if the betas are not a vector of numbers in (0, 1).
    """
    betas = np.asarray(betas, np.float64)
    if betas.ndim != 1 or not (betas > 0).all() or not (betas < 1).all():
        raise ValueError("betas must be a vector of numbers in (0, 1)")
    alphas_cumprod = np.cumprod(1.0 - betas)
    previous = np.append(1.0, alphas_cumprod[:-1])
    posterior_variance = betas * (1.0 - previous) / (1.0 - alphas_cumprod)
    columns = (betas, alphas_cumprod, posterior_variance, 1.0 / alphas_cumprod)
    return Schedule(*(jnp.asarray(column, jnp.float32) for column in columns))


def make_schedule(
    name: str = "linear",
    num_steps: int = 1000,
    beta_start: float = 1e-4,
    beta_end: float = 0.02,
) -> Schedule:
    """Make a noise schedule by name.

    Args:
      name: "linear" (Ho et al. 2020), "scaled_linear" (linear in √β; Rombach et al. 2022), or
        "cosine" (Nichol and Dhariwal 2021, arXiv 2102.09672, eq. 17; ignores the two betas).
      num_steps: T ≥ 1, the number of training time steps.
      beta_start: β_0, in (0, 1).
      beta_end: β_{T−1}, in (0, 1).

    Returns:
      The schedule of T steps.

    Raises:
      ValueError: for an unknown name, no step, or betas outside (0, 1).
    """
    if num_steps < 1:
        raise ValueError(f"a schedule needs at least 1 step, not {num_steps}")
    if name == "linear":
        betas = np.linspace(beta_start, beta_end, num_steps)
    elif name == "scaled_linear":
        betas = np.linspace(beta_start**0.5, beta_end**0.5, num_steps) ** 2
    elif name == "cosine":
        s = 0.008
        f = np.cos((np.arange(num_steps + 1) / num_steps + s) / (1 + s) * np.pi / 2) ** 2
        betas = np.minimum(1 - f[1:] / f[:-1], 0.999)
    else:
        raise ValueError(f"unknown schedule {name!r}; one of {', '.join(NAMES)}")
    return from_betas(betas)
