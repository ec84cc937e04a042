"""DuReader-robust (Tang et al. 2021): answers to questions on Chinese texts, scored by characters.

Both scores compare normalised texts: in lower case, without white space and punctuation. A token is a Chinese
character, or a run of letters and digits of another script. `em` is 1 where an answer is equal; `f1` is made from the
longest run of tokens that prediction and answer share, as the data set's own program does, which is less than the
number of shared tokens. Each is the greatest over the item's answers.
"""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Iterable, Iterator, Mapping, Sequence
from difflib import SequenceMatcher
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    import datasets

_TOKEN = re.compile(r"[\u3400-\u9fff\uf900-\ufaff]|[^\W_\u3400-\u9fff\uf900-\ufaff]+")
Doc = Mapping[str, Any]
NUM_EXAMPLES = 1000
"""Items of the training split that few-shot examples are drawn from."""


def examples(dataset: datasets.Dataset) -> datasets.Dataset:
    """The first items of a training split; lm-eval would process them all."""
    return items(dataset.select(range(min(NUM_EXAMPLES, len(dataset)))))


def items(dataset: Iterable[Doc]) -> datasets.Dataset:
    """The items that have an answer, in the columns that the YAML file names, from the hub's columns or from the
    records of an official file, which has SQuAD's layout."""
    import datasets

    return datasets.Dataset.from_list([_item(doc) for doc in _questions(dataset) if any(doc["answers"])])


def _questions(dataset: Iterable[Doc]) -> Iterator[dict[str, Any]]:
    for doc in dataset:
        for paragraph in doc.get("paragraphs") or ():
            for asked in paragraph["qas"]:
                texts = [answer["text"] for answer in asked["answers"] or ()]
                yield {"context": paragraph["context"], "question": asked["question"], "answers": texts}
        if doc.get("question"):
            yield {"context": doc["context"], "question": doc["question"], "answers": doc["answers"]["text"]}


def _item(doc: Doc) -> dict[str, Any]:
    prompt = f"{doc['context'].strip()}\n问题：{doc['question'].strip()}\n文中的回答："
    return {"prompt": prompt, "answers": list(dict.fromkeys(doc["answers"]))}


def scores(doc: Doc, results: Sequence[str]) -> dict[str, float]:
    """`em` and `f1` of the written answer."""
    written = tokens(results[0])
    answers = [tokens(answer) for answer in doc["answers"]]
    return {
        "em": max(float(written == answer) for answer in answers),
        "f1": max(_f1(written, answer) for answer in answers),
    }


def tokens(text: str) -> list[str]:
    """The tokens of a text, normalised."""
    return _TOKEN.findall(unicodedata.normalize("NFKC", text).lower())


def _f1(written: Sequence[str], answer: Sequence[str]) -> float:
    shared = SequenceMatcher(None, written, answer, autojunk=False).find_longest_match().size
    return 2 * shared / (len(written) + len(answer)) if shared else 0.0
