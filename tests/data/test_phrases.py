"""When a caption has a phrase: what must be found, and what must not."""

import unicodedata

import pytest

from vdu_jax.data.phrases import contains, fold, mentions

FOUND = [
    ("a red shoe", "red"),
    ("Red!", "red"),
    ("a shirt, blue", "shirt"),
    ("an ankle boot", "ankle boot"),
    ("a (red) shoe", "(red)"),
    ("see(red)shoe", "(red)"),
    # letters written in several ways
    ("ein großer Hund", "GROSSER"),
    ("İstanbul", "istanbul"),
    ("a ＲＥＤ shoe", "red"),
    ("a \U0001d411\U0001d404\U0001d403 shoe", "red"),  # bold letters of mathematics
    ("so\u00adft red\u200d\ufeff", "soft red"),
    ("a ❤\ufe0f shirt", "❤"),
    ("women’s shoe", "women's"),
    # white space
    ("an  ankle\t boot", "ankle boot"),
    ("an ankle\u00a0boot", "ankle boot"),
    ("an ankle\nboot", "ankle\u3000boot "),
    ("a red\u200bshoe", "red"),
    ("red_shoe", "red shoe"),
    # hyphens
    ("an ankle-boot", "ankle boot"),
    ("an ankle\u2011boot", "ankle-boot"),
    ("a t shirt", "t-shirt"),
    ("red- and blue-striped", "red"),
    ("shoe -red", "red"),
    ("a red\u2013blue shoe", "red"),
    # scripts without spaces
    ("一只红色的猫", "红色"),
    ("一 只 红 色 的 猫", "红色"),
    ("赤い靴を履いた人", "赤い靴"),
    ("ﾀﾞﾝｽする人", "ダンス"),
    ("แมวสีแดงตัวใหญ่", "สีแดง"),
    ("고양이가 앉아 있다", "고양이"),
    ("红red色的T恤", "red"),
    ("T恤", "t"),
]
NOT_FOUND = [
    ("a bored man", "red"),
    ("a t-shirt", "shirt"),
    ("a t\u2010shirt", "shirt"),
    ("a red-haired man", "red"),
    ("a cafe\u0301 table", "cafe"),
    ("a red\u0302 shoe", "red"),
    ("काला जूता", "काल"),  # the vowel sign belongs to the letter before it
    ("กำ", "กา"),
    ("กินข้าว", "ก"),
    ("一只猫", "红色"),
]


@pytest.mark.parametrize(("text", "phrase"), FOUND)
@pytest.mark.parametrize("form", ["NFC", "NFD"])
def test_a_phrase_is_found(text, phrase, form):
    other = "NFD" if form == "NFC" else "NFC"
    assert mentions(unicodedata.normalize(form, text), unicodedata.normalize(other, phrase))
    assert contains(text, phrase)


@pytest.mark.parametrize(("text", "phrase"), NOT_FOUND)
def test_a_part_of_a_word_is_not_the_phrase(text, phrase):
    assert not mentions(text, phrase)


def test_accents_are_letters_of_their_own():
    assert mentions("un cafe\u0301", "café") and not mentions("un cafe", "café")


def test_a_later_whole_word_is_found_behind_a_part_of_one():
    assert mentions("a redred bored red shoe", "red") and mentions("x aa aa aa", "aa aa")


def test_a_phrase_within_a_longer_word_is_contained():
    assert contains("two t-shirts", "shirt") and contains("a bored man", "red")
    assert not contains("a blue man", "red")


@pytest.mark.parametrize("text", ["", " ", "\u200b", "\u00ad", "_", "\ufe0f"])
def test_nothing_is_left_of_what_cannot_be_seen(text):
    assert fold(text) == ""
