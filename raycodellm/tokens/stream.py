"""All tokens of a store as one run, read from its files: memory-mapped on a local disk, by ranges elsewhere."""

from __future__ import annotations

import threading
from bisect import bisect_right

import numpy as np

from raycodellm.files import Folder
from raycodellm.tokens.manifest import Manifest, Shard, StoreError
from raycodellm.tokens.ranges import MappedValues, RemoteValues, read_layout


class Stream:
    """All tokens of a store as one run; files are opened when they are first read. Threads may share it."""

    def __init__(self, folder: Folder, manifest: Manifest) -> None:
        self._folder = folder
        self._shards = manifest.shards
        self.dtype = manifest.dtype
        self._starts = np.cumsum([0, *(shard.num_tokens for shard in manifest.shards)]).tolist()
        self._lock = threading.Lock()
        self._readers: dict[int, _ShardReader] = {}

    def gather(self, starts: np.ndarray, length: int) -> np.ndarray:
        """[n, length] of the store's dtype: `length` tokens from each start; reads each file once."""
        shards = np.searchsorted(self._starts, starts, side="right") - 1
        found = np.empty((len(starts), length), self.dtype)
        for shard in np.unique(shards).tolist():
            rows = np.flatnonzero(shards == shard)
            reader, places = self._reader(shard), starts[rows] - self._starts[shard]
            ends = np.minimum((places // reader.batch_tokens + 1) * reader.batch_tokens, self._shards[shard].num_tokens)
            whole = places + length <= ends
            found[rows[whole]] = reader.values.gather(places[whole], length)
            for row in rows[~whole].tolist():
                self._join(int(starts[row]), found[row])
        return found

    def _join(self, start: int, target: np.ndarray) -> None:
        """Fills `target` with a stretch that crosses the end of a record batch or of a file."""
        filled = 0
        while filled < len(target):
            shard = bisect_right(self._starts, start + filled) - 1
            reader, place = self._reader(shard), start + filled - self._starts[shard]
            end = min((place // reader.batch_tokens + 1) * reader.batch_tokens, self._shards[shard].num_tokens)
            size = min(end - place, len(target) - filled)
            target[filled : filled + size] = reader.values.gather(np.array([place]), size)[0]
            filled += size

    def stretches(self, starts: np.ndarray, sizes: np.ndarray) -> np.ndarray:
        """The stretches of `sizes` tokens from each start, end to end; each stretch must lie inside one file."""
        shards = np.searchsorted(self._starts, starts, side="right") - 1
        found = np.empty(sizes.sum(), self.dtype)
        targets = np.cumsum(sizes) - sizes
        for shard in np.unique(shards).tolist():
            mine = np.flatnonzero(shards == shard)
            target = np.repeat(targets[mine] - (np.cumsum(sizes[mine]) - sizes[mine]), sizes[mine])
            found[target + np.arange(len(target))] = self._of_shard(
                shard, starts[mine] - self._starts[shard], sizes[mine]
            )
        return found

    def _of_shard(self, shard: int, places: np.ndarray, sizes: np.ndarray) -> np.ndarray:
        """Stretches of one file, end to end, read in parts that end where record batches end."""
        reader = self._reader(shard)
        batches = places // reader.batch_tokens
        counts = (places + sizes - 1) // reader.batch_tokens - batches + 1
        which = np.repeat(np.arange(len(places)), counts)
        batch = batches[which] + np.arange(len(which)) - np.repeat(np.cumsum(counts) - counts, counts)
        first = np.maximum(places[which], batch * reader.batch_tokens)
        last = np.minimum((places + sizes)[which], (batch + 1) * reader.batch_tokens)
        return reader.values.stretches(first, last - first)

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
        import pyarrow as pa

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
        self.batch_tokens = layout.batch_values
        self.values: MappedValues | RemoteValues
        if folder.local is not None:
            self.values = MappedValues(folder.local / name, layout, dtype)
        else:
            self.values = RemoteValues(source, layout, dtype)
