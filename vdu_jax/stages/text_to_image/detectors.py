"""What tells whether an image has the feature."""

from collections.abc import Callable

import numpy as np
from ml_collections import ConfigDict

from vdu_jax.metrics import colours

Detector = Callable[[np.ndarray], np.ndarray]
"""uint8 images (N, H, W, C) -> scores (N,) in [0, 1]; above 0.5 an image has the feature."""


def make(config: ConfigDict) -> Detector:
    """The detector of `config.detector`.

    It knows the feature and no retained data, so that a method may keep a step by it.
    """
    palette = config.detector.palette.to_dict()
    names = sorted(palette)
    levels, wanted = (
        np.array([palette[name] for name in names]),
        names.index(config.detector.colour),
    )

    def of_colour(images: np.ndarray) -> np.ndarray:
        return (colours.nearest_colour(images, levels) == wanted).astype(float)

    return {"colour": of_colour}[config.detector.kind]
