"""The data set of a config, for data sets with classes."""

from typing import Any

from ml_collections import ConfigDict

from vdu_jax import config as vdu_config
from vdu_jax import data
from vdu_jax.errors import UserError
from vdu_jax.tasks import base


def prepared(config: ConfigDict) -> data.Dataset:
    """The data set of `config.data`, downloaded and converted if it is not there yet.

    Raises:
      UserError: if its files are missing or damaged, `forget.classes` do not fit its classes, or
        the network's classes do not.
    """
    section = config.data
    dataset = data.load(
        section.name,
        section.dir,
        section.manual_dir or None,
        image_size=section.image_size or None,
        channels=section.channels or None,
        background=section.background,
    )
    base.report_once(dataset.account)
    if "classes" in config.forget:
        classes = config.forget.classes
        if max(classes) >= dataset.num_classes or len(classes) >= dataset.num_classes:
            raise UserError(
                f"config key forget.classes = {tuple(classes)}: {section.name} has the classes "
                f"0..{dataset.num_classes - 1}, and at least one must remain"
            )
        vdu_config.check_classes(config, dataset.num_classes)
    return dataset


def open_split(config: ConfigDict, dataset: data.Dataset, split: str) -> data.ImageSource:
    """The images of one split, cached in memory up to `data.cache_mb`.

    Args:
      config: all settings.
      dataset: a prepared data set.
      split: "train" or "test".
    """
    return data.open_split(dataset, split, cache_bytes=config.data.cache_mb * 2**20)


def inputs(config: ConfigDict) -> dict[str, Any]:
    """The settings of `config.data` that change results; paths do not."""
    return {k: config.data[k] for k in ("name", "image_size", "channels", "background")}
