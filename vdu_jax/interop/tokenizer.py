"""CLIP's tokenizer: load it from a folder, or learn one; uses the library `tokenizers`."""

import itertools
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from types import ModuleType
from typing import TYPE_CHECKING, NamedTuple

import numpy as np

from vdu_jax.errors import UserError
from vdu_jax.interop import folder
from vdu_jax.runtime import artifacts

if TYPE_CHECKING:
    import tokenizers

START, END = "<|startoftext|>", "<|endoftext|>"
# Pieces in which byte pairs are merged: contractions, words, single digits, other characters
# (Radford et al. 2021, section 2.4, as published with CLIP).
WORDS = (
    r"<\|startoftext\|>|<\|endoftext\|>|'s|'t|'re|'ve|'m|'ll|'d|[\p{L}]+|[\p{N}]|[^\s\p{L}\p{N}]+"
)

Tokenize = Callable[[Sequence[str]], np.ndarray]
"""`tokenize(N prompts) -> (N, L) int32` token numbers; long prompts are cut, short ones padded."""


def load(directory: Path, max_length: int = 77) -> Tokenize:
    """Load a tokenizer from `vocab.json` and `merges.txt`, or from `tokenizer.json`.

    Args:
      directory: the folder.
      max_length: L, the number of tokens that the text encoder takes.

    Raises:
      UserError: if a file is missing or damaged, or `tokenizers` is not installed.
    """
    directory, library = Path(directory), _library()
    whole = directory / "tokenizer.json"  # the only file that transformers 5 writes
    try:
        if whole.is_file() and not (directory / "vocab.json").is_file():
            made = library.Tokenizer.from_file(str(whole))
        else:
            made = _of_two_files(directory)
    except UserError:
        raise
    except Exception as error:  # the library raises the bare Exception
        raise UserError(
            f"{directory}: its files are damaged or do not fit ({error}); get them again"
        ) from error
    made.no_padding()
    made.no_truncation()
    padding = _padding(directory)
    numbers = {token: made.token_to_id(token) for token in (START, END, padding)}
    for token, number in numbers.items():
        if number is None:
            raise UserError(
                f"{directory} has no token {token}, so it is not CLIP's tokenizer; get it again"
            )
    # Stable Diffusion 2 pads with "!", which is then a special token in a prompt, too.
    made.add_special_tokens(list(numbers))

    def tokenize(prompts: Sequence[str]) -> np.ndarray:
        rows = np.full((len(prompts), max_length), numbers[padding], np.int32)
        for row, prompt in zip(rows, prompts, strict=True):
            ids = made.encode(prompt, add_special_tokens=False).ids[: max_length - 2]
            row[: len(ids) + 2] = [numbers[START], *ids, numbers[END]]
        return rows

    return tokenize


def _library() -> ModuleType:
    """The module `tokenizers`, of the extra "sd"."""
    try:
        import tokenizers
    except ImportError:
        raise UserError("prompts need the library tokenizers: pip install 'vdu-jax[sd]'") from None
    return tokenizers


def _normalizer() -> "tokenizers.normalizers.Normalizer":
    """CLIP's normaliser: composed letters, single spaces, lower case."""
    normalizers, spaces = _library().normalizers, _library().Regex(r"\s+")
    steps = [normalizers.NFC(), normalizers.Replace(spaces, " "), normalizers.Lowercase()]
    return normalizers.Sequence(steps)


def _pre_tokenizer() -> "tokenizers.pre_tokenizers.PreTokenizer":
    """CLIP's pre-tokenizer: splits a text into `WORDS`, and maps each byte to a letter."""
    cutters, words = _library().pre_tokenizers, _library().Regex(WORDS)
    steps = [
        cutters.Split(words, behavior="removed", invert=True),
        cutters.ByteLevel(add_prefix_space=False),
    ]
    return cutters.Sequence(steps)


def _of_two_files(directory: Path) -> "tokenizers.Tokenizer":
    """The `tokenizers.Tokenizer` of a vocabulary and its merges."""
    library = _library()
    vocabulary, _ = folder.read_json(directory / "vocab.json")
    made = library.Tokenizer(
        library.models.BPE(
            vocab=vocabulary,
            merges=_merges(directory / "merges.txt"),
            unk_token=END,
            continuing_subword_prefix="",
            end_of_word_suffix="</w>",
        )
    )
    made.normalizer, made.pre_tokenizer = _normalizer(), _pre_tokenizer()
    return made


def _merges(path: Path) -> list[tuple[str, str]]:
    try:
        lines = path.read_text(encoding="utf-8").splitlines()
    except (OSError, ValueError) as error:
        raise UserError(f"{path} cannot be read: {error}") from error
    pairs: list[tuple[str, str]] = []
    for line in lines:
        if not line or line.startswith("#version"):
            continue
        tokens = line.split()
        if len(tokens) != 2:
            number = len(pairs) + 1
            raise UserError(f"{path}: merge {number} is no pair of tokens: {' '.join(tokens)!r}")
        pairs.append((tokens[0], tokens[1]))
    return pairs


def _padding(directory: Path) -> str:
    """The padding token; `END` unless a file names another one."""
    for name in ("special_tokens_map.json", "tokenizer_config.json"):
        if (directory / name).is_file():
            said = folder.read_json(directory / name)[0].get("pad_token")
            token = said.get("content") if isinstance(said, dict) else said
            if isinstance(token, str):
                return token
    return END


class Vocabulary(NamedTuple):
    """Vocabulary of a byte-pair tokenizer.

    Attributes:
      tokens: the tokens, in the order of their numbers.
      merges: pairs of tokens that are joined, in order of priority.
    """

    tokens: tuple[str, ...]
    merges: tuple[tuple[str, str], ...]


def learn(captions: Sequence[str]) -> Vocabulary:
    """Learn a vocabulary for CLIP's tokenizer in which every word of the captions is a token.

    Other words are split into shorter tokens. Equal captions give equal vocabularies, unlike with
    the trainer of `tokenizers`, which breaks ties at random.

    Args:
      captions: texts with all words.

    Raises:
      UserError: if `tokenizers` is not installed.
    """
    pre_tokenizers = _library().pre_tokenizers
    normalizer, cut = _normalizer(), _pre_tokenizer()
    words: Counter[tuple[str, ...]] = Counter()
    for caption, count in Counter(captions).items():
        for word, _ in cut.pre_tokenize_str(normalizer.normalize_str(caption)):
            words[(*word[:-1], f"{word[-1]}</w>")] += count
    merges = tuple(_learn_merges(words))
    letters = sorted(pre_tokenizers.ByteLevel.alphabet())
    ends = [f"{letter}</w>" for letter in letters]
    return Vocabulary((*letters, *ends, *map("".join, merges), START, END), merges)


def write(vocabulary: Vocabulary, directory: Path, max_length: int) -> None:
    """Write the files of a tokenizer for `load` and for transformers.

    Args:
      vocabulary: its tokens and merges.
      directory: the folder.
      max_length: number of tokens that the text encoder takes.
    """
    directory = Path(directory)
    numbers = {token: number for number, token in enumerate(vocabulary.tokens)}
    artifacts.write_json(directory / "vocab.json", numbers)
    lines = ["#version: 0.2", *map(" ".join, vocabulary.merges), ""]
    artifacts.write_text(directory / "merges.txt", "\n".join(lines))
    marks = {"bos_token": START, "eos_token": END, "unk_token": END, "pad_token": END}
    artifacts.write_json(directory / "special_tokens_map.json", marks)
    about = {"tokenizer_class": "CLIPTokenizer", "do_lower_case": True}
    about["model_max_length"] = max_length
    artifacts.write_json(directory / "tokenizer_config.json", about | marks)


def _learn_merges(words: Mapping[tuple[str, ...], int]) -> list[tuple[str, str]]:
    """Learn merges until each word is one token (Sennrich et al. 2016, arXiv 1508.07909, alg. 1).

    The most frequent pair comes first, and the first in the alphabet among equally frequent ones.

    Args:
      words: the tokens of each word -> its number of occurrences.
    """
    merges: list[tuple[str, str]] = []
    while True:
        pairs: Counter[tuple[str, str]] = Counter()
        for word, count in words.items():
            for pair in itertools.pairwise(word):
                pairs[pair] += count
        if not pairs:
            return merges
        best = min(pairs, key=lambda pair: (-pairs[pair], pair))
        merges.append(best)
        words = {_merged(word, best): count for word, count in words.items()}


def _merged(word: tuple[str, ...], pair: tuple[str, str]) -> tuple[str, ...]:
    tokens: list[str] = []
    rest = list(word)
    while rest:
        taken = 2 if tuple(rest[:2]) == pair else 1
        tokens.append("".join(rest[:taken]))
        del rest[:taken]
    return tuple(tokens)
