"""Registry of data sets by name; imports no library.

A new data set needs one entry here and one builder class in `builders.py`. The command line
checks configs against this table before it reads anything from disk, so this module must not
import TFDS.
"""

from typing import NamedTuple

from vdu_jax.errors import UserError


class Spec(NamedTuple):
    """Properties of a data set that are known before it is prepared.

    Attributes:
      builder: name of the class in `vdu_jax.data.builders`.
      image_shape: (H, W, C); None if it depends on the user's own folder.
      num_classes: number of classes; None if it depends on the user's own folder.
    """

    builder: str
    image_shape: tuple[int, int, int] | None
    num_classes: int | None


NAMES: dict[str, Spec] = {
    "digits": Spec("Digits", (8, 8, 1), 10),
    "mnist": Spec("Mnist", (28, 28, 1), 10),
    "fashion_mnist": Spec("FashionMnist", (28, 28, 1), 10),
    "tinted_fashion": Spec("TintedFashion", (32, 32, 3), 60),
    "cifar10": Spec("Cifar10", (32, 32, 3), 10),
    "tiny_imagenet": Spec("TinyImagenet", (64, 64, 3), 200),
    "image_folder": Spec("ImageFolder", None, None),
}


# Words and colours of tinted_fashion, whose classes are "red t-shirt" to "white ankle boot".
GARMENTS = (
    "t-shirt", "trousers", "pullover", "dress", "coat",
    "sandal", "shirt", "sneaker", "bag", "ankle boot",
)  # fmt: skip
TINTS = {
    "red": (255, 32, 32),
    "green": (32, 208, 64),
    "blue": (48, 96, 255),
    "yellow": (255, 224, 32),
    "purple": (192, 48, 224),
    "white": (255, 255, 255),
}


def dataset_names() -> tuple[str, ...]:
    """Names of all data sets that `load` accepts, in alphabetical order."""
    return tuple(sorted(NAMES))


def get_spec(name: str) -> Spec:
    """The registry's entry of a data set.

    Args:
      name: one of `dataset_names()`.

    Raises:
      UserError: if the name is not registered.
    """
    if name not in NAMES:
        raise UserError(
            f"data.name={name!r} is not a known data set; use one of {', '.join(dataset_names())}"
        )
    return NAMES[name]


def check_settings(
    name: str, image_size: int | None, channels: int | None, background: str
) -> None:
    """Check settings against a data set whose image shape is known.

    Args:
      name: one of `dataset_names()`.
      image_size: `data.image_size` in pixels; None if it is not set.
      channels: `data.channels`; None if it is not set.
      background: `data.background`; "" if it is not set.

    Raises:
      UserError: if a setting does not fit the data set, or the name is not registered.
    """
    spec = get_spec(name)
    if spec.image_shape is None:
        return
    height, _, depth = spec.image_shape
    for key, given, true in (("image_size", image_size, height), ("channels", channels, depth)):
        if given not in (None, true):
            raise UserError(f"data.{key}={given} does not fit {name}; leave it out or use {true}")
    if background:
        raise UserError(
            f"data.background={background!r} does not fit {name}, whose images are all opaque; "
            "leave it empty"
        )


def static_info(name: str) -> tuple[tuple[int, int, int], int] | None:
    """Image shape and number of classes of a data set, without reading the disk.

    Args:
      name: one of `dataset_names()`.

    Returns:
      ((H, W, C), number of classes); None if both depend on the user's own folder
      ("image_folder").

    Raises:
      UserError: if the name is not registered.
    """
    spec = get_spec(name)
    if spec.image_shape is None or spec.num_classes is None:
        return None
    return spec.image_shape, spec.num_classes
