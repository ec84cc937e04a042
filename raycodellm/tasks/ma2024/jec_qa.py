"""JEC-QA as AGIEval gives it (Zhong et al. 2020, 2023), with the parts of its query that the channel score needs."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping, Sequence
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    import datasets

_QUESTION = re.compile(r"(?:问题[：:])?\s*(?P<question>.*?)\s*选项[：:]", re.S)
"""The question in AGIEval's query, which goes on with the choices and a call for the answer."""
Doc = Mapping[str, Any]


def with_contexts(dataset: Iterable[Doc]) -> datasets.Dataset:
    """The items with their question alone, and a prompt for each choice."""
    import datasets

    return datasets.Dataset.from_list([_item(doc) for doc in dataset])


def _item(doc: Doc) -> dict[str, Any]:
    found = _QUESTION.match(doc["query"])
    if found is None:
        raise ValueError(f"a query of JEC-QA has no choices after its question: {doc['query'][:80]!r}")
    choices = [re.sub(r"^\s*\([A-Z]\)\s*", "", choice) for choice in doc["choices"]]
    gold = list(doc["gold"])
    return {
        "question": found["question"],
        "contexts": [f"答案：{choice}\n这一答案所对应的题目：" for choice in choices],
        "right": gold,
        "first_right": gold[0],
    }


def accuracy(doc: Doc, results: Sequence[tuple[float, bool]]) -> dict[str, float]:
    """`acc`: 1 if the best choice is one of the right ones."""
    best = max(range(len(results)), key=lambda index: results[index][0])
    return {"acc": float(best in doc["right"])}
