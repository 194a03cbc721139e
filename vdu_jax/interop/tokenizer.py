"""CLIP's tokenizer, from a model's folder, with the library `tokenizers`."""

from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np

from vdu_jax.errors import UserError
from vdu_jax.interop import folder

START, END = "<|startoftext|>", "<|endoftext|>"
# What is split before byte pairs are merged: contractions, words, digits one by one, the rest
# (Radford et al. 2021, section 2.4, as published with CLIP).
WORDS = (
    r"<\|startoftext\|>|<\|endoftext\|>|'s|'t|'re|'ve|'m|'ll|'d|[\p{L}]+|[\p{N}]|[^\s\p{L}\p{N}]+"
)

Tokenize = Callable[[Sequence[str]], np.ndarray]
"""Prompts to (N, L) int32 numbers of tokens; what is beyond L is cut, what is missing padded."""


def load(directory: Path, max_length: int = 77) -> Tokenize:
    """The tokenizer of `vocab.json` and `merges.txt` in a folder.

    Args:
      max_length: L, the text encoder's.

    Raises:
      UserError: if a file is missing or damaged, or `tokenizers` is not installed.
    """
    directory = Path(directory)
    try:
        import tokenizers
    except ImportError:
        raise UserError("prompts need the library tokenizers: pip install 'vdu-jax[sd]'") from None
    from tokenizers import normalizers, pre_tokenizers

    vocabulary, _ = folder.read_json(directory / "vocab.json")
    merges = _merges(directory / "merges.txt")
    for token in (START, END):
        if token not in vocabulary:
            raise UserError(f"{directory / 'vocab.json'} has no token {token}: it is not CLIP's")
    try:
        model = tokenizers.models.BPE(
            vocab=vocabulary,
            merges=merges,
            unk_token=END,
            continuing_subword_prefix="",
            end_of_word_suffix="</w>",
        )
    except Exception as error:  # it raises the bare Exception
        raise UserError(f"{directory}: vocab.json and merges.txt do not fit: {error}") from error
    made = tokenizers.Tokenizer(model)
    made.normalizer = normalizers.Sequence(
        [
            normalizers.NFC(),
            normalizers.Replace(tokenizers.Regex(r"\s+"), " "),
            normalizers.Lowercase(),
        ]
    )
    made.pre_tokenizer = pre_tokenizers.Sequence(
        [
            pre_tokenizers.Split(tokenizers.Regex(WORDS), behavior="removed", invert=True),
            pre_tokenizers.ByteLevel(add_prefix_space=False),
        ]
    )
    padding = _padding(directory, vocabulary)
    # A "!" that is padded with, as in Stable Diffusion 2, is that token in a prompt, too.
    made.add_special_tokens([START, END, padding])
    start, end, missing = (vocabulary[token] for token in (START, END, padding))

    def tokenize(prompts: Sequence[str]) -> np.ndarray:
        rows = np.full((len(prompts), max_length), missing, np.int32)
        for row, prompt in zip(rows, prompts, strict=True):
            found = [start, *made.encode(prompt).ids[: max_length - 2], end]
            row[: len(found)] = found
        return rows

    return tokenize


def _merges(path: Path) -> list[tuple[str, str]]:
    try:
        lines = path.read_text(encoding="utf-8").splitlines()
    except (OSError, ValueError) as error:
        raise UserError(f"{path} cannot be read: {error}") from error
    pairs = [tuple(line.split()) for line in lines if line and not line.startswith("#version")]
    for number, pair in enumerate(pairs):
        if len(pair) != 2:
            raise UserError(f"{path}: merge {number + 1} is no pair of tokens: {' '.join(pair)!r}")
    return pairs


def _padding(directory: Path, vocabulary: dict) -> str:
    """The token that prompts are padded with: the end, unless a file says another."""
    for name in ("special_tokens_map.json", "tokenizer_config.json"):
        if (directory / name).is_file():
            said = folder.read_json(directory / name)[0].get("pad_token")
            token = said.get("content") if isinstance(said, dict) else said
            if token is not None:
                if token not in vocabulary:
                    raise UserError(f"{directory / name}: pad_token = {token!r} is no token")
                return token
    return END
