import json

import numpy as np
import pytest
from PIL import Image

from vdu_jax.data import load, open_split
from vdu_jax.data.captions import check_images, metadata_file, of_classes, of_folder
from vdu_jax.data.phrases import mentions
from vdu_jax.errors import UserError


def test_captions_of_classes(tmp_path, archives):
    archives.write_idx_set(tmp_path / "manual", n_train=600)
    dataset = load("tinted_fashion", tmp_path / "data", tmp_path / "manual")
    source = open_split(dataset, "train")
    templates, synonyms = ("a {}", "this is a {}"), {"red": "crimson"}
    found = of_classes(source, dataset.class_names, templates, synonyms, seed=3)
    assert len(found) == 600 and found.image_shape == (32, 32, 3)
    names = [dataset.class_names[label] for label in source.labels]
    for caption, name in zip(found.captions, names, strict=True):
        assert caption.removeprefix("this is ").removeprefix("a ") in (
            name, name.replace("red ", "crimson ")
        )  # fmt: skip
    shares = [np.mean([mentions(c, word) for c in found.captions]) for word in ("this", "crimson")]
    assert 0.44 < shares[0] < 0.56  # 3 standard errors
    red = np.mean(["red " in name for name in names])
    assert 0.1 * red < shares[1] < 0.3 * red
    again = of_classes(source, dataset.class_names, templates, synonyms, seed=3)
    assert again.captions == found.captions
    part = found.subset(np.array([5, 2]))
    assert part.captions == (found.captions[5], found.captions[2])
    np.testing.assert_array_equal(part.read(np.array([1])), source.read([2])[0])
    with pytest.raises(UserError, match="'a cat'"):
        of_classes(source, dataset.class_names, ("a cat",), {}, 0)


@pytest.fixture
def folder(tmp_path):
    """Two images, and a function that writes their metadata."""
    for name, level in (("a.png", 10), ("b.png", 200)):
        Image.fromarray(np.full((6, 8, 3), level, np.uint8)).save(tmp_path / name)

    def write(*lines, name="metadata.jsonl", encoding="utf-8", newline="\n"):
        text = newline.join(x if isinstance(x, str) else json.dumps(x) for x in lines)
        (tmp_path / name).write_bytes(text.encode(encoding))
        return tmp_path

    return write


def row(name, text):
    return {"file_name": name, "text": text}


def test_captions_of_a_folder(folder):
    directory = folder(row("b.png", "a light one"), "", row("a.png", "dark"))
    found = of_folder(directory, image_size=4)
    assert found.captions == ("a light one", "dark") and found.image_shape == (4, 4, 3)
    assert found.read(np.array([1, 0])).mean((1, 2, 3)).tolist() == [10, 200]
    assert found.account == f"images read from {directory / 'metadata.jsonl'}: 2"


@pytest.mark.parametrize(
    "changes",
    [
        {"encoding": "utf-8-sig"},
        {"encoding": "utf-16"},
        {"newline": "\r\n"},
    ],
)
@pytest.mark.parametrize("name", ["metadata.jsonl", "metadata.csv"])
def test_metadata_as_other_tools_write_it(folder, changes, name):
    """Byte order marks, Windows' line ends; and within a caption what looks like a line's end."""
    light, dark = "é, a \u2028 light\x85\x0b one", 'dark "or not"'
    lines = [json.dumps(row(*x), ensure_ascii=False) for x in (("a.png", dark), ("b.png", light))]
    if name == "metadata.csv":
        lines = ["text,file_name,more", f'"{light}",b.png,', '"dark ""or not""", a.png, 3']
    found = of_folder(folder(*lines, name=name, **changes), 4)
    assert sorted(found.captions) == sorted((light, dark))
    levels = found.read(np.arange(2)).mean((1, 2, 3))
    assert dict(zip(found.captions, levels, strict=True)) == {light: 200, dark: 10}


def test_a_line_break_within_a_value_of_csv(folder):
    found = of_folder(folder("file_name,text", '"a.png","one\ntwo"', name="metadata.csv"), 4)
    assert found.captions == ("one\ntwo",)
    with pytest.raises(UserError, match=r"metadata.csv: line 4: .*c\.png does not exist"):
        lines = ["file_name,text", '"a.png","one\ntwo"', "c.png,x"]
        of_folder(folder(*lines, name="metadata.csv"), 4)


@pytest.mark.parametrize(
    "name", ["./b.png", "x/../b.png", ".\\b.png", "sub\\c.png", "./sub//c.png", "A\u0308.png"]
)
def test_names_as_other_systems_write_them(folder, tmp_path, name):
    (tmp_path / "sub").mkdir()
    for other in ("sub/c.png", "\u00c4.png"):
        (tmp_path / other).write_bytes((tmp_path / "b.png").read_bytes())
    found = of_folder(folder(row(name, "light"), row("a.png", "dark")), 4)
    assert found.read(np.arange(2)).mean((1, 2, 3)).tolist() == [200, 10]


def test_a_file_is_one_however_it_is_named(folder):
    """Named twice it counts once; with two captions it is refused."""
    found = of_folder(folder(row("a.png", "dark"), row("./a.png", "dark")), 4)
    assert found.captions == ("dark",)
    assert "metadata.jsonl: 1; repeated lines: 1; left out:" in found.account
    with pytest.raises(UserError, match=r"line 2: .*a\.png has another caption in line 1"):
        of_folder(folder(row("a.png", "dark"), row(".\\a.png", "light")), 4)


def test_files_without_a_line_are_said(folder, tmp_path):
    for name in ("sub/c.png", ".DS_Store", "notes.txt", "film.mp4"):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_bytes(b"x")
    (tmp_path / "d.png").symlink_to("nothing")
    account = of_folder(folder(row("a.png", "dark")), 4).account
    for said in (
        "metadata.jsonl: 1; left out: ",
        f"images without a line: 2, e.g. {tmp_path / 'b.png'}",
        "hidden or written by the system: 1",
        "text beside the images: 1",
        "broken link or not a regular file: 1",
        "unsupported type (1 .mp4): 1",
    ):
        assert said in account, said


def test_another_column_may_hold_the_captions(folder):
    lines = [{"file_name": "a.png", "caption": "dark", "additional": 3}]
    assert of_folder(folder(*lines), 4, column="caption").captions == ("dark",)
    said = r'line 1 has no "text", but file_name, caption, additional; set data\.caption_column'
    with pytest.raises(UserError, match=said):
        of_folder(folder(*lines), 4)
    with pytest.raises(
        UserError, match='no "file_name", but image, text; rename the column with the file names'
    ):
        of_folder(folder({"image": "a.png", "text": "dark"}), 4)


@pytest.mark.parametrize(
    ("lines", "said"),
    [
        ([], "names no image"),
        (["{"], "line 1 is not JSON"),
        (["[" * 100_000], "line 1 is not JSON"),
        (["[", "  {}", "]"], "line 1 is not JSON"),
        (['["a.png", "dark"]'], "line 1 is not a JSON object"),
        (["", {"file_name": "a.png"}], 'line 2 has no "text", but file_name'),
        (["{}"], "but nothing"),
        (['{"file_name": "a.png", "text": "a", "text": "b"}'], "line 1 has a key twice"),
        ([row("a.png", " ")], "\"text\" = ' ': must be text, and not empty"),
        ([row("a.png", 3)], '"text" = 3: must be text'),
        ([row("a.png", ["one", "two"])], "must be text"),
        ([row("a.png", None)], '"text" = None'),
        (['{"file_name": "a.png", "text": "\\ud800"}'], "is not valid text"),
        ([row("c.png", "none")], "line 1: "),
        ([row("c.png", "none")], "c.png does not exist"),
        ([row("A.png", "none")], "a.png does; add the image, or correct"),
        ([row("a.png\0", "none")], "does not exist"),
        ([row("a" * 5000, "none")], "does not exist"),
        ([row("..", "none")], "does not exist"),
        ([row("a.png", "one"), row("a.png", "two")], "line 2"),
    ],
)
def test_a_bad_line_is_named(folder, lines, said):
    with pytest.raises(UserError) as error:
        of_folder(folder(*lines), 4)
    assert said in str(error.value) and "\n" not in str(error.value)


@pytest.mark.parametrize(
    ("lines", "said"),
    [
        (["file_name;text", "a.png;dark"], 'line 2 has no "file_name", but file_name;text'),
        (["file_name,text", "a.png,dark, and more"], "line 2 has 3 values, and the header 2"),
        (["file_name,text", "a.png"], "line 2 has 1 values"),
        (["file_name,text,text", "a.png,a,b"], "line 1: two columns have the same name"),
        (["file_name,text", '"a.png,dark'], "line 2 is not CSV"),
        (["file_name,text", f"a.png,{'x' * 200_000}"], "line 2 is not CSV"),
        (["file_name,text", "a.png, "], "must be text, and not empty"),
        (["file_name,text"], "names no image"),
        ([""], "names no image"),
    ],
)
def test_a_bad_line_of_csv_is_named(folder, lines, said):
    with pytest.raises(UserError) as error:
        of_folder(folder(*lines, name="metadata.csv"), 4)
    assert said in str(error.value) and "\n" not in str(error.value)


def test_bytes_that_are_no_text(folder, tmp_path):
    (tmp_path / "metadata.jsonl").write_bytes(b'{"file_name": "a.png", "text": "caf\xe9"}')
    with pytest.raises(UserError, match=r"is not UTF-8 \(.* at byte 35\); save it as UTF-8"):
        of_folder(tmp_path, 4)


@pytest.mark.parametrize(
    ("names", "said"),
    [
        ([], "metadata.jsonl does not exist: write one line of JSON"),
        (["train/metadata.csv"], "train/metadata.csv does: set data.manual_dir to .*train"),
        (["metadata.parquet"], "convert metadata.parquet to metadata.jsonl or metadata.csv"),
        (["metadata.json"], "convert metadata.json to metadata.jsonl or"),
        (["metadata.jsonl", "metadata.csv"], "both exist; remove one"),
    ],
)
def test_a_folder_without_its_captions_is_refused(tmp_path, archives, names, said):
    archives.write_tree(tmp_path, dict.fromkeys(names, b""))
    for call in (metadata_file, lambda path: of_folder(path, 4)):
        with pytest.raises(UserError, match=said):
            call(tmp_path)
    with pytest.raises(UserError, match="is not a folder"):
        of_folder(tmp_path / "nothing", 4)


def test_images_are_checked_before_they_are_needed(folder, tmp_path):
    hidden = Image.new("RGBA", (8, 8), (255, 0, 0, 0))
    for name in ("c.png", "d.png"):
        hidden.save(tmp_path / name)
    directory = folder(*(row(name, name) for name in ("a.png", "c.png", "b.png", "d.png")))
    with pytest.raises(UserError, match=r"c\.png has transparent pixels.*after it 1 are refused"):
        list(check_images(of_folder(directory, 4)))
    found = of_folder(directory, 4, background="black")
    assert list(check_images(found)) == [0, 1, 2, 3]
    assert found.read(np.array([1])).max() == 0
