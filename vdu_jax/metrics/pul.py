"""Percentage of unlearning (PUL), class histograms and confidence, from class probabilities."""

from typing import NamedTuple

import numpy as np


class Interval(NamedTuple):
    """A figure with its 95 % bootstrap interval.

    Attributes:
      value: the figure.
      low: lower end of the interval.
      high: upper end of the interval.
    """

    value: float
    low: float
    high: float


def forget_rate(probabilities: np.ndarray, classes: tuple[int, ...]) -> float:
    """Share of images whose most likely class is one of `classes`, in [0, 1].

    Args:
      probabilities: (N, K) class probabilities.
      classes: the forget classes.
    """
    return float(np.isin(probabilities.argmax(-1), classes).mean())


def pul(
    probabilities: np.ndarray,
    original: np.ndarray,
    classes: tuple[int, ...],
    *,
    resamples: int = 1000,
    seed: int = 0,
) -> Interval:
    """Percentage of unlearning, PUL = 100 (1 − n_f(θ_u) / n_f(θ*)), with a bootstrap interval.

    Panda et al. 2025 (arXiv 2510.04058). n_f is the number of images of the forget classes; it is
    compared as a share, so the two models may have different numbers of images.

    Args:
      probabilities: (N, K) class probabilities of the unlearned model's images.
      original: (M, K) class probabilities of the original model's images.
      classes: the forget classes.
      resamples: number of bootstrap resamples, drawn independently for the two models.
      seed: seed of the resamples.

    Returns:
      PUL in percent, ≤ 100; negative if the forget classes became more frequent.

    Raises:
      ValueError: if the original draws no image of the forget classes.
    """
    after = np.isin(probabilities.argmax(-1), classes)
    before = np.isin(original.argmax(-1), classes)
    if not before.any():
        raise ValueError(
            f"the original model draws no image of the forget classes {classes} among "
            f"{len(original)}; draw more images"
        )
    rng = np.random.default_rng(seed)
    # The bootstrap resample of N independent outcomes is a binomial count.
    share_after = rng.binomial(len(after), after.mean(), resamples) / len(after)
    share_before = rng.binomial(len(before), before.mean(), resamples) / len(before)
    valid = share_before > 0
    draws = 100 * (1 - share_after[valid] / share_before[valid])
    low, high = np.quantile(draws, [0.025, 0.975])
    if not after.any():
        # Without a forget image among N, resampling gives no spread, yet the upper 95 % bound of
        # the rate is 3/N (the rule of three, Hanley and Lippman-Hand 1983).
        low = 100 * (1 - min(1.0, 3 / len(after) / before.mean()))
    value = 100 * (1 - after.mean() / before.mean())
    return Interval(float(value), float(low), float(high))


def histogram(probabilities: np.ndarray) -> np.ndarray:
    """Count the images by most likely class: (N, K) class probabilities -> (K,) counts."""
    return np.bincount(probabilities.argmax(-1), minlength=probabilities.shape[-1])


def total_variation(a: np.ndarray, b: np.ndarray) -> float:
    """Total variation distance of two histograms, ½ Σ |a_k/Σa − b_k/Σb|, in [0, 1].

    Args:
      a: (K,) counts.
      b: (K,) counts.

    Raises:
      ValueError: if a histogram has no counts.
    """
    if a.sum() == 0 or b.sum() == 0:
        raise ValueError(f"histograms of {a.sum()} and {b.sum()} images; each needs at least 1")
    return float(0.5 * np.abs(a / a.sum() - b / b.sum()).sum())


def confidence(probabilities: np.ndarray) -> float:
    """Mean probability of the most likely class, in [1/K, 1], of (N, K) class probabilities."""
    return float(probabilities.max(-1).mean())
