"""TFDS builders that need no TensorFlow: PNG bytes in ArrayRecord files.

The builders of the TFDS catalogue need TensorFlow to prepare a data set. These read the same
files (same addresses, same SHA-256) or the user's copies of them. Their names start with `vdu_`,
so that a prepared set never mixes with one of the catalogue in a shared data_dir. They keep the
order of the original files.

Importing this module imports TFDS (half a second); `vdu_jax.data.registry` does not.
"""

import functools
import hashlib
import os
import socket
import types
import urllib.parse
import urllib.request
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import tensorflow_datasets as tfds
from tensorflow_datasets.core.download.checksums import UrlInfo

from vdu_jax.data import folders, formats, originals
from vdu_jax.data.images import encode_png, read_all, read_image
from vdu_jax.data.registry import GARMENTS, TINTS
from vdu_jax.data.splits import stratified_test_mask
from vdu_jax.errors import UserError

_DIGITS = tuple("0123456789")
_FASHION: tuple[str, ...] = (
    "T-shirt/top", "Trouser", "Pullover", "Dress", "Coat",
    "Sandal", "Shirt", "Sneaker", "Bag", "Ankle boot",
)  # fmt: skip
_CIFAR10: tuple[str, ...] = (
    "airplane", "automobile", "bird", "cat", "deer",
    "dog", "frog", "horse", "ship", "truck",
)  # fmt: skip


class Builder(
    tfds.core.GeneratorBasedBuilder,
    skip_registration=True,  # type: ignore[call-arg]  # TFDS's bases are untyped
):
    """Base class of all builders; its subclasses stay out of the TFDS registry.

    Attributes:
      FILES: the original files, a table of `vdu_jax.data.originals`; empty if the data set reads
        none.
      image_shape: (H, W, C).
      class_names: one name per label; None if the files name the classes.
      manual_dir: the folder with the user's copies of the original files; None downloads them.
    """

    VERSION = tfds.core.Version("1.0.0")
    FILES: originals.Files = types.MappingProxyType({})
    image_shape: tuple[int, int, int]
    class_names: tuple[str, ...] | None

    def __init_subclass__(cls, skip_registration: bool = True, **kwargs: Any) -> None:
        super().__init_subclass__(skip_registration=skip_registration, **kwargs)

    def __init__(
        self,
        *,
        data_dir: str | os.PathLike,
        manual_dir: str | os.PathLike | None = None,
        config: tfds.core.BuilderConfig | None = None,
    ) -> None:
        self.manual_dir = None if manual_dir is None else Path(manual_dir).expanduser()
        if manual_dir is not None and not self.FILES:
            raise UserError(
                f"data.manual_dir={manual_dir}: {self.name.removeprefix('vdu_')} reads no files; "
                "leave it empty"
            )
        super().__init__(data_dir=data_dir, config=config)

    @property
    def url_infos(self) -> dict[str, UrlInfo]:
        """Sizes and SHA-256 sums, by URL, that TFDS checks downloads against."""
        return {
            url: UrlInfo(size=tfds.core.utils.Size(size), checksum=sha256, filename=name)
            for name, (url, size, sha256) in self.FILES.items()
        }

    def _info(self) -> tfds.core.DatasetInfo:
        features = {
            "image": tfds.features.Image(shape=self.image_shape, encoding_format="png"),
            "label": tfds.features.ClassLabel(names=self.class_names),
        }
        return tfds.core.DatasetInfo(
            builder=self,
            description=self.__doc__,
            features=tfds.features.FeaturesDict(features),
            disable_shuffling=True,
        )

    def _generate_examples(
        self, pairs: Iterable[tuple[np.ndarray, int]]
    ) -> Iterator[tuple[int, dict[str, Any]]]:
        for i, (image, label) in enumerate(pairs):
            yield i, {"image": encode_png(image), "label": int(label)}

    def _originals(
        self, dl_manager: tfds.download.DownloadManager, extracted: tuple[str, ...] = ()
    ) -> dict[str, Path]:
        """Paths of the original files, in manual_dir or downloaded.

        Args:
          dl_manager: TFDS's.
          extracted: members of an archive; if one of them lies in manual_dir, the user has
            unpacked the archive, and its path is manual_dir itself.

        Returns:
          {file name: path} for every entry of FILES.

        Raises:
          UserError: if manual_dir lacks a file, or the download fails.
        """
        if self.manual_dir is None:
            return self._download(dl_manager)
        paths = {}
        for name in self.FILES:
            # The user may have uncompressed an IDX file.
            candidates = [self.manual_dir / name, self.manual_dir / name.removesuffix(".gz")]
            if any((self.manual_dir / member).exists() for member in extracted):
                candidates.append(self.manual_dir)
            existing = [path for path in candidates if path.exists()]
            if not existing:
                state = "lacks" if self.manual_dir.is_dir() else "is not a directory with"
                raise UserError(
                    f"data.manual_dir={self.manual_dir} {state} {name}; put the original files "
                    f"there ({', '.join(self.FILES)}) or leave data.manual_dir empty to download"
                )
            paths[name] = existing[0]
        return paths

    def _download(self, dl_manager: tfds.download.DownloadManager) -> dict[str, Path]:
        urls = {name: entry[0] for name, entry in self.FILES.items()}
        try:
            for url in urls.values():
                _check_host(url)
            return {name: Path(path) for name, path in dl_manager.download(urls).items()}
        except (
            OSError,  # includes every error of `requests`
            tfds.download.DownloadError,
            tfds.download.download_manager.NonMatchingChecksumError,
        ) as error:
            raise UserError(
                f"cannot download {', '.join(urls.values())} ({error}); fetch these files by "
                "hand into a folder and set data.manual_dir to it"
            ) from error


def _check_host(url: str) -> None:
    """Fail at once without a network, where TFDS would retry for three minutes."""
    if not urllib.request.getproxies():
        parts = urllib.parse.urlsplit(url)
        socket.getaddrinfo(parts.hostname, parts.port or parts.scheme)


class Digits(Builder):
    """scikit-learn's embedded digits (UCI optdigits): 1 797 images of 8x8, no download.

    A level v in 0..16 becomes round(v * 255 / 16). Every fifth image of each class is a test image.
    """

    name = "vdu_digits"
    image_shape, class_names = (8, 8, 1), _DIGITS

    def _split_generators(self, dl_manager: tfds.download.DownloadManager) -> dict[str, Iterator]:
        from sklearn.datasets import load_digits

        images, labels = load_digits(return_X_y=True)
        images = np.rint(images.reshape(-1, 8, 8, 1) * (255 / 16)).astype(np.uint8)
        test = stratified_test_mask(labels, every=5)
        return {
            "train": self._generate_examples(zip(images[~test], labels[~test], strict=True)),
            "test": self._generate_examples(zip(images[test], labels[test], strict=True)),
        }


class _IdxBuilder(Builder):
    image_shape = (28, 28, 1)

    def _split_generators(self, dl_manager: tfds.download.DownloadManager) -> dict[str, Iterator]:
        paths = self._originals(dl_manager)
        return {
            split: self._generate_examples(self._pairs(paths, prefix))
            for split, prefix in (("train", "train"), ("test", "t10k"))
        }

    def _pairs(self, paths: Mapping[str, Path], prefix: str) -> Iterator[tuple[np.ndarray, int]]:
        image_path = paths[f"{prefix}-images-idx3-ubyte.gz"]
        label_path = paths[f"{prefix}-labels-idx1-ubyte.gz"]
        images = formats.read_idx(image_path, ndim=3)
        labels = formats.read_idx(label_path, ndim=1)
        if images.shape[1:] != (28, 28) or len(images) != len(labels) or not len(labels):
            raise UserError(
                f"{image_path} {images.shape} and {label_path} {labels.shape} do not fit each "
                "other as (N, 28, 28) and (N,); use the pair as distributed"
            )
        if labels.max() > 9:
            raise UserError(f"{label_path} has label {labels.max()}, above 9; use the original")
        return zip(images[..., None], labels, strict=True)


class Mnist(_IdxBuilder):
    """MNIST (LeCun et al. 1998): 60 000 and 10 000 images of 28x28."""

    name = "vdu_mnist"
    class_names = _DIGITS
    FILES = originals.MNIST


class FashionMnist(_IdxBuilder):
    """Fashion-MNIST (arXiv 1708.07747): MNIST's format and size."""

    name = "vdu_fashion_mnist"
    class_names = _FASHION
    FILES = originals.FASHION_MNIST


class TintedFashion(FashionMnist):
    """Fashion-MNIST in six colours, 32x32 RGB: the class is colour and garment, "red sneaker".

    Each image gets a margin of 2 pixels and is multiplied by a tint, so black stays black. Tints
    are drawn uniformly, with a fixed seed for each split.
    """

    name = "vdu_tinted_fashion"
    image_shape = (32, 32, 3)
    class_names = tuple(f"{tint} {garment}" for tint in TINTS for garment in GARMENTS)

    def _pairs(self, paths: Mapping[str, Path], prefix: str) -> Iterator[tuple[np.ndarray, int]]:
        pairs = list(super()._pairs(paths, prefix))
        tints = np.array(list(TINTS.values()))
        # NumPy has frozen the streams of RandomState, so tints are the same with every version.
        drawn = np.random.RandomState({"train": 0, "t10k": 1}[prefix]).randint(
            len(tints), size=len(pairs)
        )
        for (image, garment), tint in zip(pairs, drawn, strict=True):
            grey = np.pad(image, ((2, 2), (2, 2), (0, 0))).astype(float)
            tinted = np.rint(grey * tints[tint] / 255).astype(np.uint8)
            yield tinted, len(GARMENTS) * tint + garment


class Cifar10(Builder):
    """CIFAR-10 (Krizhevsky 2009), binary version: 50 000 and 10 000 images of 32x32."""

    name = "vdu_cifar10"
    image_shape, class_names = (32, 32, 3), _CIFAR10
    FILES = originals.CIFAR10

    def _split_generators(self, dl_manager: tfds.download.DownloadManager) -> dict[str, Iterator]:
        extracted = ("cifar-10-batches-bin", "data_batch_1.bin")
        (path,) = self._originals(dl_manager, extracted).values()
        return {
            split: self._generate_examples(zip(*arrays, strict=True))
            for split, arrays in formats.read_cifar10_binary(path).items()
        }


class TinyImagenet(Builder):
    """Tiny ImageNet (Stanford CS231n): 200 classes of 500 images of 64x64.

    The test split holds the archive's validation images, because its test images have no labels.
    The JPEG files are decoded once and stored as PNG.
    """

    name = "vdu_tiny_imagenet"
    image_shape, class_names = (64, 64, 3), None
    FILES = originals.TINY_IMAGENET

    def _split_generators(self, dl_manager: tfds.download.DownloadManager) -> dict[str, Iterator]:
        extracted = ("tiny-imagenet-200", "wnids.txt")
        (path,) = self._originals(dl_manager, extracted).values()
        names = formats.tiny_imagenet_classes(path)[1]
        if len(names) != 200:
            raise UserError(f"{path} has {len(names)} classes, not 200; use the official archive")
        self.info.features["label"].names = names
        return {
            "train": self._generate_examples(formats.iter_tiny_imagenet(path, "train")),
            "test": self._generate_examples(formats.iter_tiny_imagenet(path, "val")),
        }


class ImageFolder(Builder):
    """The user's own images: manual_dir/train/<class>/*.png, optionally manual_dir/test.

    Without a test folder (see `folders.HELD_OUT`) every tenth image of each class, by file name, is
    a test image. The name of the prepared copy contains the image size, the channels, the
    background and a digest of the listing (names, sizes, times), so a changed folder is prepared
    again.

    Attributes:
      account: a line on the files that are read and left out.
    """

    name = "vdu_image_folder"
    # 1.0.0 dropped the transparency of images, so its prepared copies must not be used.
    VERSION = tfds.core.Version("2.0.0")
    class_names: tuple[str, ...]

    def __init__(
        self,
        *,
        data_dir: str | os.PathLike,
        manual_dir: str | os.PathLike | None = None,
        image_size: int | None = None,
        channels: int | None = None,
        background: str = "",
    ) -> None:
        if manual_dir is None:
            raise UserError(
                "data.manual_dir is empty; for image_folder set it to the folder that holds "
                "train/<class>/*.png"
            )
        if not isinstance(image_size, int) or not 4 <= image_size <= 4096:
            raise UserError(f"data.image_size={image_size} must be an integer from 4 to 4096")
        if channels not in (1, 3):
            raise UserError(f"data.channels={channels} must be 1 (grayscale) or 3 (RGB)")
        root = Path(manual_dir).expanduser()
        folder = folders.list_folder(root)
        splits = folder.splits
        self.image_shape, self.background = (image_size, image_size, channels), background
        self.class_names = tuple(sorted({class_name for _, class_name in splits["train"]}))
        unknown = {c for _, c in splits.get("test", ())} - set(self.class_names)
        if unknown:
            raise UserError(
                f"{folder.held_out} has class {min(unknown)!r}, which {root / 'train'} lacks"
            )
        digest = hashlib.sha256()
        for file, _ in (pair for pairs in splits.values() for pair in pairs):
            stat = file.stat()
            digest.update(os.fsencode(file.relative_to(root)))
            digest.update(f"\0{stat.st_size}\0{stat.st_mtime_ns}\n".encode())
        names = {"train": "train"}
        if folder.held_out is None:
            pairs, names["test"] = splits["train"], "test (every tenth image of train)"
            mask = stratified_test_mask(np.array(self._labels(pairs)), every=10)
            splits["test"] = [pair for pair, held in zip(pairs, mask, strict=True) if held]
            splits["train"] = [pair for pair, held in zip(pairs, mask, strict=True) if not held]
            if not splits["test"]:
                raise UserError(f"{root / 'train'} needs at least two images of some class")
        else:
            names["test"] = f"test ({folder.held_out.name}/)"
        self.account = folders.account(root, splits, names, folder.left_out)
        self._lists = splits
        config = tfds.core.BuilderConfig(
            name=f"{image_size}x{image_size}x{channels}{'-' * bool(background)}{background}-"
            f"{digest.hexdigest()[:16]}",
            version=self.VERSION,
        )
        super().__init__(data_dir=data_dir, config=config)

    def _labels(self, pairs: Sequence[tuple[Path, str]]) -> list[int]:
        places = {name: place for place, name in enumerate(self.class_names)}
        return [places[class_name] for _, class_name in pairs]

    def _split_generators(self, dl_manager: tfds.download.DownloadManager) -> dict[str, Iterator]:
        return {
            split: self._generate_examples(self._pairs(pairs))
            for split, pairs in self._lists.items()
        }

    def _pairs(self, pairs: Sequence[tuple[Path, str]]) -> Iterator[tuple[np.ndarray, int]]:
        size, _, channels = self.image_shape
        read = functools.partial(
            read_image, image_size=size, channels=channels, background=self.background
        )
        return zip(read_all([file for file, _ in pairs], read), self._labels(pairs), strict=True)
