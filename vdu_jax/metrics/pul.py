"""Percentage of unlearning (PUL), class histograms and confidence, from class probabilities."""

from typing import NamedTuple

import numpy as np


class Interval(NamedTuple):
    """value, and the low and high end of its 95 % bootstrap interval."""

    value: float
    low: float
    high: float


def forget_rate(probabilities: np.ndarray, classes: tuple[int, ...]) -> float:
    """Share of images (N, K probabilities) whose most likely class is one of `classes`."""
    return float(np.isin(probabilities.argmax(-1), classes).mean())


def pul(
    probabilities: np.ndarray,
    original: np.ndarray,
    classes: tuple[int, ...],
    *,
    resamples: int = 1000,
    seed: int = 0,
) -> Interval:
    """PUL = 100 (1 − n_f(θ_u) / n_f(θ*)) percent, with a bootstrap interval.

    Panda et al. 2025 (arXiv 2510.04058). Negative if the forget class became more frequent.

    Args:
      probabilities: (N, K) of the unlearned model's images. original: (M, K) of the original's;
        counts are compared as shares, so N and M may differ.
      classes: the forget classes.
      resamples: of the images of both models, independently.

    Raises:
      ValueError: if the original makes no image of the forget classes.
    """
    after = np.isin(probabilities.argmax(-1), classes)
    before = np.isin(original.argmax(-1), classes)
    if not before.any():
        raise ValueError("the original model makes no image of the forget classes")
    rng = np.random.default_rng(seed)
    # A resampled share of N independent images is a binomial count over N.
    share_after = rng.binomial(len(after), after.mean(), resamples) / len(after)
    share_before = rng.binomial(len(before), before.mean(), resamples) / len(before)
    valid = share_before > 0
    draws = 100 * (1 - share_after[valid] / share_before[valid])
    low, high = np.quantile(draws, [0.025, 0.975])
    if not after.any():
        # No forget image among N: resampling sees no spread, yet a rate of 3/N is as well
        # possible at 95 % (the rule of three, Hanley and Lippman-Hand 1983).
        low = 100 * (1 - min(1.0, 3 / len(after) / before.mean()))
    value = 100 * (1 - after.mean() / before.mean())
    return Interval(float(value), float(low), float(high))


def histogram(probabilities: np.ndarray) -> np.ndarray:
    """(K,) counts of the most likely class."""
    return np.bincount(probabilities.argmax(-1), minlength=probabilities.shape[-1])


def total_variation(a: np.ndarray, b: np.ndarray) -> float:
    """½ Σ |a_k/Σa − b_k/Σb| in [0, 1], of two histograms (K,).

    Raises:
      ValueError: if one of them is empty.
    """
    if a.sum() == 0 or b.sum() == 0:
        raise ValueError("a histogram is empty")
    return float(0.5 * np.abs(a / a.sum() - b / b.sum()).sum())


def confidence(probabilities: np.ndarray) -> float:
    """Mean probability of the most likely class, in [1/K, 1]."""
    return float(probabilities.max(-1).mean())
