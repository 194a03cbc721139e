"""CLIP's tokenizer. It is compared with that of transformers in tests/parity."""

import json

import numpy as np
import pytest
import text_to_image

from vdu_jax.errors import UserError
from vdu_jax.interop import tokenizer

VOCABULARY = text_to_image.vocabulary()
START, END = VOCABULARY[tokenizer.START], VOCABULARY[tokenizer.END]


@pytest.fixture
def directory(tmp_path):
    text_to_image.write_tokenizer(tmp_path)
    return tmp_path


def numbers(*tokens):
    return [VOCABULARY[token] for token in tokens]


def test_words_are_merged_and_prompts_padded(directory):
    tokenize = tokenizer.load(directory, 9)
    found = tokenize(["a red shoe", ""])
    assert found.dtype == np.int32
    expected = [START, *numbers("a</w>", "red</w>", "shoe</w>"), END, END, END, END, END]
    np.testing.assert_array_equal(found, [expected, [START] + [END] * 8])


def test_case_and_spaces_do_not_count_and_digits_stand_alone(directory):
    tokenize = tokenizer.load(directory, 12)
    np.testing.assert_array_equal(tokenize(["  A\t\nRED  shoe "]), tokenize(["a red shoe"]))
    (found,) = tokenize(["42 bag's"])
    expected = numbers("4</w>", "2</w>", "bag</w>", "'", "s</w>")
    assert found[1:6].tolist() == expected


def test_a_long_prompt_is_cut_and_still_ends(directory):
    (found,) = tokenizer.load(directory, 5)(["red bag shoe the red"])
    assert found.tolist() == [START, *numbers("red</w>", "bag</w>", "shoe</w>"), END]


def test_what_is_padded_with_is_the_files_choice(directory):
    text_to_image.write_tokenizer(directory, pad_token="!")
    (found,) = tokenizer.load(directory, 6)(["red"])
    assert found.tolist() == [START, *numbers("red</w>"), END, *numbers("!", "!", "!")]


def change(name, text):
    def do(directory):
        (directory / name).write_text(text)

    return do


@pytest.mark.parametrize(
    ("damage", "said"),
    [
        (lambda d: (d / "vocab.json").unlink(), r"vocab\.json cannot be read as JSON"),
        (lambda d: (d / "merges.txt").unlink(), r"merges\.txt cannot be read"),
        (change("vocab.json", "[]"), r"vocab\.json holds no JSON object"),
        (change("vocab.json", json.dumps({"a": 0})), r"has no token <\|startoftext\|>"),
        (change("merges.txt", "r e d"), r"merges\.txt: merge 1 is no pair of tokens: 'r e d'"),
        (change("merges.txt", "q q"), r"vocab\.json and merges\.txt do not fit"),
        (change("special_tokens_map.json", '{"pad_token": "??"}'), r"pad_token = '\?\?' is no"),
    ],
)
def test_damaged_files_are_named(directory, damage, said):
    damage(directory)
    with pytest.raises(UserError, match=said):
        tokenizer.load(directory)
