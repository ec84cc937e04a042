"""Items of bAbI, from the official text files or from the hub's copy.

A story's lines are numbered from 1; a line with tabs is a question, its answer, and the numbers of the lines that
support it. An item is a question with the statements that stand before it in its story, as in lm-eval's `babi`; its
choices are all answers of its task, so that a model which knows the answers' form alone is at the task's chance.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

from raycodellm.tasks.release_files import Splits, split_of

if TYPE_CHECKING:
    import datasets

Doc = Mapping[str, Any]


def read_release(path: Path) -> Splits:
    """The questions of an official file such as `qa1_single-supporting-fact_test.txt`. Raises ValueError, with the
    line, for a file in another layout."""
    named = re.match(r"qa(\d+)_", path.name)
    if named is None:
        raise ValueError(f"{path}: its name does not begin with the task, such as qa1_")
    rows: list[dict[str, Any]] = []
    story: list[str] = []
    for place, line in enumerate(path.read_text("utf-8").splitlines(), 1):
        number, _, text = line.strip().partition(" ")
        if not number.isdigit() or not text:
            raise ValueError(f"{path}, line {place}: found {line[:60]!r}; a line of bAbI begins with its number")
        if number == "1":
            story = []
        question, *asked = text.split("\t")
        if asked:
            passage = "".join(f"{statement}\n" for statement in story)
            rows.append(
                {"passage": passage, "question": question.strip(), "answer": asked[0].strip(), "task": int(named[1])}
            )
        else:
            story.append(text.strip())
    return {split_of(path): rows}


def items(dataset: Iterable[Doc], number: int) -> datasets.Dataset:
    """The items of one task, whose choices are all answers of the task in this split."""
    import datasets

    docs = [doc for doc in dataset if int(doc["task"]) == number]
    if not docs:
        raise ValueError(f"the data set has no items of task {number} of bAbI")
    choices = sorted({doc["answer"] for doc in docs})
    return datasets.Dataset.from_list(
        [
            {
                "prompt": f"Passage: {doc['passage']}Question: {doc['question']}\nAnswer:",
                "choices": choices,
                "gold": choices.index(doc["answer"]),
            }
            for doc in docs
        ]
    )


qa1, qa2, qa3, qa4, qa5, qa6, qa7, qa8, qa9, qa10 = (partial(items, number=number) for number in range(1, 11))
qa11, qa12, qa13, qa14, qa15, qa16, qa17, qa18, qa19, qa20 = (partial(items, number=number) for number in range(11, 21))
