"""Image quality: u-FID with its bias, and the metrics of `METRICS` (KID, precision, recall).

All metrics compare features (N, F) of drawn and of real images, from any network. The evaluation,
the report and the benchmark's tables take their columns from `METRICS`.
"""

import functools
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np

from vdu_jax.metrics import frechet, kid, precision_recall


class Metric(NamedTuple):
    """A metric of drawn against real images, and its column in every table.

    Attributes:
      key: key of the figure in files.
      name: name for readers.
      compute: `(features (N, F), real features (n, F), seed) -> figure`, a number or a
        `kid.Estimate`, a number with its standard error.
      needs: the smallest number of rows of either.
      digits: digits after the decimal point in tables.
      scale: factor of the figure in tables.
      about: explanation for readers of the report.
    """

    key: str
    name: str
    compute: Callable[[np.ndarray, np.ndarray, int], float | kid.Estimate]
    needs: int
    digits: int = 3
    scale: int = 1
    about: str = ""

    @property
    def head(self) -> str:
        """The header of its column."""
        return self.name if self.scale == 1 else f"{self.name} × {self.scale}"

    @property
    def column(self) -> str:
        """The key of the scaled figure."""
        return self.key if self.scale == 1 else f"{self.key}_{self.scale}"


METRICS = (
    Metric(
        "kid", "KID", lambda x, real, seed: kid.kid(x, real, seed=seed), 2, 1, 1000,
        "the kernel distance, with its standard error over subsets of up to 1000 images, which "
        "says nothing about images that were not drawn",
    ),
    Metric("precision", "precision", lambda x, real, _: precision_recall.precision(x, real), 4),
    Metric("recall", "recall", lambda x, real, _: precision_recall.recall(x, real), 4),
)  # fmt: skip
"""The metrics that the evaluation computes, beside u-FID."""


def listed(names: Sequence[str]) -> str:
    """Join names as "a, b and c"; "" for no names."""
    return " and ".join(filter(None, (", ".join(names[:-1]), *names[-1:])))


def measured(rows: Iterable[Mapping[str, Any]]) -> list[Metric]:
    """Return the metrics of `METRICS` that at least one model has.

    Files from before a metric existed lack it.

    Args:
      rows: the figures of each model.
    """
    rows = list(rows)
    return [metric for metric in METRICS if any(metric.key in row for row in rows)]


def value_of(figure: float | Mapping[str, Any] | None) -> float | None:
    """Return a figure without its standard error or interval."""
    return figure["value"] if isinstance(figure, Mapping) else figure


class Reference(NamedTuple):
    """Features of real images, usually D_r.

    Attributes:
      stats: statistics of all images.
      some: (n, F) features of a random sample of the images.
      bias: `number of images -> u-FID` that as many real images are expected to have; None if
        there are too few images or too few in the reference. See `frechet.expected_bias`.
    """

    stats: frechet.FeatureStats
    some: np.ndarray
    bias: Callable[[int], float | None]


def make_reference(features: np.ndarray, limit: int, seed: int) -> Reference:
    """Make a reference from features of real images.

    Args:
      features: (N, F), N ≥ 2.
      limit: the largest number of rows to keep in the sample.
      seed: seed of the sample and of the bias.
    """
    limit = min(len(features), limit)
    chosen = np.random.default_rng(seed).choice(len(features), limit, replace=False)
    some, stats = features[np.sort(chosen)], frechet.feature_stats(features)

    @functools.cache
    def bias(count: int) -> float | None:
        if min(count, stats.count // 2, len(some)) < 2:
            return None
        return frechet.expected_bias(some, stats, count, seed=seed)

    return Reference(stats, some, bias)


def distance(features: np.ndarray, reference: Reference) -> float | None:
    """Fréchet distance of features (N, F) to the reference; None for fewer than 2 images."""
    if len(features) < 2:
        return None
    return frechet.frechet_distance(frechet.feature_stats(features), reference.stats)


def distance_at_shares(
    features: np.ndarray, classes: np.ndarray, shares: np.ndarray, reference: Reference
) -> float | None:
    """Fréchet distance to the reference of images reweighted to its class shares.

    The plain distance grows for worse images and for other class shares; this one for worse images
    alone.

    Args:
      features: (N, F) features of drawn images.
      classes: (N,) classes of the drawn images, in [0, K).
      shares: (K,) class shares of the reference. Images of a class with the share 0 do not count.
      reference: the real images.

    Returns:
      The distance; None if no image was drawn of a class of the reference.
    """
    drawn = np.bincount(classes, minlength=len(shares))
    if np.any((shares > 0) & (drawn == 0)):
        return None
    weights = (shares / np.maximum(drawn, 1))[classes]
    return frechet.frechet_distance(frechet.feature_stats(features, weights), reference.stats)


def counted_distance(features: np.ndarray, reference: Reference) -> dict[str, Any]:
    """Compute u-FID with the number of images and the expected bias, needed to interpret it.

    Args:
      features: (N, F) features of drawn images.
      reference: the real images.

    Returns:
      "images", "u_fid" and "u_fid_bias"; None for a figure of too few images.
    """
    return {
        "images": len(features),
        "u_fid": distance(features, reference),
        "u_fid_bias": reference.bias(len(features)),
    }


def quality(features: np.ndarray, reference: Reference, seed: int) -> dict[str, Any]:
    """Compute u-FID and all metrics of `METRICS`.

    Args:
      features: (N, F) features of drawn images.
      reference: the real images.
      seed: seed of the metrics' random subsets.

    Returns:
      The figures by key; None for a figure of too few images.
    """
    figures = counted_distance(features, reference)
    for metric in METRICS:
        enough = min(len(features), len(reference.some)) >= metric.needs
        figure = metric.compute(features, reference.some, seed) if enough else None
        figures[metric.key] = figure._asdict() if isinstance(figure, tuple) else figure
    return figures
