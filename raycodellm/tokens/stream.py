"""All tokens of a store as one run, read from its files: memory-mapped on a local disk, by ranges elsewhere."""

from __future__ import annotations

import threading

import numpy as np
import pyarrow as pa

from raycodellm.files import Folder
from raycodellm.tokens.manifest import Manifest, Shard, StoreError
from raycodellm.tokens.ranges import MappedValues, RemoteValues, cut_at, read_layout


class Stream:
    """All tokens of a store as one run; files are opened when they are first read. Threads may share it."""

    def __init__(self, folder: Folder, manifest: Manifest) -> None:
        self._folder = folder
        self._shards = manifest.shards
        self.dtype = manifest.dtype
        self._starts = np.cumsum([0, *(shard.num_tokens for shard in manifest.shards)])
        self._lock = threading.Lock()
        self._readers: dict[int, _ShardReader] = {}

    def gather(self, starts: np.ndarray, length: int) -> np.ndarray:
        """[n, length] of the store's dtype: `length` tokens from each start; reads each file once."""
        shards = np.searchsorted(self._starts, starts, side="right") - 1
        tokens = np.empty((len(starts), length), self.dtype)
        is_read = np.zeros(len(starts), bool)
        for shard in np.unique(shards).tolist():
            rows, reader = np.flatnonzero(shards == shard), self._reader(shard)
            places = starts[rows] - self._starts[shard]
            is_whole = places + length <= reader.bounds[np.searchsorted(reader.bounds, places, side="right")]
            rows = rows[is_whole]
            tokens[rows] = reader.values.gather(places[is_whole], length)
            is_read[rows] = True
        if not is_read.all():
            cut_starts = starts[~is_read]
            tokens[~is_read] = self.stretches(cut_starts, np.full(len(cut_starts), length)).reshape(-1, length)
        return tokens

    def stretches(self, starts: np.ndarray, sizes: np.ndarray) -> np.ndarray:
        """The stretches of `sizes` tokens from each start, end to end."""
        starts, sizes = cut_at(self._starts, starts, sizes)
        shards = np.searchsorted(self._starts, starts, side="right") - 1
        tokens = np.empty(sizes.sum(), self.dtype)
        targets = np.cumsum(sizes) - sizes
        for shard in np.unique(shards).tolist():
            rows, reader = np.flatnonzero(shards == shard), self._reader(shard)
            target = np.repeat(targets[rows] - (np.cumsum(sizes[rows]) - sizes[rows]), sizes[rows])
            pieces = cut_at(reader.bounds, starts[rows] - self._starts[shard], sizes[rows])
            tokens[target + np.arange(len(target))] = reader.values.stretches(*pieces)
        return tokens

    def _reader(self, shard: int) -> _ShardReader:
        reader = self._readers.get(shard)
        if reader is None:
            with self._lock:
                reader = self._readers.get(shard) or _ShardReader(self._folder, self._shards[shard], self.dtype)
                self._readers[shard] = reader
        return reader


class _ShardReader:
    """An open token file of a shard."""

    def __init__(self, folder: Folder, shard: Shard, dtype: np.dtype) -> None:
        name = f"tokens-{shard.number:05d}.arrow"
        if folder.local is not None:
            source = pa.memory_map(str(folder.local / name))
        else:
            source = folder.filesystem.open_input_file(f"{folder.path}/{name}")
        try:
            pa.ipc.open_file(source)
            layout = read_layout(source)
        except (pa.ArrowInvalid, ValueError) as error:
            raise StoreError(f"{folder}/{name}: is no Arrow file any more ({error}); delete {folder}") from error
        self.bounds = np.append(np.arange(0, shard.num_tokens, layout.batch_values), shard.num_tokens)
        """Places at which record batches begin, and the end of the last one."""
        self.values: MappedValues | RemoteValues
        if folder.local is not None:
            self.values = MappedValues(folder.local / name, layout, dtype)
        else:
            self.values = RemoteValues(source, layout, dtype)
