"""C3 (Sun et al. 2020): questions on Chinese dialogues and texts with two to four choices."""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    import datasets

Doc = Mapping[str, Any]
NUM_EXAMPLES = 1000
"""Items of the training split that few-shot examples are drawn from."""


def examples(dataset: datasets.Dataset) -> datasets.Dataset:
    """The first items of a training split; lm-eval would process them all."""
    return items(dataset.select(range(min(NUM_EXAMPLES, len(dataset)))))


def items(dataset: Iterable[Doc]) -> datasets.Dataset:
    """The items in the columns that the YAML files name."""
    import datasets

    texts: dict[str, int] = {}  # questions on one text are no independent items
    found = (("\n".join(doc["context"]), doc) for doc in dataset)
    return datasets.Dataset.from_list([_item(doc, text, texts.setdefault(text, len(texts))) for text, doc in found])


def read_release(name: str, data: bytes) -> list[dict[str, Any]]:
    """The questions of an official file such as `m-dev.json`: an array of texts, each its lines, its questions and its
    name. Raises ValueError for another layout."""
    return [
        {"context": lines, "question": asked["question"], "choice": asked["choice"], "answer": asked["answer"]}
        for lines, questions, _ in json.loads(data)
        for asked in questions
    ]


def _item(doc: Doc, text: str, cluster: int) -> dict[str, Any]:
    question, choices = doc["question"].strip(), list(doc["choice"])
    return {
        "prompt": f"{text}\n问：{question}\n答：",
        "choices": choices,
        "gold": choices.index(doc["answer"]),
        "question": question,
        "attributes": json.dumps({"cluster": cluster}),
        "contexts": [f"{text}\n答：{choice}\n这一回答所对应的问题：" for choice in choices],
    }
