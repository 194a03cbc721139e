"""What is read of a folder of images, and what is said of the rest."""

import os
import unicodedata

import numpy as np
import pytest

from vdu_jax.data import folders
from vdu_jax.data.images import SUFFIXES
from vdu_jax.errors import UserError


@pytest.fixture
def tree(tmp_path, archives):
    """`tree(*names)`: a folder with these files; those with an image's suffix hold one."""
    image = archives.png(np.zeros((4, 4, 3), np.uint8))

    def write(*names):
        root = tmp_path / "mine"
        archives.write_tree(root, {n: image if n[-4:] in (".png", ".PNG") else b"x" for n in names})
        return root

    return write


def listed(root):
    found = folders.list_folder(root)
    names = {
        split: [(str(file.relative_to(root)), name) for file, name in pairs]
        for split, pairs in found.splits.items()
    }
    return names, found.held_out, str(found.left_out)


def test_each_class_by_name_then_file(tree):
    root = tree("train/cat/2.png", "train/cat/1.PNG", "train/ant/3.png", "test/ant/4.png")
    names, held_out, left = listed(root)
    assert names["train"] == [
        ("train/ant/3.png", "ant"), ("train/cat/1.PNG", "cat"), ("train/cat/2.png", "cat"),
    ]  # fmt: skip
    assert names["test"] == [("test/ant/4.png", "ant")]
    assert held_out == root / "test" and left == ""


@pytest.mark.parametrize("suffix", sorted(SUFFIXES))
def test_every_type_that_pillow_reads_is_an_image(tree, suffix):
    root = tree(f"train/a/x{suffix}", f"train/a/y{suffix.upper()}", "train/b/z.png")
    assert len(listed(root)[0]["train"]) == 3


@pytest.mark.parametrize("name", ["val", "valid", "validation", "Val", "test"])
def test_the_held_out_images_may_have_another_name(tree, name):
    names, held_out, _ = listed(tree("Train/a/x.png", f"{name}/a/y.png"))
    assert held_out.name == name and names["test"] == [(f"{name}/a/y.png", "a")]


def test_of_validation_and_test_images_the_test_images_are_held_out(tree):
    names, held_out, left = listed(tree("train/a/x.png", "val/a/y.png", "test/a/z.png"))
    assert held_out.name == "test" and len(names["test"]) == 1
    assert "a folder beside train: 1, e.g." in left and "mine/val" in left


@pytest.mark.parametrize(
    ("names", "reason"),
    [
        (["train/a/1.heic"], "unsupported type (1 .heic): 1, e.g."),
        (["train/a/1"], "(1 no suffix)"),
        (["train/a/.DS_Store"], "hidden or written by the system: 1, e.g."),
        (
            ["train/a/._0.png", "train/Thumbs.db", ".hidden/x.png", "__MACOSX/x"],
            "hidden or written by the system: 4, e.g.",
        ),
        (["train/a/0.txt", "train/a/0.json", "README.md"], "text beside the images: 3, e.g."),
        (["train/a/more/1.png"], "in a sub-folder of a class: 1, e.g."),
        (["train/a/more/deep/1.heic", "train/a/more/.x"], "(1 .heic): 1, e.g."),
        (["1.png", "train/2.png"], "outside class folders: 2, e.g."),
        (["extra/1.png"], "a folder beside train: 1, e.g."),
    ],
)
def test_what_is_left_out_is_said(tree, names, reason):
    root = tree(*(f"train/a/{i}.png" for i in range(3)), *names)
    found, _, left = listed(root)
    assert len(found["train"]) == 3 and left.startswith("; left out: ") and reason in left


def test_links_are_followed_or_counted(tree, tmp_path):
    root = tree("train/a/0.png", "train/a/1.png", "elsewhere/b/2.png")
    (root / "train/a/gone.png").symlink_to(root / "nothing.png")
    (root / "train/a/linked.png").symlink_to(root / "elsewhere/b/2.png")
    (root / "train/b").symlink_to(root / "elsewhere/b")
    (root / "train/a/loop").symlink_to(root / "train/a/loop")
    os.mkfifo(root / "train/a/pipe")
    found, _, left = listed(root)
    assert [name for name, _ in found["train"]] == [
        "train/a/0.png", "train/a/1.png", "train/a/linked.png", "train/b/2.png",
    ]  # fmt: skip
    assert "broken link or not a regular file: 3, e.g." in left


def test_a_folder_that_links_to_itself_ends(tree):
    root = tree("train/a/0.png", "train/a/more/x.txt")
    (root / "train/a/more/again").symlink_to(root / "train/a/more")
    assert "text beside the images: 1, e.g." in listed(root)[2]


@pytest.mark.parametrize(
    ("names", "said"),
    [
        (["train/oil/cat/1.png", "train/oil/dog/2.png", "train/ink/cat/3.png"],
         r"train/ink is nested: 1 of its 1 images are in sub-folders \(cat\).*train/ink-cat/"),
        (["train/a/0.png", "train/a/b/1.png", "train/a/b/2.png"], "2 of its 3 images are in sub"),
        (["train/a/0.png", "train/a/1.heic", "train/a/2.heic"], "2 of 3 files would be left out"),
        (["train/a/0.heic"], "1 of 1 files would be left out"),
        (["train/a/notes.txt"], "no image; left out: text beside the images: 1, e.g."),
        (["train/a/.DS_Store"], "no image; left out: hidden or written by the system: 1"),
        (["train/0.png"], r"train has no class folder \(images outside any: 1\)"),
        (["train/x.txt"], "train has no class folder; it must hold a folder for each class"),
        (["train/a/0.png", "train/1.png", "train/2.png"], "2 images outside class folders and 1"),
        (["train/a/0.png", "val/a/1.png", "valid/a/2.png"], "val and .*valid: only one.*'test'"),
        (["train/a/0.png", "Train/a/1.png"], "differ in case only"),
        (["train/a/0.png", "test/x.txt"], "test has no class folder"),
        (["cat/0.png", "dog/1.png"], r"no folder 'train' \(it holds cat/, dog/\); move the class"),
        (["mine2/train/a/0.png"], "set it to .*mine2"),
        (["0.png", "training/x.txt"], r"it holds 0.png, training/\); it must hold train/<class>"),
        (["train/ a/0.png"], "no blank at its ends"),
        (["train/a\nb/0.png"], "no line break"),
    ],
)  # fmt: skip
def test_folders_that_are_refused(tree, names, said):
    root = tree(*names)
    with pytest.raises(UserError, match=said) as error:
        folders.list_folder(root)
    assert "/mine" in str(error.value) and "\n" not in str(error.value)


def test_a_class_is_the_same_however_its_accents_are_written(tree):
    composed, decomposed = (unicodedata.normalize(form, "café") for form in ("NFC", "NFD"))
    root = tree(f"train/{decomposed}/0.png", f"test/{composed}/1.png")
    names, _, _ = listed(root)
    assert names["train"][0][1] == names["test"][0][1] == composed
    tree(f"train/{composed}/2.png")
    with pytest.raises(UserError, match="accents written in two ways"):
        folders.list_folder(root)


def test_a_name_that_is_no_text(tree):
    root = tree("train/a/0.png")
    os.rename(os.fsencode(root / "train/a/0.png"), os.fsencode(root / "train/a") + b"/\xff.png")
    assert len(folders.list_folder(root).splits["train"]) == 1
    os.rename(root / "train/a", os.fsencode(root / "train") + b"/\xff")
    with pytest.raises(UserError, match="must be UTF-8"):
        folders.list_folder(root)


def test_a_folder_that_cannot_be_read(tree, monkeypatch, tmp_path):
    root = tree("train/a/0.png")

    def refuse(path):
        raise PermissionError(13, "Permission denied", str(path))

    monkeypatch.setattr(folders.Path, "iterdir", refuse)
    with pytest.raises(UserError, match="cannot be read: Permission denied; check its path"):
        folders.list_folder(root)
    for path in (tmp_path / "nothing", root / "train/a/0.png"):
        with pytest.raises(UserError, match="is not a folder"):
            folders.list_folder(path)


def test_the_account_of_a_few_and_of_many_classes(tmp_path):
    pairs = [(None, "a")] * 2 + [(None, "b")]
    line = folders.account(tmp_path, {"train": pairs}, {"train": "train"}, folders.LeftOut())
    assert line == f"images read from {tmp_path}: train: a 2, b 1"
    pairs = [(None, f"c{i:02d}") for i in range(20) for _ in range(i + 1)]
    line = folders.account(tmp_path, {"train": pairs}, {"train": "train"}, folders.LeftOut())
    assert line.endswith("train: 20 classes of 1 (c00) to 20 (c19) images")
