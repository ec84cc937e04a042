"""OCNLI and CMNLI (Hu et al. 2020, Xu et al. 2020): does a Chinese sentence follow from another one?

Items whose annotators did not agree have the label `-` in the official files, -1 on the hub, and are left out.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    import datasets

LABELS = ("neutral", "entailment", "contradiction")
"""In the order of the hub's numbers; official files name them."""
_SAID_AFTER = {
    "neutral": "由前一句话无法判断真假的一句话：",
    "entailment": "由前一句话可以推出的一句话：",
    "contradiction": "与前一句话相矛盾的一句话：",
}
"""The phrase for each label that stands between the sentences in the channel score."""
Doc = Mapping[str, Any]
NUM_EXAMPLES = 1000
"""Items of the training split that few-shot examples are drawn from."""


def examples(dataset: datasets.Dataset) -> datasets.Dataset:
    """The first items of a training split: CMNLI has 391,783, and lm-eval would process them all."""
    return items(dataset.select(range(min(NUM_EXAMPLES, len(dataset)))))


def items(dataset: Iterable[Doc]) -> datasets.Dataset:
    """The labelled items in the columns that the YAML files name."""
    import datasets

    first: dict[str, int] = {}  # several items ask about one first sentence, and are not independent
    labelled = ((doc, label) for doc in dataset if (label := _label(doc["label"])) is not None)
    return datasets.Dataset.from_list(
        [_item(doc, label, first.setdefault(doc["sentence1"], len(first))) for doc, label in labelled]
    )


def _label(label: int | str) -> int | None:
    if isinstance(label, str) and not label.isdigit():
        return LABELS.index(label) if label in LABELS else None
    return int(label) if 0 <= int(label) < len(LABELS) else None


def _item(doc: Doc, label: int, cluster: int) -> dict[str, Any]:
    first, second = doc["sentence1"].strip(), doc["sentence2"].strip()
    return {
        "prompt": f"已知：{first}\n结论：{second}\n由已知看，结论",
        "choices": ["无法判断", "正确", "错误"],
        "gold": label,
        "second": second,
        "attributes": json.dumps({"cluster": cluster}),
        "contexts": [f"{first}\n{_SAID_AFTER[name]}" for name in LABELS],
    }
