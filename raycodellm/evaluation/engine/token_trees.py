"""Packs answers whose beginnings are equal into trees, so that a model reads the common beginning once.

A tree is one row of a batch: the trunk, then the branches one after the other. A token of a branch sees the trunk and
the tokens before it in its branch, and its position counts from the trunk, so that each path through the tree is read
as if it stood alone. The trees of some answers depend on these answers alone.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from raycodellm.evaluation.engine.encoding import TokenPair

_WORTH = 0.2
"""A path joins a tree if that saves this share of the path's tokens."""
_LONGEST = 4096
"""Longest row, in tokens, of a tree with several branches."""

Path = tuple[int, ...]
"""Tokens that are read for an answer: its prompt, and all of the answer but its last token."""


@dataclass(frozen=True)
class TokenTree:
    """Paths with a common beginning."""

    paths: tuple[Path, ...]
    trunk: int
    """Number of tokens that all paths begin with; the whole length of a single path."""

    @property
    def length(self) -> int:
        """Tokens of the row."""
        return self.trunk + sum(len(path) - self.trunk for path in self.paths)

    @property
    def branches(self) -> tuple[Path, ...]:
        return tuple(path[self.trunk :] for path in self.paths)

    def columns(self, path: int) -> list[int]:
        """Columns of the row that hold a path's tokens."""
        begin = self.trunk + sum(len(earlier_path) - self.trunk for earlier_path in self.paths[:path])
        return [*range(self.trunk), *range(begin, begin + len(self.paths[path]) - self.trunk)]


def path_of(pair: TokenPair) -> Path:
    """The tokens that are read for an answer."""
    prompt, answer = pair
    return (*prompt, *answer[:-1])


def trees(paths: Sequence[Path], share: bool) -> list[TokenTree]:
    """Trees of distinct paths, longest first; one tree per path unless `share`."""
    all_trees = [*_joined_neighbours(sorted(paths))] if share else [TokenTree((path,), len(path)) for path in paths]
    return sorted(all_trees, key=lambda tree: (-tree.length, tree.paths))


def _joined_neighbours(paths: Sequence[Path]) -> Iterator[TokenTree]:
    """Joins neighbours in sorted order for as long as that saves tokens."""
    tree: TokenTree | None = None
    for path in paths:
        alone = TokenTree((path,), len(path))
        if tree is None:
            tree = alone
            continue
        trunk = common_length(tree.paths[0][: tree.trunk], path)
        with_path = TokenTree((*tree.paths, path), trunk)
        saved_tokens = tree.length + alone.length - with_path.length
        if trunk and saved_tokens >= _WORTH * alone.length and with_path.length <= _LONGEST:
            tree = with_path
        else:
            yield tree
            tree = alone
    if tree is not None:
        yield tree


def common_length(one: Sequence[int], other: Sequence[int]) -> int:
    """Tokens that both begin with."""
    length = min(len(one), len(other))
    if one[:length] == other[:length]:
        return length
    low, high = 0, length  # equal up to `low`, different somewhere before `high`
    while high - low > 1:
        middle = (low + high) // 2
        low, high = (middle, high) if one[low:middle] == other[low:middle] else (low, middle)
    return low


def batches(lengths: Sequence[int], positions: Sequence[int], limits: Limits) -> Iterator[range]:
    """Cuts rows, in their order, into forward passes within the limits, each with at least one row.

    `lengths`: tokens per row; `positions`: positions per row whose logits are asked for.
    """
    begin, longest, num_positions = 0, 0, 0
    for row, (length, row_positions) in enumerate(zip(lengths, positions, strict=True)):
        longest, num_positions = max(longest, length), num_positions + row_positions
        num_rows = row + 1 - begin
        if num_rows > 1 and (
            num_rows * longest > limits.tokens
            or num_rows * longest**2 > limits.cells
            or num_positions > limits.positions
        ):
            yield range(begin, row)
            begin, longest, num_positions = row, length, row_positions
    if begin < len(lengths):
        yield range(begin, len(lengths))


@dataclass(frozen=True)
class Limits:
    """Limits of one forward pass."""

    tokens: int
    """Tokens of all rows, padding included."""
    positions: int
    """Positions whose logits are computed."""
    cells: int = 2**25
    """Cells of the attention mask."""
