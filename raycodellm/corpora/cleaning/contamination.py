"""Documents that hold items of the evaluation: they share a run of words with an item.

The rule is that of Brown et al. 2020 (Language Models are Few-Shot Learners, appendix C) in its first, strict form: a
document with one run of 13 words of an item, in lower case and without punctuation, is left out as a whole. An item
shorter than the run is searched for as a whole if it has at least `SHORTEST_ITEM` words, the least length used there.
Shorter items, such as a bare "yes", would be found everywhere; they are counted instead. In Chinese and other scripts
without spaces each letter is a word (see `words`).
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from raycodellm.corpora.cleaning.words import Words, hash_words, runs, word_list

SHORTEST_ITEM = 8
"""Words of the shortest item that is searched for, unless the run itself is shorter."""
MOST_TOO_SHORT = 0.1
"""Share of a task's items that may be too short to be searched for, without a warning."""
EXAMPLES = 20
"""Documents per task that `contamination.json` names, with the shared words."""


@dataclass(frozen=True)
class Benchmark:
    """The runs of words of all evaluation items, hashed."""

    ngram: int
    """Words in a run."""
    tasks: tuple[str, ...]
    num_items: tuple[int, ...]
    num_too_short: tuple[int, ...]
    """Items of each task with too few words to be searched for."""
    hashes: Mapping[int, np.ndarray]
    """Length of a run to uint64[runs], sorted: runs of `ngram` words, and shorter items as a whole."""
    task_of: Mapping[int, np.ndarray]
    """Length of a run to int16[runs]: the first task that has the run."""

    @property
    def identity(self) -> list[Any]:
        """The names of the tasks and a hash of the runs of words, on which the result of a search depends."""
        runs = {size: self.hashes[size].tobytes() + self.task_of[size].tobytes() for size in sorted(self.hashes)}
        digests = [[size, hashlib.blake2b(run, digest_size=16).hexdigest()] for size, run in runs.items()]
        return [self.ngram, list(self.tasks), digests]


def benchmark_of(items: Mapping[str, Sequence[str]], ngram: int) -> Benchmark:
    """The runs of all items. `items`: task to the text of each item, prompt and right answer."""
    min_words = min(ngram, SHORTEST_ITEM)
    parts_of: dict[int, list[tuple[np.ndarray, int]]] = {}
    too_short = []
    for number, texts in enumerate(items.values()):
        words = hash_words(list(texts))
        lengths = np.diff(words.offsets)
        too_short.append(int(np.count_nonzero(lengths < min_words)))
        parts_of.setdefault(ngram, []).append((runs(words, ngram).hashes, number))
        for size in range(min_words, ngram):
            items_of_size = np.flatnonzero(lengths == size)
            if len(items_of_size):
                places = words.offsets[items_of_size][:, None] + np.arange(size)
                item_words = Words(words.hashes[places].ravel(), np.arange(len(items_of_size) + 1) * size)
                parts_of.setdefault(size, []).append((runs(item_words, size).hashes, number))
    hashes, task_of = {}, {}
    for size, parts in parts_of.items():
        all_hashes = np.concatenate([part for part, _ in parts])
        tasks = np.concatenate([np.full(len(part), number, np.int16) for part, number in parts])
        hashes[size], first_places = np.unique(all_hashes, return_index=True)
        task_of[size] = tasks[first_places]
    counts = tuple(len(texts) for texts in items.values())
    return Benchmark(ngram, tuple(items), counts, tuple(too_short), hashes, task_of)


def too_short_warnings(benchmark: Benchmark) -> list[str]:
    """A warning for each task with many items that are too short to be searched for."""
    min_words = min(benchmark.ngram, SHORTEST_ITEM)
    return [
        f"decontaminate: {short:,} of {count:,} items of {task} have under {min_words} words and are not looked for"
        for task, count, short in zip(benchmark.tasks, benchmark.num_items, benchmark.num_too_short, strict=True)
        if short > MOST_TOO_SHORT * count
    ]


def matches(words: Words, benchmark: Benchmark) -> dict[int, dict[int, tuple[int, int]]]:
    """Text to task to (first word within the text, number of words) of the first run that the task has too."""
    first_runs: dict[int, dict[int, tuple[int, int]]] = {}
    for size in sorted(benchmark.hashes, reverse=True):
        item_hashes = benchmark.hashes[size]
        if not len(item_hashes):
            continue
        text_runs = runs(words, size)
        places = np.searchsorted(item_hashes, text_runs.hashes)
        hits = np.flatnonzero(item_hashes[np.minimum(places, len(item_hashes) - 1)] == text_runs.hashes)
        tasks = benchmark.task_of[size][places[hits]]
        for text, task, place in zip(
            text_runs.texts[hits].tolist(), tasks.tolist(), text_runs.places[hits].tolist(), strict=True
        ):
            first_runs.setdefault(text, {}).setdefault(task, (place - int(words.offsets[text]), size))
    return first_runs


def words_of_run(text: str, place: int, size: int) -> str:
    """The words of a run, as they are compared."""
    return " ".join(word_list(text)[place : place + size])


def findings(
    benchmark: Benchmark, documents: Mapping[int, int], examples: Mapping[int, Sequence[tuple[str, str]]]
) -> dict[str, Any]:
    """Content of `contamination.json`. `documents`: task to number; `examples`: task to (document id, words)."""
    tasks = {
        task: {
            "items": benchmark.num_items[number],
            "items_too_short": benchmark.num_too_short[number],
            "documents": documents.get(number, 0),
            "examples": [{"document": document, "words": words} for document, words in examples.get(number, ())],
        }
        for number, task in enumerate(benchmark.tasks)
    }
    return {"ngram": benchmark.ngram, "tasks": tasks}
