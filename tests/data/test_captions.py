import json

import numpy as np
import pytest
from PIL import Image

from vdu_jax.data import load, open_split
from vdu_jax.data.captions import METADATA, mentions, of_classes, of_folder
from vdu_jax.errors import UserError


@pytest.mark.parametrize(
    ("text", "phrase", "found"),
    [
        ("a red shoe", "red", True),
        ("Red!", "red", True),
        ("a bored man", "red", False),
        ("a t-shirt", "shirt", False),
        ("a shirt, blue", "shirt", True),
        ("an ankle boot", "ankle boot", True),
        ("a (red) shoe", "(red)", True),
    ],
)
def test_a_phrase_is_found_as_whole_words(text, phrase, found):
    assert mentions(text, phrase) == found


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

    def write(*lines):
        path = tmp_path / METADATA
        path.write_text("\n".join(x if isinstance(x, str) else json.dumps(x) for x in lines))
        return tmp_path

    return write


def test_captions_of_a_folder(folder):
    directory = folder(
        {"file_name": "b.png", "text": "a light one"}, "", {"file_name": "a.png", "text": "dark"}
    )
    found = of_folder(directory, image_size=4)
    assert found.captions == ("a light one", "dark") and found.image_shape == (4, 4, 3)
    assert found.read(np.array([1, 0])).mean((1, 2, 3)).tolist() == [10, 200]


@pytest.mark.parametrize(
    ("lines", "said"),
    [
        ([], "names no image"),
        (["{"], "line 1 is no JSON"),
        (['["a.png", "dark"]'], 'line 1: it must have "file_name"'),
        (["", {"file_name": "a.png"}], 'line 2: it must have "file_name"'),
        ([{"file_name": "a.png", "text": " "}], "both of them text"),
        ([{"file_name": "c.png", "text": "none"}], "c.png is not there"),
        ([{"file_name": "a.png", "text": "one"}] * 2, "line 2"),
    ],
)
def test_a_bad_line_is_named(folder, lines, said):
    with pytest.raises(UserError) as error:
        of_folder(folder(*lines), 4)
    assert said in str(error.value) and "\n" not in str(error.value)


def test_a_folder_without_captions_is_refused(tmp_path):
    with pytest.raises(UserError, match="is not there: write a line of JSON"):
        of_folder(tmp_path, 4)
