"""Reasoning tasks made by programs: an lm-eval task folder, and the training split of the same tasks.

`lm_eval --include_path <this folder> --tasks boxes,logical_deduction` evaluates them without raycodellm's help. Each
task is a YAML file with its generator beside it; nothing is downloaded and no file of items exists.
"""

from __future__ import annotations

import itertools
from collections.abc import Iterator
from pathlib import Path

from raycodellm.tasks import boxes, logical_deduction

BUILTIN = ("boxes", "logical_deduction")
"""Names of the tasks in this folder."""

FOLDER = Path(__file__).parent
"""What lm-eval takes as its `include_path`."""


def training_examples(seed: int, num_examples: int | None = None) -> Iterator[tuple[str, str]]:
    """(prompt, response) pairs from the tasks' training splits by turns; without end when `num_examples` is None.

    The prompt is what evaluation asks, word for word, and the response begins with the space that parts the two, so
    that prompt + response is the text whose likelihood evaluation measures. No box signature and no puzzle structure
    among them is evaluated. Equal seeds give equal examples on any machine; a longer run begins like a shorter one.
    """
    items = (boxes.generate("train", seed), logical_deduction.generate("train", seed))
    pairs = (item.training_pair() for turn in zip(*items, strict=True) for item, _ in turn)
    return itertools.islice(pairs, num_examples)
