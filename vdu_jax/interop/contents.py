"""Detect the type of a file by its first bytes, for files whose contents do not fit their names."""

import json
from pathlib import Path
from typing import NamedTuple

HEAD = 4096  # bytes that are read


class Contents(NamedTuple):
    """Type of a file.

    Attributes:
      kind: short name: "empty", "lfs", "html", "json", "safetensors", "pickle", "zip", ….
      what: the same in words, for an error message.
      do: remedy for a user who needs weights.
    """

    kind: str
    what: str
    do: str


AGAIN = "get the file again"
EMPTY = Contents("empty", "an empty file", AGAIN)
LFS = Contents(
    "lfs",
    "a Git LFS pointer, which stands for a file that was not fetched",
    "run `git lfs pull` in its repository, or download the file itself",
)
HTML = Contents(
    "html",
    "an HTML page, as a download of a wrong address leaves",
    "download the file itself (on the Hugging Face Hub its address has /resolve/, not /blob/)",
)
JSON = Contents("json", "a JSON file, which holds no tensors", "name the file with the weights")
SAFETENSORS = Contents("safetensors", "a safetensors file", "it is read as it is")
# First bytes of other files.
MAGIC = (
    (b"\x80", Contents("pickle", "a pickle", "use `vdu convert`")),
    (b"PK\x03\x04", Contents("zip", "a zip archive", "unpack it")),
    (b"\x1f\x8b", Contents("gzip", "a gzip archive", "unpack it")),
    (b"GGUF", Contents("gguf", "a GGUF file", "get the weights as safetensors")),
    (b"\x89HDF", Contents("hdf5", "an HDF5 file", "get the weights as safetensors")),
    (b"\x93NUMPY", Contents("numpy", "a NumPy array", "get the weights as safetensors")),
    (b"\x89PNG", Contents("png", "a PNG image", "name the file with the weights")),
    (b"\xff\xd8\xff", Contents("jpeg", "a JPEG image", "name the file with the weights")),
)


def look(path: Path) -> Contents | None:
    """Detect the type of a file.

    Args:
      path: the file.

    Returns:
      Its type; None if it is unknown.

    Raises:
      OSError: if the file cannot be read.
    """
    with open(path, "rb") as file:
        head = file.read(HEAD)
    text = head.lstrip(b"\xef\xbb\xbf \t\r\n")
    if not head:
        return EMPTY
    if head.startswith((b"version https://git-lfs", b"# xet version")):
        return LFS
    if text[:15].lower().startswith((b"<!doctype html", b"<html", b"<head", b"<?xml")):
        return HTML
    if len(head) > 8 and head[8:9] == b"{" and int.from_bytes(head[:8], "little") < 2**40:
        return SAFETENSORS
    if text[:1] in (b"{", b"[") and _is_json(path, head):
        return JSON
    if head[257:262] == b"ustar":
        return Contents("tar", "a tar archive", "unpack it")
    return next((content for magic, content in MAGIC if head.startswith(magic)), None)


def _is_json(path: Path, head: bytes) -> bool:
    if len(head) == HEAD:  # a long file is not parsed: its head has to do
        return b"\0" not in head
    try:
        json.loads(Path(path).read_bytes())
    except (ValueError, RecursionError):
        return False
    return True


def explain(path: Path) -> str:
    """Type and remedy, for an error, of a file that holds no weights; "" if it is unknown."""
    content = look(path)
    return f"{content.what}: {content.do}" if content and content.kind != "safetensors" else ""
