"""Documents that hold items of the evaluation: known by runs of words that they share with one.

The rule is that of Brown et al. 2020 (Language Models are Few-Shot Learners, appendix C) in its first, strict form: one
run of 13 words in common, in lower case and without punctuation, and the whole document is left out. An item shorter
than the run is looked for as a whole where it has at least `SHORTEST_ITEM` words (the least length used there); shorter
ones, such as a bare "yes", would be found everywhere: they are not looked for, and counted. In Chinese and other
scripts without spaces each letter is a word (see `words`).
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from raycodellm.corpora.cleaning.words import Words, hash_words, runs, word_list

SHORTEST_ITEM = 8
"""Words that an item must have to be looked for, unless the run itself is shorter."""
MOST_UNFOUND = 0.1
"""Share of a task's items that may be too short to be looked for without a warning."""
EXAMPLES = 20
"""Documents per task that are written down, with the words that gave them away."""


@dataclass(frozen=True)
class Benchmark:
    """The runs of words of all evaluation items, hashed."""

    ngram: int
    """Words in a run."""
    tasks: tuple[str, ...]
    num_items: tuple[int, ...]
    num_too_short: tuple[int, ...]
    """Items of each task with too few words to be looked for."""
    hashes: Mapping[int, np.ndarray]
    """Length of a run -> uint64[runs], sorted: of `ngram` words, and of the shorter items as a whole."""
    task_of: Mapping[int, np.ndarray]
    """Length of a run -> int16[runs]: the first task that has it."""

    @property
    def identity(self) -> list[Any]:
        """What the result of a search depends on: task names, and the runs of words."""
        digests = [
            [
                size,
                hashlib.blake2b(self.hashes[size].tobytes() + self.task_of[size].tobytes(), digest_size=16).hexdigest(),
            ]
            for size in sorted(self.hashes)
        ]
        return [self.ngram, list(self.tasks), digests]


def benchmark_of(items: Mapping[str, Sequence[str]], ngram: int) -> Benchmark:
    """`items`: task -> the text of each of its items, prompt and right answer."""
    least = min(ngram, SHORTEST_ITEM)
    found: dict[int, list[tuple[np.ndarray, int]]] = {}
    too_short = []
    for number, texts in enumerate(items.values()):
        words = hash_words(list(texts))
        lengths = np.diff(words.offsets)
        too_short.append(int(np.count_nonzero(lengths < least)))
        found.setdefault(ngram, []).append((runs(words, ngram).hashes, number))
        for size in range(least, ngram):
            chosen = np.flatnonzero(lengths == size)
            if len(chosen):
                places = words.offsets[chosen][:, None] + np.arange(size)
                whole = Words(words.hashes[places].ravel(), np.arange(len(chosen) + 1) * size)
                found.setdefault(size, []).append((runs(whole, size).hashes, number))
    hashes, task_of = {}, {}
    for size, parts in found.items():
        every = np.concatenate([part for part, _ in parts])
        tasks = np.concatenate([np.full(len(part), number, np.int16) for part, number in parts])
        hashes[size], first = np.unique(every, return_index=True)
        task_of[size] = tasks[first]
    counts = tuple(len(texts) for texts in items.values())
    return Benchmark(ngram, tuple(items), counts, tuple(too_short), hashes, task_of)


def unfound(benchmark: Benchmark) -> list[str]:
    """A line for each task of which many items are not looked for."""
    least = min(benchmark.ngram, SHORTEST_ITEM)
    return [
        f"decontaminate: {short:,} of {count:,} items of {task} have under {least} words and are not looked for"
        for task, count, short in zip(benchmark.tasks, benchmark.num_items, benchmark.num_too_short, strict=True)
        if short > MOST_UNFOUND * count
    ]


def matches(words: Words, benchmark: Benchmark) -> dict[int, dict[int, tuple[int, int]]]:
    """Text -> task -> (first word within the text, words) of the first run that an item of the task has too."""
    found: dict[int, dict[int, tuple[int, int]]] = {}
    for size in sorted(benchmark.hashes, reverse=True):
        known = benchmark.hashes[size]
        if not len(known):
            continue
        here = runs(words, size)
        places = np.searchsorted(known, here.hashes)
        hit = np.flatnonzero(known[np.minimum(places, len(known) - 1)] == here.hashes)
        tasks = benchmark.task_of[size][places[hit]]
        for text, task, place in zip(here.texts[hit].tolist(), tasks.tolist(), here.places[hit].tolist(), strict=True):
            found.setdefault(text, {}).setdefault(task, (place - int(words.offsets[text]), size))
    return found


def spelled(text: str, place: int, size: int) -> str:
    """The words of a run, as they were compared."""
    return " ".join(word_list(text)[place : place + size])


def findings(
    benchmark: Benchmark, documents: Mapping[int, int], examples: Mapping[int, Sequence[tuple[str, str]]]
) -> dict[str, Any]:
    """What `contamination.json` says. `documents`: task -> how many; `examples`: task -> (document, words)."""
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
