"""CLIP's tokenizer. It is compared with that of transformers in tests/parity."""

import json

import numpy as np
import pytest
import text_to_image
import tokenizers

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


def test_one_file_does_as_well_as_two(directory):
    """As transformers 5 saves a tokenizer, with marks that it puts in and a length that it cuts."""
    two = tokenizer.load(directory, 7)
    made = tokenizer._of_two_files(directory)
    made.add_special_tokens([tokenizer.START, tokenizer.END])
    made.post_processor = tokenizers.processors.RobertaProcessing(
        (tokenizer.END, END), (tokenizer.START, START)
    )
    made.enable_truncation(4)
    made.enable_padding(length=9)
    made.save(str(directory / "tokenizer.json"))
    (directory / "vocab.json").unlink()
    (directory / "merges.txt").unlink()
    one = tokenizer.load(directory, 7)
    prompts = ["a red shoe", "", "the bag, the red bag and the shoe"]
    np.testing.assert_array_equal(one(prompts), two(prompts))
    (directory / "tokenizer.json").write_text("{}")
    with pytest.raises(UserError, match="its files are damaged"):
        tokenizer.load(directory)


def without(token):
    def do(directory):
        left = {k: v for k, v in VOCABULARY.items() if k != token}
        (directory / "vocab.json").write_text(json.dumps(left))

    return do


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
        (without("<|startoftext|>"), r"has no token <\|startoftext\|>"),
        (change("merges.txt", "r e d"), r"merges\.txt: merge 1 is no pair of tokens: 'r e d'"),
        (change("merges.txt", "q q"), r"its files are damaged or do not fit"),
        (change("special_tokens_map.json", '{"pad_token": "??"}'), r"has no token \?\?"),
    ],
)
def test_damaged_files_are_named(directory, damage, said):
    damage(directory)
    with pytest.raises(UserError, match=said):
        tokenizer.load(directory)


def test_a_tokenizer_of_ones_own_has_the_captions_words(tmp_path):
    captions = ["a red ankle boot", "a crimson t-shirt", "a red ankle boot"]
    learned = tokenizer.learn(captions)
    tokenizer.write(learned, tmp_path, 9)
    tokenize = tokenizer.load(tmp_path, 9)
    vocabulary = json.loads((tmp_path / "vocab.json").read_text())
    (found,) = tokenize(["A red ankle boot"])
    words = [vocabulary[f"{word}</w>"] for word in ("a", "red", "ankle", "boot")]
    start, end = vocabulary[tokenizer.START], vocabulary[tokenizer.END]
    assert found.tolist() == [start, *words, end, end, end, end]
    (other,) = tokenize(["crimson t-shirt"])
    assert other[1] == vocabulary["crimson</w>"] and (other[:6] != end).sum() == 5
    (spelled,) = tokenize(["red xy"])
    assert spelled[2:4].tolist() == [vocabulary["x"], vocabulary["y</w>"]]
    assert tokenizer.learn(captions[::-1]) == learned
