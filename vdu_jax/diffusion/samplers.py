"""Samplers as pure functions under `lax.scan`: DDPM, DDIM(η), DPM-Solver++(2M, η).

All three share one form. A time grid t_0 > t_1 > … > t_{n−1} is chosen from the T training steps.
Step i moves x from the noise level of t_i to that of t_{i+1}; the last step ends at the clean
image. The samplers differ only in the coefficients of the update, which are computed once in
float64:

    x ← a_i x + b_i x̂_0 + c_i x̂_0,prev + s_i z,    z ~ N(0, I)

x̂_0 is the image predicted at this step, x̂_0,prev that of the step before.
"""

from collections.abc import Callable, Sequence
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from vdu_jax.diffusion.schedule import Schedule
from vdu_jax.types import Cond, Params, ScoreFn

NAMES = ("ddpm", "ddim", "dpm++2m")
SPACINGS = ("leading", "trailing", "linspace")
VARIANCES = ("fixed_small", "fixed_large")


class SamplerPlan(NamedTuple):
    """The times and coefficients of a sampler's n steps; see the module's docstring.

    Attributes:
      t: (n,) int32, the time at which the network is evaluated.
      alpha: (n,) √ᾱ at that time.
      sigma: (n,) √(1 − ᾱ) at that time.
      x: (n,) a, the coefficient of x.
      x0: (n,) b, the coefficient of x̂_0.
      x0_previous: (n,) c, the coefficient of x̂_0,prev.
      noise: (n,) s, the coefficient of fresh noise; None for a deterministic sampler.
    """

    t: jax.Array
    alpha: jax.Array
    sigma: jax.Array
    x: jax.Array
    x0: jax.Array
    x0_previous: jax.Array
    noise: jax.Array | None


def time_grid(num_train_steps: int, num_steps: int, spacing: str = "trailing") -> np.ndarray:
    """Choose the times of a sampler's steps.

    Args:
      num_train_steps: T.
      num_steps: n, in 1..T.
      spacing: "leading" steps by ⌊T/n⌋ from 0, "trailing" by T/n back from T − 1 (Lin et al. 2024,
        arXiv 2305.08891, table 2), "linspace" includes both ends.

    Returns:
      (n,) decreasing integers in [0, T).

    Raises:
      ValueError: for n outside 1..T or an unknown spacing.
    """
    if not 1 <= num_steps <= num_train_steps:
        raise ValueError(
            f"{num_steps} sampling steps: their number must lie in 1..{num_train_steps}"
        )
    if spacing == "leading":
        rising = np.arange(num_steps) * (num_train_steps // num_steps)
        return rising[::-1].astype(np.int64)
    if spacing == "trailing":
        grid = num_train_steps - np.arange(num_steps) * (num_train_steps / num_steps)
        return np.round(grid).astype(np.int64) - 1
    if spacing == "linspace":
        return np.round(np.linspace(0, num_train_steps - 1, num_steps))[::-1].astype(np.int64)
    raise ValueError(f"unknown spacing {spacing!r}; one of {', '.join(SPACINGS)}")


def _ddpm(here: np.ndarray, there: np.ndarray, last: np.ndarray, variance: str) -> tuple:
    """Ancestral sampling between any two levels ᾱ (Ho et al. 2020, eq. 7)."""
    ratio = here / there
    x = np.sqrt(ratio) * (1 - there) / (1 - here)
    x0 = np.sqrt(there) * (1 - ratio) / (1 - here)
    if variance == "fixed_small":
        noise = np.sqrt((1 - ratio) * (1 - there) / (1 - here))
    elif variance == "fixed_large":
        noise = np.sqrt(1 - ratio)
    else:
        raise ValueError(f"unknown variance {variance!r}; one of {', '.join(VARIANCES)}")
    return x, x0, np.zeros_like(x), np.where(last, 0.0, noise)


def _ddim(here: np.ndarray, there: np.ndarray, last: np.ndarray, eta: float) -> tuple:
    """DDIM (Song et al. 2021, arXiv 2010.02502, eq. 12 and 16); η = 0 is deterministic."""
    noise = eta * np.sqrt((1 - there) / (1 - here) * (1 - here / there))
    x = np.sqrt(np.maximum(1 - there - noise**2, 0.0) / (1 - here))
    x0 = np.sqrt(there) - x * np.sqrt(here)
    return x, x0, np.zeros_like(x), np.where(last, 0.0, noise) if eta > 0 else None


def _dpm_2m(here: np.ndarray, there: np.ndarray, last: np.ndarray, eta: float) -> tuple:
    """DPM-Solver++(2M) and, for η = 1, SDE-DPM-Solver++(2M) (Lu et al. 2022, arXiv 2211.01095,
    algorithm 2 and appendix B); η between them scales the noise (as in Karras's k-diffusion).

    With λ = log(√ᾱ/√(1−ᾱ)) and h = λ_{i+1} − λ_i the update is
    x ← (σ'/σ) e^{−ηh} x + α' (1 − e^{−(1+η)h}) D + σ' √(1 − e^{−2ηh}) z,
    where D = (1 + 1/2r) x̂_0 − (1/2r) x̂_0,prev and r = h_prev/h.
    The first and the last step are of first order (D = x̂_0); the last one ends at σ' = 0.
    """
    safe_there = np.where(last, here, there)  # avoids log(0); the last step is set below

    def log_snr(level: np.ndarray) -> np.ndarray:
        return 0.5 * (np.log(level) - np.log1p(-level))

    h = log_snr(safe_there) - log_snr(here)
    x = np.where(last, 0.0, np.sqrt((1 - there) / (1 - here)) * np.exp(-eta * h))
    total = np.where(last, 1.0, -np.sqrt(there) * np.expm1(-(1 + eta) * h))
    noise = np.where(last, 0.0, np.sqrt((there - 1) * np.expm1(-2 * eta * h)))
    first_order = last | (np.arange(len(h)) == 0)
    half_inverse_r = np.zeros_like(h)
    second = ~first_order
    half_inverse_r[second] = 0.5 * h[second] / h[np.flatnonzero(second) - 1]
    of_image = total * (1 + half_inverse_r), -total * half_inverse_r
    return x, *of_image, noise if eta > 0 else None


def make_plan(
    schedule: Schedule,
    name: str = "ddim",
    num_steps: int = 50,
    *,
    eta: float = 0.0,
    spacing: str = "trailing",
    timesteps: Sequence[int] = (),
    variance: str = "fixed_large",
) -> SamplerPlan:
    """Make the plan of a sampler: the times and coefficients of its steps.

    Args:
      schedule: the noise schedule that the network was trained with.
      name: "ddpm", "ddim" or "dpm++2m".
      num_steps: n, the evaluations of the network, in 1..T.
      eta: η of DDIM and DPM-Solver++, in [0, 1]: 0 is deterministic, 1 fully stochastic.
      spacing: how times are chosen, see `time_grid`.
      timesteps: the n times themselves, decreasing, in [0, T); empty to choose them by `spacing`.
      variance: reverse variance of DDPM, "fixed_small" (β̃) or "fixed_large" (β).

    Returns:
      The plan, for `sample` and `integrate`.

    Raises:
      ValueError: for an unknown name or a number out of range.
    """
    grid = time_grid(schedule.num_steps, num_steps, spacing)
    if len(timesteps):
        grid = np.asarray(timesteps, np.int64)
        inside = schedule.num_steps > grid[0] and grid[-1] >= 0
        if len(grid) != num_steps or not inside or (np.diff(grid) >= 0).any():
            raise ValueError(
                f"timesteps {tuple(timesteps)}: must be {num_steps} decreasing numbers in "
                f"0..{schedule.num_steps - 1}"
            )
    # The float32 ᾱ of the schedule would lose digits of 1 − ᾱ at small t.
    levels = np.cumprod(1.0 - np.asarray(schedule.betas, np.float64))
    here = levels[grid]
    there = np.append(levels[grid[1:]], 1.0)
    last = np.arange(num_steps) == num_steps - 1
    if not 0 <= eta <= 1:
        raise ValueError(f"eta must lie in [0, 1], not {eta}")
    if name == "ddpm":
        coefficients = _ddpm(here, there, last, variance)
    elif name == "ddim":
        coefficients = _ddim(here, there, last, eta)
    elif name == "dpm++2m":
        coefficients = _dpm_2m(here, there, last, eta)
    else:
        raise ValueError(f"unknown sampler {name!r}; one of {', '.join(NAMES)}")
    columns = np.sqrt(here), np.sqrt(1 - here), *coefficients
    columns = jax.tree.map(lambda a: jnp.asarray(a, jnp.float32), columns)
    return SamplerPlan(jnp.asarray(grid, jnp.int32), *columns)


def step(
    row: SamplerPlan,
    x: jax.Array,
    eps: jax.Array,
    x0_previous: jax.Array,
    noise: jax.Array | None = None,
    *,
    clip_x0: bool = True,
) -> tuple[jax.Array, jax.Array]:
    """Take one step of a plan: the update of the module's docstring.

    Args:
      row: one row of the plan, with scalars in place of its arrays.
      x: (B, H, W, C), the images at this step.
      eps: (B, H, W, C), the noise predicted in them.
      x0_previous: (B, H, W, C), x̂_0 of the step before; any array at the first step, where its
        coefficient is 0.
      noise: (B, H, W, C), z of a stochastic sampler.
      clip_x0: clip x̂_0 to [-1, 1].

    Returns:
      x at the next step and x̂_0 of this step, both (B, H, W, C).

    Raises:
      ValueError: if the plan is stochastic and there is no noise.
    """
    x0 = (x - row.sigma * eps) / row.alpha
    if clip_x0:
        x0 = jnp.clip(x0, -1.0, 1.0)
    x = row.x * x + row.x0 * x0 + row.x0_previous * x0_previous
    if row.noise is None:
        return x, x0
    if noise is None:
        raise ValueError("a stochastic sampler needs noise")
    return x + row.noise * noise, x0


def sample(
    score_fn: ScoreFn,
    params: Params,
    plan: SamplerPlan,
    keys: jax.Array,
    image_shape: tuple[int, int, int],
    *,
    clip_x0: bool = True,
    cond: Cond = None,
) -> jax.Array:
    """Draw one image for each key.

    An image depends on its key and the parameters alone. The number of images and the batch size
    do not change it.

    Args:
      score_fn: a network that predicts ε; see `Parameterization.noise_predictor`.
      params: its parameters.
      plan: the sampler, from `make_plan`.
      keys: (B,) random keys.
      image_shape: (H, W, C).
      clip_x0: clip every predicted x̂_0 to [-1, 1].
      cond: the condition of the images, a pytree with a row for each; None without one.

    Returns:
      (B, H, W, C) float32; within [-1, 1] if clipped.
    """

    def normal(step: jax.Array) -> jax.Array:
        def draw(key: jax.Array) -> jax.Array:
            return jax.random.normal(jax.random.fold_in(key, step), image_shape)

        return jax.vmap(draw)(keys)

    return integrate(
        score_fn,
        params,
        plan,
        normal(jnp.int32(0)),
        clip_x0=clip_x0,
        cond=cond,
        noise_fn=lambda step: normal(step + 1),
    )


def integrate(
    score_fn: ScoreFn,
    params: Params,
    plan: SamplerPlan,
    start: jax.Array,
    *,
    clip_x0: bool = True,
    cond: Cond = None,
    noise_fn: Callable[[jax.Array], jax.Array] | None = None,
) -> jax.Array:
    """Run a plan from given noise.

    Args:
      score_fn: a network that predicts ε.
      params: its parameters.
      plan: the sampler, from `make_plan`.
      start: (B, H, W, C), the noise to start from.
      clip_x0: clip every predicted x̂_0 to [-1, 1].
      cond: the condition of the images, a pytree with a row for each; None without one.
      noise_fn: `step -> (B, H, W, C)`, the fresh noise of step 0, 1, …. A deterministic sampler
        needs none.

    Returns:
      (B, H, W, C) images; within [-1, 1] if clipped.

    Raises:
      ValueError: if the plan is stochastic and there is no `noise_fn`.
    """
    if plan.noise is not None and noise_fn is None:
        raise ValueError("a stochastic sampler needs noise_fn")
    batch = start.shape[0]

    def body(
        carry: tuple[jax.Array, jax.Array], inputs: tuple[jax.Array, SamplerPlan]
    ) -> tuple[tuple[jax.Array, jax.Array], None]:
        x, x0_previous = carry
        index, row = inputs
        eps = score_fn(params, x, jnp.full((batch,), row.t), cond)
        noise = None if row.noise is None or noise_fn is None else noise_fn(index)
        return step(row, x, eps, x0_previous, noise, clip_x0=clip_x0), None

    steps = jnp.arange(plan.t.shape[0], dtype=jnp.int32)
    (x, _), _ = jax.lax.scan(body, (start, jnp.zeros_like(start)), (steps, plan))
    return x
