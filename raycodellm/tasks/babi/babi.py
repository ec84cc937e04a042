"""Items of bAbI, from the official text files or from the hub's copy.

A story's lines are numbered from 1; a line with tabs is a question, its answer, and the numbers of the lines that
support it. An item is a question with the statements that stand before it in its story, as in lm-eval's `babi`; its
choices are all answers of its task, so that a model which knows the answers' form alone is at the task's chance.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterable, Iterator, Mapping
from functools import lru_cache, partial
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    import datasets

Doc = Mapping[str, Any]


@lru_cache(maxsize=20)  # each of the twenty tasks reads all files, as all tasks share a data set
def read_release(name: str, data: bytes) -> list[dict[str, Any]]:
    """The questions of an official file such as `qa1_single-supporting-fact_test.txt`; the caller leaves them as they
    are. Raises ValueError, with the line, for a file in another layout."""
    named = re.match(r"qa(\d+)_", name)
    if named is None:
        raise ValueError(f"the name {name!r} does not begin with the task, such as qa1_")
    rows: list[dict[str, Any]] = []
    story: list[str] = []
    for place, line in enumerate(data.decode("utf-8").splitlines(), 1):
        number, _, text = line.strip().partition(" ")
        if not number.isdigit() or not text:
            raise ValueError(f"line {place}: found {line[:60]!r}; a line of bAbI begins with its number in the story")
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
    return rows


def items(dataset: datasets.Dataset, number: int) -> datasets.Dataset:
    """The items of one task, whose choices are all answers of the task in this split. Raises ValueError where the data
    set has none."""
    import datasets

    tasks = dataset.select_columns(["task"])[:]["task"]
    docs = dataset.select([place for place, task in enumerate(tasks) if int(task) == number])
    if not docs:
        raise ValueError(f"the data set has no items of task {number} of bAbI")
    choices = sorted({answer.strip() for answer in docs["answer"]})
    numbered = zip(docs, stories(docs["passage"]), strict=True)
    return datasets.Dataset.from_list([_item(doc, choices, story) for doc, story in numbered])


def stories(passages: Iterable[str]) -> Iterator[int]:
    """The number of each question's story: a passage that does not begin with the one before begins another story."""
    story, before = 0, ""
    for passage in passages:
        story += not passage.startswith(before)
        before = passage
        yield story


def _item(doc: Doc, choices: list[str], story: int) -> dict[str, Any]:
    return {
        "attributes": json.dumps({"cluster": story}),
        "prompt": f"Passage: {doc['passage']}Question: {doc['question']}\nAnswer:",
        "choices": choices,
        "gold": choices.index(doc["answer"].strip()),
    }


qa1, qa2, qa3, qa4, qa5, qa6, qa7, qa8, qa9, qa10 = (partial(items, number=number) for number in range(1, 11))
qa11, qa12, qa13, qa14, qa15, qa16, qa17, qa18, qa19, qa20 = (partial(items, number=number) for number in range(11, 21))
