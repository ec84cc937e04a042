"""E-KAR in Chinese (Chen et al. 2022): which pair or triple of words has the relation of the words asked about.

An item has five explanations: of the words asked about, and of each choice. Only the first is put into a prompt, as in
the data set's easy mode: the others say which choice is wrong.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    import datasets

WRITTEN_LATER = "〈模型所写的解释〉"
"""Stands in the requests of `ekar_generated` until the model has written its rationale."""
Doc = Mapping[str, Any]


def without_rationale(dataset: Iterable[Doc]) -> datasets.Dataset:
    """The items whose answer is known: the official test split has none."""
    return _items(dataset, lambda doc: "")


def with_gold_rationale(dataset: Iterable[Doc]) -> datasets.Dataset:
    """The items, each with the explanation of the words asked about."""
    return _items(dataset, lambda doc: doc["explanation"][0].strip())


def with_own_rationale(dataset: Iterable[Doc]) -> datasets.Dataset:
    """The items, each with a place in the prompt for the explanation that the model writes."""
    return _items(dataset, lambda doc: WRITTEN_LATER)


def _items(dataset: Iterable[Doc], rationale_of: Callable[[Doc], str]) -> datasets.Dataset:
    import datasets

    return datasets.Dataset.from_list([_item(doc, rationale_of(doc)) for doc in dataset if doc.get("answerKey")])


def _item(doc: Doc, rationale: str) -> dict[str, Any]:
    words, choices = doc["question"].strip(), [text.strip() for text in doc["choices"]["text"]]
    explained = f"解释：{rationale}\n" if rationale else ""
    return {
        "prompt": f"词语：{words}\n{explained}与上面词语之间关系相同的一组词语：",
        "choices": choices,
        "answer": list(doc["choices"]["label"]).index(doc["answerKey"]),
        "words": words,
        "contexts": [f"{explained}词语：{choice}\n与上面词语之间关系相同的一组词语：" for choice in choices],
        "rationale": rationale,
        "rationale_prompt": f"词语：{words}\n这组词语之间的关系：",
    }
