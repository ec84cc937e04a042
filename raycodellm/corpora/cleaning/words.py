"""Texts as arrays of word hashes, and runs of words as arrays of hashes, by which texts are compared.

A word is a run of letters, marks and digits, in lower case; all other characters separate words. In scripts without
spaces between words, such as Chinese and Thai, each letter or digit is a word, with the marks that belong to it: a run
would be a clause or a sentence. Hashes have 64 bits and are the same on every machine. All texts of a batch go through
numpy together, since one call per paragraph would take ten times as long.
"""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Iterator, Sequence
from functools import lru_cache
from typing import NamedTuple

import numpy as np

from raycodellm.corpora.grouping import grouped

PIECE = 1 << 20
"""Characters that are turned into arrays together, at some 40 bytes per character."""
_STEP = np.uint64(0x9E3779B97F4A7C15)
WITHOUT_SPACES = (
    *("Han", "Hiragana", "Katakana", "Bopomofo", "Yi", "Thai", "Lao", "Khmer", "Myanmar", "Javanese", "Balinese"),
    *("Tai_Le", "New_Tai_Lue", "Tai_Tham", "Tai_Viet"),
)
"""Scripts whose letters are words. Tibetan separates syllables by signs, Korean words by spaces."""
_LETTER, _MARK, _ALONE = 1, 2, 3
_WORD_END = re.compile(r"\w(?=\W)")


class Words(NamedTuple):
    """Hashes of the words of several texts, text by text."""

    hashes: np.ndarray
    """uint64[words]"""
    offsets: np.ndarray
    """int64[texts + 1]: text i has the words from offsets[i] to offsets[i + 1]."""


class Runs(NamedTuple):
    """Hashes of all runs of a fixed number of neighbouring words, in the order of the texts."""

    hashes: np.ndarray
    """uint64[runs]"""
    texts: np.ndarray
    """int64[runs]: number of the text that has the run."""
    places: np.ndarray
    """int64[runs]: number of the run's first word, counted over all texts."""


def mix(values: np.ndarray) -> np.ndarray:
    """A bijection of 64 bits in which every bit changes all others (finaliser of SplitMix64, Steele et al. 2014)."""
    values = (values ^ (values >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    values = (values ^ (values >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    return values ^ (values >> np.uint64(31))


def hash_words(texts: Sequence[str]) -> Words:
    hashes, counts = [np.zeros(0, np.uint64)], np.zeros(len(texts), np.int64)
    pieces = ((number, piece) for number, text in enumerate(texts) for piece in _pieces(text))
    for group in grouped(pieces, lambda numbered: len(numbered[1]), PIECE):
        for (number, _), hashed in zip(group, _hash_pieces([piece for _, piece in group]), strict=True):
            hashes.append(hashed)
            counts[number] += len(hashed)
    return Words(np.concatenate(hashes), np.concatenate([[0], np.cumsum(counts)]))


def word_list(text: str) -> list[str]:
    """The words of a text, as they are hashed."""
    words = []
    for piece in _pieces(text):
        lowered = piece.lower()
        _, _, starts, stops = _bounds(lowered)
        words += [lowered[start:stop] for start, stop in zip(starts.tolist(), stops.tolist(), strict=True)]
    return words


def runs(words: Words, size: int) -> Runs:
    """Every run of `size` words within a text; a text with fewer words has none."""
    count = max(0, len(words.hashes) - size + 1)
    text = np.repeat(np.arange(len(words.offsets) - 1), np.diff(words.offsets))
    places = np.flatnonzero(text[:count] == text[size - 1 : size - 1 + count])
    return Runs(_runs_at(words, places, size), text[places], places)


def _runs_at(words: Words, places: np.ndarray, size: int) -> np.ndarray:
    hashes = np.zeros(len(places), np.uint64)
    for place in range(size):
        hashes = hashes * _STEP + words.hashes[places + place]
    return mix(hashes)


def shingles(words: Words, size: int) -> tuple[np.ndarray, np.ndarray]:
    """(uint64 hashes, offsets per text) of all runs of `size` words; a text with fewer words is one run."""
    full_runs = runs(words, size)
    hashes, texts = [full_runs.hashes], [full_runs.texts]
    lengths = np.diff(words.offsets)
    for length in range(1, size):
        texts.append(np.flatnonzero(lengths == length))
        hashes.append(_runs_at(words, words.offsets[texts[-1]], length))
    of_text = np.concatenate(texts)
    counts = np.bincount(of_text, minlength=len(lengths))
    order = np.argsort(of_text, kind="stable")
    return np.concatenate(hashes)[order], np.concatenate([[0], np.cumsum(counts)]).astype(np.int64)


def _hash_pieces(pieces: Sequence[str]) -> list[np.ndarray]:
    """The word hashes of each piece."""
    lowered = [piece.lower() for piece in pieces]
    codes, is_word, starts, stops = _bounds("\n".join(lowered))
    if not len(starts):
        return [np.zeros(0, np.uint64)] * len(pieces)
    lengths = stops - starts
    word_starts = np.cumsum(lengths) - lengths
    place_in_word = np.arange(word_starts[-1] + lengths[-1]) - np.repeat(word_starts, lengths)
    letters = codes[is_word] * _powers(int(lengths.max()))[place_in_word]
    hashes = mix(np.add.reduceat(letters, word_starts) + lengths.astype(np.uint64))
    begins = np.cumsum([0, *(len(piece) + 1 for piece in lowered[:-1])])
    return np.split(hashes, np.searchsorted(starts, begins[1:]))


@lru_cache(maxsize=8)
def _powers(count: int) -> np.ndarray:
    """uint64[count]: powers of an odd number, the weights of a word's letters in its polynomial hash."""
    return np.multiply.accumulate(np.concatenate([[np.uint64(1)], np.full(count - 1, _STEP)]))


def _bounds(text: str) -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]:
    """(code points, whether each belongs to a word, where words start, where they stop)"""
    codes = np.frombuffer(text.encode("utf-32-le"), np.uint32)
    kinds = _kinds()[codes]
    is_word = kinds > 0
    begins = np.diff(is_word, prepend=False) & is_word
    if np.any(kinds == _ALONE):
        letters = np.where(kinds == _MARK, 0, np.arange(len(kinds)))
        base_letters = np.maximum.accumulate(letters)  # the place of the letter that each mark belongs to
        after_alone = (kinds[base_letters][:-1] == _ALONE) & is_word[:-1]
        begins[1:] |= (kinds[1:] == _ALONE) | (after_alone & (kinds[1:] == _LETTER))
    ends = is_word & np.append(begins[1:] | ~is_word[1:], True)
    return codes, is_word, np.flatnonzero(begins), np.flatnonzero(ends) + 1


def _pieces(text: str) -> Iterator[str]:
    """The text in pieces of `PIECE` characters or more, cut after a word; a word over `PIECE` characters is cut too."""
    start = 0
    while len(text) - start > PIECE:
        match = _WORD_END.search(text, start + PIECE, start + 2 * PIECE)
        stop = match.end() if match else start + 2 * PIECE
        yield text[start:stop]
        start = stop
    yield text[start:]


@lru_cache(maxsize=1)
def _kinds() -> np.ndarray:
    """uint8[code points]: the kind of each character, 0 if it separates words. Takes 0.3 s, once per process."""
    kind_of = {"L": _LETTER, "N": _LETTER, "M": _MARK}
    kinds = np.array([kind_of.get(unicodedata.category(chr(code))[0], 0) for code in range(0x110000)], np.uint8)
    scripts = "".join(rf"\p{{Script={script}}}" for script in WITHOUT_SPACES)
    _mark(kinds, rf"[[{scripts}\u30FC\uFF70]&&[\p{{L}}\p{{N}}]]", _ALONE)
    return kinds


@lru_cache(maxsize=16)
def letters_of(script: str) -> np.ndarray:
    """uint8[code points]: 3 for a letter of the script, 1 for a letter of another script, 0 for other characters."""
    table = np.zeros(0x110000, np.uint8)
    _mark(table, r"\p{L}", 1)
    _mark(table, rf"[\p{{L}}&&\p{{Script={script}}}]", 3)
    return table


def _mark(table: np.ndarray, characters: str, value: int) -> None:
    """Writes the value at the place of each character that the pattern matches."""
    import regex

    everything = "".join(map(chr, (*range(0xD800), *range(0xE000, 0x110000))))
    for match in regex.finditer(f"{characters}+", everything, flags=regex.V1):
        table[ord(match[0][0]) : ord(match[0][-1]) + 1] = value


def script_share(text: str, script: str) -> float:
    """Share of the text's letters that are of this Unicode script; 0 if the text has no letter."""
    table = letters_of(script)
    letters = ours = 0
    for start in range(0, len(text), PIECE):
        values = table[np.frombuffer(text[start : start + PIECE].encode("utf-32-le"), np.uint32)]
        letters += int(np.count_nonzero(values))
        ours += int(np.count_nonzero(values == 3))
    return ours / letters if letters else 0.0
