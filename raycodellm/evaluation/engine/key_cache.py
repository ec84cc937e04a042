"""The attention's keys and values of texts in generation, in memory with room for the tokens to come."""

from __future__ import annotations

import copy
import functools
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    import torch

_ROOM = 64
"""Tokens that memory is taken for ahead."""


def empty_cache() -> Any:
    """A cache for models whose every layer attends to all tokens. transformers' own copies all keys for each token."""
    from transformers.cache_utils import Cache

    return Cache(layer_class_to_replicate=_layer())


def repeated(cache: Any, num_rows: int) -> Any:
    """A copy of the keys and values of a single text for each row of a batch."""
    copied = copy.deepcopy(cache)
    copied.batch_repeat_interleave(num_rows)
    return copied


@functools.cache
def _layer() -> Callable[[], Any]:
    from transformers.cache_utils import DynamicLayer

    class RoomyLayer(DynamicLayer):
        """Keys and values [rows, heads, tokens, width] at the beginning of larger tensors."""

        keys: Any
        values: Any
        room: tuple[Any, Any] | None = None
        """The larger tensors."""

        def update(self, keys: torch.Tensor, values: torch.Tensor, *_: Any, **__: Any) -> tuple[Any, Any]:
            if not self.is_initialized:
                self.lazy_initialization(keys, values)
            begin = self.get_seq_length()
            end = begin + keys.shape[-2]
            large: tuple[Any, Any] = self.room or (None, None)
            large_keys, large_values = large
            # Rows that left the batch, and copies for a batch, are tensors of their own.
            is_in_place = begin and large_keys is not None and large_keys.data_ptr() == self.keys.data_ptr()
            if not is_in_place or large_keys.shape[-2] < end:
                large_keys, large_values = (
                    _with_room(old, new, begin) for old, new in ((self.keys, keys), (self.values, values))
                )
                self.room = large_keys, large_values
            large_keys[..., begin:end, :], large_values[..., begin:end, :] = keys, values
            self.keys, self.values = large_keys[..., :end, :], large_values[..., :end, :]
            return self.keys, self.values

    return RoomyLayer


def _with_room(old: torch.Tensor, new: torch.Tensor, begin: int) -> torch.Tensor:
    """A tensor that begins with `old` and has room for `new` and the tokens after it."""
    large = new.new_empty(*new.shape[:2], begin + new.shape[-2] + _ROOM, new.shape[-1])
    if begin:
        large[..., :begin, :] = old
    return large
