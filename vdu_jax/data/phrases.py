"""Search for a phrase in a caption, whatever the spelling: pure functions of texts."""

import functools
import re
import sys
import unicodedata
from collections.abc import Iterator

# Scripts that write no space between words, and Hangul, which writes particles onto them.
_UNSPACED = (
    "\u0e00-\u0eff"  # Thai, Lao
    "\u0f00-\u109f"  # Tibetan, Myanmar
    "\u1100-\u11ff\uac00-\ud7ff"  # Hangul
    "\u1780-\u17ff\u1950-\u1aaf\u1b00-\u1b7f\ua980-\ua9df"  # Khmer, Tai, Balinese, Javanese
    "\u2e80-\u2fdf\u3005-\u3007\u3021-\u3029\u3038-\u303b"  # Han
    "\u3040-\u312f\u31a0-\u31bf\u31f0-\u31ff"  # Hiragana, Katakana, Bopomofo
    "\u3400-\u4dbf\u4e00-\ua4cf\uf900-\ufaff\U00020000-\U0003ffff"  # Han, Yi
)
_IS_UNSPACED = re.compile(f"[{_UNSPACED}]")
_SPACE_WITHIN = re.compile(f"(?<=[{_UNSPACED}]) (?=[{_UNSPACED}])")


@functools.cache
def _replacements() -> dict[int, str]:
    """Code point -> its replacement in a folded text."""
    invisible = [c for c in range(sys.maxunicode + 1) if unicodedata.category(chr(c)) == "Cf"]
    table = dict.fromkeys([*invisible, *range(0xFE00, 0xFE10), *range(0xE0100, 0xE01F0)], "")
    table |= dict.fromkeys(map(ord, "_\u200b"), " ")  # zero-width space: a break between words
    table |= dict.fromkeys(map(ord, "\u2010\u2011\u2212\u058a\u05be\u30a0"), "-")
    table |= dict.fromkeys(map(ord, "\u2018\u2019\u02bc"), "'")
    table[ord("ı")] = "i"
    return table


@functools.lru_cache(maxsize=2**16)
def fold(text: str) -> str:
    """Normalise a text for comparison.

    Composed and decomposed accents, full-width and narrow letters, upper and lower case, and all
    kinds of hyphens and apostrophes become the same. White space and "_" become one space.
    Invisible characters are removed, and so are spaces within a script that writes none.

    Args:
      text: any text.
    """
    text = unicodedata.normalize("NFKC", text).casefold().replace("i\u0307", "i")
    text = unicodedata.normalize("NFKC", text).translate(_replacements())
    return _SPACE_WITHIN.sub("", " ".join(text.split()))


def mentions(text: str, phrase: str) -> bool:
    """Whether a text contains a phrase as whole words; "t-shirt" does not contain "shirt".

    Both are normalised by `fold`, and a space equals a hyphen within the phrase. Words have no
    borders in a script without spaces, so "红色" contains "红".

    Args:
      text: e.g. a caption.
      phrase: one or more words.
    """
    folded = fold(text)
    return any(
        not _joined(folded, start, -1) and not _joined(folded, end - 1, +1)
        for start, end in _places(folded, fold(phrase))
    )


def contains(text: str, phrase: str) -> bool:
    """Whether a text contains a phrase, also as a part of longer words; see `mentions`."""
    return any(True for _ in _places(fold(text), fold(phrase)))


def _places(text: str, phrase: str) -> Iterator[tuple[int, int]]:
    """(start, end) of every occurrence of a folded phrase in a folded text."""
    for match in _pattern(phrase).finditer(text):
        yield match.span(1)


@functools.lru_cache(maxsize=1024)
def _pattern(phrase: str) -> re.Pattern:
    last = len(phrase) - 1
    inner = (
        "(?: ?- ?| )" if c in " -" and 0 < i < last else re.escape(c) for i, c in enumerate(phrase)
    )
    return re.compile(f"(?=({''.join(inner)}))")  # a look-ahead also finds overlapping places


def _joined(text: str, place: int, step: int) -> bool:
    """Whether the character at `place` and its neighbour in direction `step` are of one word."""
    beyond = place + step
    if not 0 <= beyond < len(text):
        return False
    if step > 0 and _is_mark(text[beyond]):
        return True  # an accent or vowel of this letter
    if text[beyond] == "-":  # a hyphen joins two words; at a word's end it joins nothing
        beyond += step
        if not 0 <= beyond < len(text):
            return False
    pair = text[place], text[beyond]
    return all((c.isalnum() or _is_mark(c)) and not _IS_UNSPACED.match(c) for c in pair)


def _is_mark(character: str) -> bool:
    return unicodedata.category(character)[0] == "M"
