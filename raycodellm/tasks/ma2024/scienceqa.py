"""ScienceQA without pictures (Lu et al. 2022): school questions with a lecture, two to five choices, and a solution.

The fields of an item are those of the official `problems.json`. Ma et al. (2024) put the lecture before every question;
the solution is the rationale that their Table 4 adds.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable, Mapping
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    import datasets

WRITTEN_LATER = "<the rationale that the model writes>"
"""Stands in the requests of `scienceqa_generated` until the model has written its rationale."""
Doc = Mapping[str, Any]


def without_rationale(dataset: Iterable[Doc]) -> datasets.Dataset:
    """The items without pictures."""
    return _items(dataset, lambda doc: "")


def with_gold_rationale(dataset: Iterable[Doc]) -> datasets.Dataset:
    """The items, each with its own solution in the prompt."""
    return _items(dataset, lambda doc: " ".join(doc["solution"].split()))


def with_own_rationale(dataset: Iterable[Doc]) -> datasets.Dataset:
    """The items, each with a place in the prompt for the rationale that the model writes."""
    return _items(dataset, lambda doc: WRITTEN_LATER)


def _items(dataset: Iterable[Doc], rationale_of: Callable[[Doc], str]) -> datasets.Dataset:
    import datasets

    return datasets.Dataset.from_list([_item(doc, rationale_of(doc)) for doc in dataset if not doc.get("image")])


def _item(doc: Doc, rationale: str) -> dict[str, Any]:
    background = "\n".join(text for text in (doc["lecture"].strip(), doc["hint"].strip()) if text)
    explained = f"Explanation: {rationale}\n" if rationale else ""
    question, choices = doc["question"].strip(), list(doc["choices"])
    listed = "\n".join(f"- {choice}" for choice in choices)
    return {
        "prompt": _lines(background, f"Question: {question}", f"{explained}Answer:"),
        "choices": choices,
        "answer": int(doc["answer"]),
        "question": question,
        "contexts": [
            _lines(background, f"{explained}Answer: {choice}", "The question that this answers:") for choice in choices
        ],
        "rationale": rationale,
        "rationale_prompt": _lines(background, f"Question: {question}", "Choices:", listed, "Explanation:"),
        "attributes": json.dumps({"part": doc["subject"].replace(" ", "_"), "grade": doc["grade"]}),
    }


def _lines(*texts: str) -> str:
    return "\n".join(text for text in texts if text)
