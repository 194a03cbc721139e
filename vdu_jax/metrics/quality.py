"""How close drawn images are to real ones: u-FID with its bias, and every metric of `METRICS`.

All of it is of features (N, F), whatever network they come from. The evaluation, the report and the
benchmark's tables take their columns from `METRICS`.
"""

import functools
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np

from vdu_jax.metrics import frechet, kid, precision_recall


class Metric(NamedTuple):
    """A figure of drawn images against real ones, and its column in every table.

    Attributes:
      key: of the figure in files.
      name: in words.
      compute: (features (N, F), real ones (n, F), seed) -> the figure, or a NamedTuple of its
        "value" and "standard_error".
      needs: the smallest number of rows of either.
      digits: after the point, in tables.
      scale: what the figure is multiplied by in tables.
      about: what else a reader of the report must know of it.
    """

    key: str
    name: str
    compute: Callable[[np.ndarray, np.ndarray, int], float | NamedTuple]
    needs: int
    digits: int = 3
    scale: int = 1
    about: str = ""

    @property
    def head(self) -> str:
        """The head of its column."""
        return self.name if self.scale == 1 else f"{self.name} × {self.scale}"

    @property
    def column(self) -> str:
        """The key of the scaled figure."""
        return self.key if self.scale == 1 else f"{self.key}_{self.scale}"


METRICS = (
    Metric(
        "kid", "KID", lambda x, real, seed: kid.kid(x, real, seed=seed), 2, 1, 1000,
        "the kernel distance, with its standard error over subsets of up to 1000 images, which "
        "says nothing of images that were not drawn",
    ),
    Metric("precision", "precision", lambda x, real, _: precision_recall.precision(x, real), 4),
    Metric("recall", "recall", lambda x, real, _: precision_recall.recall(x, real), 4),
)  # fmt: skip


def listed(names: Sequence[str]) -> str:
    """ "a, b and c"; "" for no names."""
    return " and ".join(filter(None, (", ".join(names[:-1]), *names[-1:])))


def measured(rows: Iterable[Mapping[str, Any]]) -> list[Metric]:
    """Those of `METRICS` that some of the models' figures have: earlier files may lack the last."""
    rows = list(rows)
    return [metric for metric in METRICS if any(metric.key in row for row in rows)]


def value_of(figure: float | Mapping[str, Any] | None) -> float | None:
    """A figure without its standard error or interval."""
    return figure["value"] if isinstance(figure, Mapping) else figure


class Reference(NamedTuple):
    """Real images in some features, usually D_r.

    Attributes:
      stats: of all of them.
      some: (n, F) of a limited number of them.
      bias: number of images -> the u-FID that as many real ones are expected at, or None if there
        are too few of them or of the reference.
    """

    stats: frechet.FeatureStats
    some: np.ndarray
    bias: Callable[[int], float | None]


def make_reference(features: np.ndarray, limit: int, seed: int) -> Reference:
    """A reference of images with features (N, F), N ≥ 2, of which at most `limit` are kept."""
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
    """Fréchet distance to the reference, or None for fewer than 2 images."""
    if len(features) < 2:
        return None
    return frechet.frechet_distance(frechet.feature_stats(features), reference.stats)


def distance_at_shares(
    features: np.ndarray, classes: np.ndarray, shares: np.ndarray, reference: Reference
) -> float | None:
    """Fréchet distance to the reference of images reweighted to given shares of classes.

    It tells worse pictures from other shares of classes: a model whose pictures of every class are
    as good as real ones is as near as they are, however often it draws each.

    Args:
      features: (N, F). classes: (N,) of the images, in [0, K).
      shares: (K,) of the classes in the reference; images of a class with none do not count.

    Returns:
      The distance, or None if a class of the reference has no image.
    """
    drawn = np.bincount(classes, minlength=len(shares))
    if np.any((shares > 0) & (drawn == 0)):
        return None
    weights = (shares / np.maximum(drawn, 1))[classes]
    return frechet.frechet_distance(frechet.feature_stats(features, weights), reference.stats)


def counted_distance(features: np.ndarray, reference: Reference) -> dict[str, Any]:
    """u-FID with what it must not be read without: the number of images and the expected bias."""
    return {
        "images": len(features),
        "u_fid": distance(features, reference),
        "u_fid_bias": reference.bias(len(features)),
    }


def quality(features: np.ndarray, reference: Reference, seed: int) -> dict[str, Any]:
    """u-FID and all of `METRICS` of features (N, F); None for too few images.

    Args:
      seed: of what a metric draws.
    """
    figures = counted_distance(features, reference)
    for metric in METRICS:
        enough = min(len(features), len(reference.some)) >= metric.needs
        figure = metric.compute(features, reference.some, seed) if enough else None
        figures[metric.key] = figure._asdict() if isinstance(figure, tuple) else figure
    return figures
