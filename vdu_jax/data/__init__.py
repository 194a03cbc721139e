"""Images and labels: prepared data sets, forget/retain splits, resumable loaders.

    dataset = load("digits", data_dir)
    train = open_split(dataset, "train")
    forget, retain = forget_retain_indices(train.labels, [3])
    batches = make_loader(train.subset(forget), batch_size=32, seed=0)

TFDS and Grain are imported when first needed, so importing this package stays quick.
"""

from vdu_jax.data.loader import make_loader
from vdu_jax.data.pixels import to_model_range, to_uint8
from vdu_jax.data.registry import NAMES, dataset_names, static_info
from vdu_jax.data.source import ArraySource, Dataset, ImageSource, Mirrored, load, open_split
from vdu_jax.data.splits import ForgetRetain, forget_retain_indices

__all__ = [
    "NAMES",
    "ArraySource",
    "Dataset",
    "ForgetRetain",
    "ImageSource",
    "Mirrored",
    "dataset_names",
    "forget_retain_indices",
    "load",
    "make_loader",
    "open_split",
    "static_info",
    "to_model_range",
    "to_uint8",
]
