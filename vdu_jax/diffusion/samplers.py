"""Samplers as pure functions under `lax.scan`: DDPM, DDIM(η), DPM-Solver++(2M, η).

All three share one form. A time grid t_0 > t_1 > … > t_{n−1} is chosen from the T training steps;
each step moves x from the noise level of t_i to that of t_{i+1}, the last one to the clean image.
Only the update differs, so a sampler is a function from the grid's levels to per-step
coefficients (arrays of length n, computed once in float64) and one scan body serves them all:

    x ← a_i x + b_i x̂_0 + c_i x̂_0,prev + s_i z,    z ~ N(0, I)

where x̂_0 is the image predicted at this step and x̂_0,prev that of the step before.
"""

from collections.abc import Callable
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
    """Per-step coefficients, arrays (n,); see the module's docstring.

    `alpha` and `sigma` are √ᾱ and √(1 − ᾱ) at the step's time, with which x̂_0 is predicted.
    `noise` is `None` for a deterministic sampler.
    """

    t: jax.Array
    alpha: jax.Array
    sigma: jax.Array
    x: jax.Array
    x0: jax.Array
    x0_previous: jax.Array
    noise: jax.Array | None


def time_grid(num_train_steps: int, num_steps: int, spacing: str = "trailing") -> np.ndarray:
    """n decreasing integer times out of [0, T).

    "leading" steps by ⌊T/n⌋ from 0, "trailing" by T/n back from T − 1 (Lin et al. 2024, arXiv
    2305.08891, table 2), "linspace" includes both ends.

    Raises:
      ValueError: unless 1 ≤ n ≤ T, or for an unknown spacing.
    """
    if not 1 <= num_steps <= num_train_steps:
        raise ValueError(f"the number of sampling steps must lie in 1..{num_train_steps}")
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
    """Song et al. 2021 (arXiv 2010.02502), eq. 12 and 16; η = 0 is deterministic."""
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
    safe_there = np.where(last, here, there)  # the last step is set by hand below

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
    variance: str = "fixed_large",
) -> SamplerPlan:
    """The coefficients of a sampler.

    Args:
      name: "ddpm", "ddim" or "dpm++2m".
      num_steps: n evaluations of the network, in 1..T.
      eta: of DDIM and DPM-Solver++, in [0, 1]: how much noise is added anew; 0 for none.
      spacing: see `time_grid`.
      variance: of DDPM, "fixed_small" (β̃) or "fixed_large" (β).

    Raises:
      ValueError: for an unknown name or a number out of range.
    """
    grid = time_grid(schedule.num_steps, num_steps, spacing)
    # ᾱ again from the betas, in float64: 1 − ᾱ at small t loses digits otherwise.
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
    """One step of a plan: the update of the module's docstring.

    Args:
      row: one row of the plan, with scalars in place of its arrays.
      x, eps: the image at this step and the noise predicted in it, (B, H, W, C).
      x0_previous: x̂_0 of the step before (anything at the first step, where it has no weight).
      noise: z, for a stochastic sampler.

    Returns:
      x at the next step, and x̂_0 of this one.
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

    Each image depends on its own key alone (and on the parameters), not on the batch it is drawn
    in, so the number of images and the batch size do not change what any key gives.

    Args:
      keys: (B,) PRNG keys. image_shape: (H, W, C).
      clip_x0: clip every predicted x̂_0 to [-1, 1].

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
    """Run a plan from the given noise (B, H, W, C).

    `noise_fn(step)` gives the fresh noise (B, H, W, C) of step 0, 1, …; a deterministic sampler
    needs none.

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
