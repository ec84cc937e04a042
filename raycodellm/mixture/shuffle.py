"""The order of the sequences inside a source: a shuffle whose every place is computed alone, never stored."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from typing import Any

import numpy as np

_BLOCK = 1 << 16
"""Values permuted at a time, so that they stay in the processor's cache."""
_ROUNDS = 6


def epoch_key(seed: int, source: str, epoch: int) -> int:
    """The key of a source's shuffle in one epoch: 128 bits."""
    return int.from_bytes(hashlib.blake2b(f"{seed}/{source}/{epoch}".encode(), digest_size=16).digest(), "little")


def shuffled(start: int, stop: int, size: int, key: int, group: int = 1) -> np.ndarray:
    """int64[stop - start]: the numbers at places start..stop-1 of a shuffle of 0..size-1 chosen by `key`.

    Whole groups of `group` neighbours are shuffled, and stay together in order; `size` is a multiple of it.
    """
    if group == 1:
        return permute(np.arange(start, stop, dtype=np.int64), size, key)
    places = np.arange(start, stop, dtype=np.int64)
    return permute(places // group, size // group, key) * group + places % group


def permute(places: np.ndarray, size: int, key: int) -> np.ndarray:
    """int64: the number at each of `places` (0..size-1) of a shuffle of 0..size-1 chosen by `key`.

    Each value is computed alone. Multiplications by odd numbers and shifts permute the numbers of as many bits as
    `size` needs; they are repeated until the value is less than `size` (cycle walking: Black and Rogaway 2002, "Ciphers
    with arbitrary finite domains").
    """
    bits = int(max(1, size - 1)).bit_length()
    word = np.uint32 if bits <= 32 else np.uint64  # processors multiply many 32-bit numbers at once
    rounds = [(word(factor), word(summand)) for factor, summand in _rounds(key, bits)]
    numbers = np.empty(len(places), dtype=np.int64)
    for start in range(0, len(numbers), _BLOCK):
        part: np.ndarray = places[start : start + _BLOCK].astype(word)
        _scramble(part, bits, rounds)
        outside = np.flatnonzero(part >= size)
        while len(outside):
            value: np.ndarray = part[outside]
            _scramble(value, bits, rounds)
            part[outside] = value
            outside = outside[value >= size]
        numbers[start : start + _BLOCK] = part
    return numbers


def _rounds(key: int, bits: int) -> list[tuple[int, int]]:
    """(odd factor, summand) of each round, `bits` bits each."""
    stream = hashlib.shake_128(key.to_bytes(16, "little")).digest(16 * _ROUNDS)
    numbers = np.frombuffer(stream, dtype="<u8") & np.uint64((1 << bits) - 1)
    return [(int(numbers[2 * turn]) | 1, int(numbers[2 * turn + 1])) for turn in range(_ROUNDS)]


def _scramble(value: np.ndarray, bits: int, rounds: Sequence[tuple[Any, Any]]) -> None:
    """Permutes 0..2^bits-1, in place."""
    mask, shift = value.dtype.type((1 << bits) - 1), value.dtype.type(max(1, bits // 2))
    for factor, summand in rounds:
        value *= factor
        value += summand
        value &= mask
        value ^= value >> shift
