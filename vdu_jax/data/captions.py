"""Images with captions: made from a data set's class names, or read from the user's own folder.

The user's folder holds images and `metadata.jsonl` or `metadata.csv`, in the convention of Hugging
Face's `imagefolder`: one line per image, {"file_name": "a.png", "text": "a red shoe"}.
"""

import codecs
import csv
import functools
import io
import json
import os
import unicodedata
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from vdu_jax.data import folders, images
from vdu_jax.data.pixels import to_model_range
from vdu_jax.data.source import ImageSource
from vdu_jax.errors import UserError

METADATA = ("metadata.jsonl", "metadata.csv")
COLUMN = "text"  # the default name of the column with the captions
_FILE = "file_name"


@dataclass(frozen=True)
class Captioned:
    """N images with their captions; a source for `make_loader`.

    Attributes:
      read: `indices (n,) -> images (n, H, W, C)` uint8 in [0, 255]; reads the files at each call.
      captions: N captions.
      image_shape: (H, W, C).
      account: a line on the files that are read and left out of the user's own folder; "" for
        other data sets.
    """

    read: Callable[[np.ndarray], np.ndarray]
    captions: tuple[str, ...]
    image_shape: tuple[int, int, int]
    account: str = ""

    def __len__(self) -> int:
        return len(self.captions)

    @functools.cached_property
    def positions(self) -> np.ndarray:
        """(N,) int64, 0 … N − 1; see `loader.Source`."""
        return np.arange(len(self))

    def batch(self, indices: np.ndarray) -> dict[str, np.ndarray]:
        """Read images as the networks take them.

        Args:
          indices: (n,) integers in [0, N).

        Returns:
          {"image": (n, H, W, C) float32 in [-1, 1]}.
        """
        return {"image": to_model_range(self.read(indices))}

    def subset(self, indices: np.ndarray) -> "Captioned":
        """A view restricted to `indices` (n,), in that order; it can read no other image."""
        indices, read = np.asarray(indices), self.read
        captions = tuple(self.captions[i] for i in indices)
        return Captioned(lambda some: read(indices[some]), captions, self.image_shape)


def of_classes(
    source: ImageSource,
    class_names: Sequence[str],
    templates: Sequence[str],
    synonyms: Mapping[str, str],
    seed: int,
) -> Captioned:
    """Caption the images of a data set with their class names.

    Args:
      source: N images with labels.
      class_names: one name per label.
      templates: captions with {} for the class name, e.g. "a {}"; one is drawn for each image.
      synonyms: word -> synonym; used for a fifth of the images, drawn at random.
      seed: seed of the draws.

    Returns:
      N images with captions.

    Raises:
      UserError: for a template without exactly one {}.
    """
    for template in templates:
        if template.count("{}") != 1:
            raise UserError(f"caption template {template!r}: it must have one {{}} for the name")
    # NumPy has frozen the streams of RandomState, so captions are the same with every version.
    drawn = np.random.RandomState(seed)
    which = drawn.randint(len(templates), size=len(source))
    other = drawn.randint(5, size=len(source)) == 0
    captions = []
    for label, template, says_other in zip(source.labels, which, other, strict=True):
        words = class_names[label].split(" ")
        if says_other:
            words = [synonyms.get(word, word) for word in words]
        captions.append(templates[template].format(" ".join(words)))
    return Captioned(lambda some: source.read(some)[0], tuple(captions), source.image_shape)


@dataclass(frozen=True)
class CaptionFolder:
    """A folder of images with captions.

    Attributes:
      metadata: the file with the captions.
      captions: image file -> caption, in the order of the metadata.
      repeated: number of lines that name an image again, with the same caption.
      left_out: the files that are not read.
    """

    metadata: Path
    captions: dict[Path, str]
    repeated: int
    left_out: folders.LeftOut

    def __str__(self) -> str:
        """A line on the files that are read and left out."""
        again = f"; repeated lines: {self.repeated}" if self.repeated else ""
        account = f"images read from {self.metadata}: {len(self.captions)}{again}{self.left_out}"
        return folders.one_line(account)


def list_folder(directory: Path, column: str = COLUMN) -> CaptionFolder:
    """List a folder of images with captions; no image is opened.

    Args:
      directory: the folder.
      column: name of the column or key with the captions.

    Raises:
      UserError: if the metadata is missing, cannot be read, or has a line that is wrong.
    """
    directory = Path(directory)
    path = metadata_file(directory)
    rows = _rows_of_csv(path) if path.suffix == ".csv" else _rows_of_json(path)
    finder, repeated = _Finder(directory), 0
    captions: dict[Path, str] = {}
    lines: dict[Path, int] = {}
    for number, row in rows:
        where = f"{path}: line {number}"
        name, text = _values(row, column, where)
        file = finder.find(name, where)
        if captions.setdefault(file, text) != text:
            raise UserError(
                f"{where}: {file} has another caption in line {lines[file]}; an image has one: "
                "remove one of the lines"
            )
        repeated += file in lines
        lines.setdefault(file, number)
    if not captions:
        raise UserError(
            f"{path} names no image; it must have a line for each, as "
            '{"file_name": "a.png", "text": "a red shoe"}'
        )
    return CaptionFolder(path, captions, repeated, finder.left_out({*captions, path}))


def of_folder(
    directory: Path, image_size: int, channels: int = 3, column: str = COLUMN, background: str = ""
) -> Captioned:
    """Images with captions from the user's own folder.

    Images are cropped to the central square and resized when they are read.

    Args:
      directory: the folder.
      image_size: side of the images in pixels.
      channels: 1 (grayscale) or 3 (RGB).
      column: name of the column or key with the captions.
      background: see `images.decode_image`.

    Raises:
      UserError: see `list_folder`; `Captioned.read` raises it for an image that is refused.
    """
    listing = list_folder(directory, column)
    files = list(listing.captions)
    read_one = functools.partial(
        images.read_image, image_size=image_size, channels=channels, background=background
    )

    def read(some: np.ndarray) -> np.ndarray:
        return np.stack([read_one(files[i]) for i in some])

    shape = (image_size, image_size, channels)
    return Captioned(read, tuple(listing.captions.values()), shape, str(listing))


def check_images(captioned: Captioned) -> Iterator[int]:
    """Read every image once, and yield its index.

    Args:
      captioned: the images.

    Raises:
      UserError: for the first image that is refused; see `images.read_all`.
    """
    read = images.read_all(range(len(captioned)), lambda i: captioned.read(np.array([i])))
    for index, _ in enumerate(read):
        yield index


def metadata_file(directory: Path) -> Path:
    """The file with the captions of a folder's images.

    Args:
      directory: the folder.

    Raises:
      UserError: if there is no such file, or more than one.
    """
    directory = Path(directory)
    if not directory.is_dir():
        raise UserError(
            f"data.manual_dir={directory} is not a folder; it must hold images and {METADATA[0]}"
        )
    files = [directory / name for name in METADATA if (directory / name).is_file()]
    if len(files) == 1:
        return files[0]
    if files:
        raise UserError(f"{files[0]} and {files[1]} both exist; remove one of them")
    below = [p for name in METADATA for p in sorted(directory.glob(f"*/{name}"))]
    others = [p for p in folders.entries(directory) if p.stem.lower() == "metadata"]
    if below:
        do = f"{below[0]} does: set data.manual_dir to {below[0].parent}"
    elif others:
        do = f"convert {others[0].name} to {' or '.join(METADATA)}"
    else:
        do = 'write one line of JSON per image, {"file_name": "a.png", "text": "a red shoe"}'
    raise UserError(f"{directory / METADATA[0]} does not exist: {do}")


def _read_text(path: Path) -> str:
    try:
        data = path.read_bytes()
        wide = data.startswith((codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE))
        return data.decode("utf-16" if wide else "utf-8-sig")
    except UnicodeDecodeError as error:
        raise UserError(
            f"{path} is not UTF-8 ({error.reason} at byte {error.start}); save it as UTF-8"
        ) from error
    except OSError as error:
        raise UserError(f"{path} cannot be read: {error.strerror}; check the file") from error


def _rows_of_json(path: Path) -> Iterator[tuple[int, dict[str, Any]]]:
    # Not `splitlines`, which also splits at characters that JSON strings may hold, e.g. U+2028.
    for number, line in enumerate(_read_text(path).split("\n"), 1):
        if not line.strip():
            continue
        where = f"{path}: line {number}"
        try:
            row = json.loads(line, object_pairs_hook=functools.partial(_unique, where=where))
        except (ValueError, RecursionError) as error:
            raise UserError(
                f"{where} is not JSON ({error}); write one object per image, each on one line"
            ) from None
        if not isinstance(row, dict):
            raise UserError(f'{where} is not a JSON object; write {{"file_name": …, "text": …}}')
        yield number, row


def _unique(pairs: list[tuple[str, Any]], where: str) -> dict[str, Any]:
    row = dict(pairs)
    if len(row) < len(pairs):
        raise UserError(f"{where} has a key twice; remove one")
    return row


def _rows_of_csv(path: Path) -> Iterator[tuple[int, dict[str, Any]]]:
    file = io.StringIO(_read_text(path), newline="")
    reader = csv.reader(file, skipinitialspace=True, strict=True)
    header, before = None, 0
    try:
        for values in reader:
            number, before = before + 1, reader.line_num
            where = f"{path}: line {number}"
            if not any(value.strip() for value in values):
                continue
            if header is None:
                header = [value.strip() for value in values]
                if len(set(header)) < len(header):
                    raise UserError(f"{where}: two columns have the same name; rename one")
                continue
            if len(values) != len(header):
                raise UserError(
                    f"{where} has {len(values)} values, and the header {len(header)} columns; put "
                    "a value with a comma in it into double quotes"
                )
            yield number, dict(zip(header, values, strict=True))
    except csv.Error as error:
        raise UserError(f"{path}: line {before + 1} is not CSV ({error}); correct it") from None


def _values(row: Mapping[str, Any], column: str, where: str) -> tuple[str, str]:
    """File name and caption of a row."""
    for key in (_FILE, column):
        if key not in row:
            there = ", ".join(map(str, row)) or "nothing"
            do = f"rename the column with the file names to {_FILE}"
            if key == column:
                do = "set data.caption_column to the column with the captions"
            raise UserError(f'{where} has no "{key}", but {there}; {do}')
        value = row[key]
        if not isinstance(value, str) or not value.strip():
            raise UserError(f'{where}: "{key}" = {value!r}: must be text, and not empty')
        try:
            value.encode()
        except UnicodeEncodeError:
            raise UserError(f'{where}: "{key}" = {value!r} is not valid text; correct it') from None
    return row[_FILE], row[column]


class _Finder:
    """Finds the files that metadata names, however the system that wrote it spells them."""

    def __init__(self, directory: Path) -> None:
        self._directory = directory
        self._all = list(folders.walk(directory))
        # macOS decomposes the accents in file names.
        self._composed = {unicodedata.normalize("NFC", os.fspath(p)): p for p in self._all}
        self._lower = {os.fspath(p).lower(): p for p in self._all}

    def find(self, name: str, where: str) -> Path:
        """The file of a name, with either kind of slash and either form of accents.

        Args:
          name: a path relative to the folder.
          where: the place in the metadata, for the error.

        Raises:
          UserError: if there is no such file.
        """
        for written in (name, name.replace("\\", "/")) if "\0" not in name else ():
            path = self._directory / os.path.normpath(written)
            if not os.path.isfile(path):
                composed = unicodedata.normalize("NFC", os.fspath(path))
                path = self._composed.get(composed, path)
            if os.path.isfile(path):
                return path
        near = self._lower.get(os.fspath(self._directory / os.path.normpath(name)).lower())
        raise UserError(
            f"{where}: {self._directory / name} does not exist"
            f"{f', but {near} does' if near else ''}; add the image, or correct or remove the line"
        )

    def left_out(self, taken: set[Path]) -> folders.LeftOut:
        """The files of the folder that are not among `taken`."""
        left = folders.LeftOut()
        for path in self._all:
            if path in taken:
                continue
            if folders.is_image(path):
                left.files[folders.UNNAMED].append(path)
            else:
                left.add(path)
        return left
