"""Listing of a folder of the user's own images: the files to read, and the files left out.

Each class is a folder of images:

    DIR/train/<class>/*.png
    DIR/test/<class>/*.png     optional; may also be called val, valid or validation
"""

import os
import unicodedata
from collections import Counter, defaultdict
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from vdu_jax.data.images import SUFFIXES
from vdu_jax.errors import UserError

HELD_OUT = ("test", "val", "valid", "validation")
# Files that systems and people write beside images; leaving them out loses no image.
_SYSTEM = ("thumbs.db", "ehthumbs.db", "desktop.ini", "icon\r", "__macosx")
_NOTES = (".caption", ".csv", ".html", ".json", ".jsonl", ".md", ".tsv", ".txt", ".xml", ".yaml",
          ".yml")  # fmt: skip
_SHOWN_CLASSES = 12

HIDDEN = "hidden or written by the system"
NOTES = "text beside the images"
TYPE = "unsupported type"
LINK = "broken link or not a regular file"
NESTED = "in a sub-folder of a class"
LOOSE = "outside class folders"
BESIDE = "a folder beside {}"
UNNAMED = "images without a line"


@dataclass
class LeftOut:
    """Files that are not read, by reason.

    Attributes:
      files: reason -> paths; a path may be a folder, from which then nothing is read.
    """

    files: dict[str, list[Path]] = field(default_factory=lambda: defaultdict(list))

    def add(self, path: Path) -> str:
        """Record a path that is not an image; returns the reason it is left out for."""
        if is_hidden(path.name):
            reason = HIDDEN
        elif not os.path.isfile(path):
            reason = LINK
        else:
            reason = NOTES if path.suffix.lower() in _NOTES else TYPE
        self.files[reason].append(path)
        return reason

    def __str__(self) -> str:
        """ "; left out: …" with the number of files and an example per reason; "" for no file."""
        parts = []
        for reason, paths in self.files.items():
            what = reason
            if reason == TYPE:
                kinds = Counter(path.suffix.lower() or "no suffix" for path in paths)
                what += f" ({', '.join(f'{n} {kind}' for kind, n in kinds.most_common(5))})"
            parts.append(f"{what}: {len(paths)}, e.g. {paths[0]}")
        return f"; left out: {'; '.join(parts)}" if parts else ""


@dataclass(frozen=True)
class Folder:
    """The images of an image folder.

    Attributes:
      splits: "train" and, if there is a test folder, "test" -> (file, class name), sorted by class,
        then file.
      held_out: the test folder, or None.
      left_out: the files that are not read.
    """

    splits: dict[str, list[tuple[Path, str]]]
    held_out: Path | None
    left_out: LeftOut


def is_hidden(name: str) -> bool:
    """Whether a name is that of a hidden file, or of a file that the operating system writes."""
    return name.startswith(".") or name.lower() in _SYSTEM


def is_image(path: Path) -> bool:
    """Whether a path is a visible file with the suffix of a supported image type."""
    return path.suffix.lower() in SUFFIXES and not is_hidden(path.name) and os.path.isfile(path)


def entries(directory: Path) -> list[Path]:
    """Files and folders in a folder, sorted by name.

    Args:
      directory: the folder.

    Raises:
      UserError: if the folder cannot be read.
    """
    try:
        return sorted(Path(directory).iterdir())
    except OSError as error:
        raise UserError(
            f"the folder {directory} cannot be read: {error.strerror or error}; check its path and "
            "permissions"
        ) from error


def walk(directory: Path) -> Iterator[Path]:
    """Every file below a folder, sorted; hidden folders are yielded and not entered.

    Args:
      directory: the folder. A folder below it that is linked to twice is entered once.

    Raises:
      UserError: if a folder cannot be read.
    """
    seen, todo = set(), [Path(directory)]
    while todo:
        folder = todo.pop()
        real = os.path.realpath(folder)
        if real in seen:
            continue
        seen.add(real)
        inner = []
        for path in entries(folder):
            if path.is_dir() and not is_hidden(path.name):
                inner.append(path)
            else:
                yield path
        todo += reversed(inner)


def list_folder(root: str | os.PathLike) -> Folder:
    """List the images in DIR/train/<class>/ and DIR/test/<class>/.

    Args:
      root: DIR, `data.manual_dir`.

    Raises:
      UserError: if DIR has another layout, or most files of a class would be left out.
    """
    root, left_out = Path(root), LeftOut()
    if not root.is_dir():
        raise UserError(f"data.manual_dir={root} is not a folder; it must hold train/<class>/*.png")
    known, others = _splits(root)
    if "train" not in known:
        raise UserError(_no_train(root))
    held_out = [name for name in HELD_OUT if name in known]
    if len(held_out) > 1 and held_out[0] != "test":
        raise UserError(
            f"{known[held_out[0]]} and {known[held_out[1]]}: only one folder can be the held-out "
            "images; call that one 'test'"
        )
    for path in [known[name] for name in held_out[1:]] + others:
        if path.is_dir() and not is_hidden(path.name):
            left_out.files[BESIDE.format(known["train"].name)].append(path)
        else:
            _file_loose(path, left_out)
    splits = {"train": list_classes(known["train"], left_out)}
    if held_out:
        splits["test"] = list_classes(known[held_out[0]], left_out)
    return Folder(splits, known[held_out[0]] if held_out else None, left_out)


def _splits(root: Path) -> tuple[dict[str, Path], list[Path]]:
    """({lower-case name: folder} of the splits, the other entries)."""
    known: dict[str, Path] = {}
    others = []
    for path in entries(root):
        name = path.name.lower()
        if name not in ("train", *HELD_OUT) or not path.is_dir():
            others.append(path)
        elif name in known:
            raise UserError(f"{known[name]} and {path} differ in case only; rename one of them")
        else:
            known[name] = path
    return known, others


def _no_train(root: Path) -> str:
    inside = [p for p in entries(root) if not is_hidden(p.name)]
    folders = [p for p in inside if p.is_dir()]
    inner = [p for p in folders if "train" in {q.name.lower() for q in entries(p) if q.is_dir()}]
    if inner:
        do = f"set it to {inner[0]}"
    elif any(is_image(q) for p in folders for q in entries(p)):
        do = f"move the class folders into {root / 'train'}"
    else:
        do = "it must hold train/<class>/*.png, and may hold test/<class>/*.png"
    names = [p.name + "/" * p.is_dir() for p in inside]
    there = ", ".join(names[:5]) + f" and {len(names) - 5} more" * (len(names) > 5)
    return f"data.manual_dir={root} has no folder 'train' (it holds {there or 'nothing'}); {do}"


def _file_loose(path: Path, left_out: LeftOut) -> None:
    if is_image(path):
        left_out.files[LOOSE].append(path)
    else:
        left_out.add(path)


def list_classes(directory: Path, left_out: LeftOut) -> list[tuple[Path, str]]:
    """List the images in the class folders of a split.

    Args:
      directory: the folder of a split.
      left_out: receives the files that are not read.

    Returns:
      (file, class name) of each image, sorted by class, then file.

    Raises:
      UserError: if there is no class, a class has no image, or most files of a class would be left
        out.
    """
    folders, loose = {}, 0
    for path in entries(directory):
        if path.is_dir() and not is_hidden(path.name):
            name = _class_name(path)
            if name in folders:
                raise UserError(
                    f"{directory} has two folders of the name {name!r}, with accents written in "
                    "two ways; rename one or put their images together"
                )
            folders[name] = path
        else:
            loose += is_image(path)
            _file_loose(path, left_out)
    if not folders:
        beside = f" (images outside any: {loose})" if loose else ""
        raise UserError(
            f"{directory} has no class folder{beside}; it must hold a folder for each class, with "
            f"its images: {directory.name}/<class>/*.png"
        )
    listed = []
    for name, folder in sorted(folders.items()):
        listed += [(file, name) for file in _list_class(folder, left_out)]
    if loose > len(listed):
        raise UserError(
            f"{directory} has {loose} images outside class folders and {len(listed)} inside; put "
            f"each into the folder of its class: {directory.name}/<class>/*.png"
        )
    return listed


def _class_name(folder: Path) -> str:
    """A folder's name with composed accents, so that train/ and test/ agree."""
    try:
        folder.name.encode()
    except UnicodeEncodeError:
        raise UserError(f"{os.fsencode(folder)!r}: a class's name must be UTF-8; rename it") from (
            None
        )
    name = unicodedata.normalize("NFC", folder.name)
    if name != name.strip() or "\n" in name or "\r" in name:
        raise UserError(
            f"{str(folder)!r}: a class's name must have no line break, and no blank at its ends; "
            "rename the folder"
        )
    return name


def _list_class(folder: Path, left_out: LeftOut) -> list[Path]:
    listed, mine, nested = [], LeftOut(), []
    for path in entries(folder):
        if path.is_dir() and not is_hidden(path.name):
            for inner in walk(path):
                if is_image(inner):
                    mine.files[NESTED].append(inner)
                    nested.append(path.name)
                else:
                    mine.add(inner)
        elif is_image(path):
            listed.append(path)
        else:
            mine.add(path)
    lost = sum(len(mine.files.get(reason, ())) for reason in (TYPE, LINK, NESTED))
    if len(nested) > len(listed):
        first = nested[0]
        raise UserError(
            f"{folder} is nested: {len(nested)} of its {len(nested) + len(listed)} images are in "
            f"sub-folders ({', '.join(sorted(set(nested))[:3])}); a class is one folder of images, "
            f"so make {folder.name}/{first} a class of its own ({folder.parent.name}/"
            f"{folder.name}-{first}/) or move its images into {folder}"
        )
    if not listed or lost > len(listed):
        said = f"{lost} of {lost + len(listed)} files would be left out" if lost else "no image"
        raise UserError(
            f"{folder}: {said}{mine}; convert them to a type that is read, with its suffix (.png, "
            ".jpg, .webp, .tif, …), or remove them or the folder"
        )
    for reason, paths in mine.files.items():
        left_out.files[reason] += paths
    return listed


def account(
    root: Path,
    splits: Mapping[str, Sequence[tuple[Path, str]]],
    names: Mapping[str, str],
    left_out: LeftOut,
) -> str:
    """A line with the number of images per class, and the files left out.

    Args:
      root: the folder.
      splits: split -> (file, class name) of its images.
      names: split -> its name in the line.
      left_out: the files that are not read.
    """
    parts = []
    for split, pairs in splits.items():
        counts = Counter(class_name for _, class_name in pairs)
        if len(counts) <= _SHOWN_CLASSES:
            said = ", ".join(f"{name} {n}" for name, n in sorted(counts.items()))
        else:
            few, many = min(counts, key=counts.__getitem__), max(counts, key=counts.__getitem__)
            said = (
                f"{len(counts)} classes of {counts[few]} ({few}) to {counts[many]} ({many}) images"
            )
        parts.append(f"{names[split]}: {said}")
    return one_line(f"images read from {root}: {'; '.join(parts)}{left_out}")


def one_line(text: str) -> str:
    """Replace line breaks, which file names may have, by spaces."""
    return " ".join(text.split())
