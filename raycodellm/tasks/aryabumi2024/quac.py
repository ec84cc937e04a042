"""QuAC (Choi et al. 2018): questions that build on each other, about a section of an article.

An answer is a span of the section, or CANNOTANSWER. Prediction and references are compared as SQuAD does: in lower
case, without punctuation and the articles a, an, the. As in the data set's own program, the references are CANNOTANSWER
alone where at least half of them are, else those that are spans; and with several references a score is the mean over
them of the best score against all others but that one, so that people are scored in the same way.
"""

from __future__ import annotations

import json
import re
import string
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    import datasets

UNANSWERABLE = "CANNOTANSWER"
_ARTICLES = re.compile(r"\b(?:a|an|the)\b")
_PUNCTUATION = str.maketrans("", "", string.punctuation)
Doc = Mapping[str, Any]


def read_release(name: str, data: bytes) -> list[dict[str, Any]]:
    """The dialogues of an official file such as `val_v0.2.json`, in the hub's columns. Raises ValueError for another
    layout."""
    tree = json.loads(data)
    if not isinstance(tree, dict) or not isinstance(tree.get("data"), list):
        raise ValueError(f"{name}: has no list `data` of articles")
    return [_dialogue(article, section) for article in tree["data"] for section in article["paragraphs"]]


def _dialogue(article: Doc, section: Doc) -> dict[str, Any]:
    asked = section["qas"]
    return {
        "wikipedia_page_title": article["title"],
        "section_title": article["section_title"],
        "context": section["context"],
        "questions": [one["question"] for one in asked],
        "answers": {"texts": [[answer["text"] for answer in one["answers"]] for one in asked]},
        "orig_answers": {"texts": [one["orig_answer"]["text"] for one in asked]},
    }


def items(dataset: Iterable[Doc]) -> datasets.Dataset:
    """One item per question of each dialogue, in the columns that the YAML file names."""
    import datasets

    rows = [item for dialogue in dataset for item in _questions(dialogue)]
    return datasets.Dataset.from_list(rows or [{"prompt": "", "answers": [""]}]).select(range(len(rows)))


def _questions(dialogue: Doc) -> Iterator[dict[str, Any]]:
    text = dialogue["context"].removesuffix(UNANSWERABLE).strip()
    told = (
        f"Article: {dialogue['wikipedia_page_title']}, {dialogue['section_title']}\n\n{text}\n\n"
        f"Answers are words of the text, or {UNANSWERABLE} where the text does not say.\n"
    )
    asked = zip(dialogue["questions"], dialogue["answers"]["texts"], dialogue["orig_answers"]["texts"], strict=True)
    for question, answers, first in asked:
        told += f"\nQuestion: {question.strip()}\nAnswer:"
        yield {"prompt": told, "answers": list(dict.fromkeys([first, *answers])), "references": list(answers)}
        told += f" {first.strip()}"  # later questions follow the answer that was given, whatever the model wrote


def scores(doc: Doc, results: Sequence[str]) -> dict[str, float]:
    """`f1` and `em` of the written answer."""
    references = counted(doc["references"])
    return {"f1": _against(results[0], references, f1), "em": _against(results[0], references, em)}


def counted(references: Sequence[str]) -> list[str]:
    """The references that count: CANNOTANSWER alone where at least half are, else the spans."""
    spans = [one for one in references if one != UNANSWERABLE]
    return spans if len(spans) > len(references) - len(spans) else [UNANSWERABLE]


def _against(written: str, references: Sequence[str], score: Callable[[str, str], float]) -> float:
    found = [score(written, one) for one in references]
    if len(found) == 1:
        return found[0]
    return sum(max(found[:place] + found[place + 1 :]) for place in range(len(found))) / len(found)


def em(written: str, reference: str) -> float:
    """1 where the answers are equal, else 0."""
    return float(words(written) == words(reference))


def f1(written: str, reference: str) -> float:
    """Harmonic mean of the shares of shared words."""
    ours, theirs = Counter(words(written)), Counter(words(reference))
    shared = (ours & theirs).total()
    return 2 * shared / (ours.total() + theirs.total()) if shared else 0.0


def words(text: str) -> list[str]:
    """The words of a text, normalised."""
    return _ARTICLES.sub(" ", text.lower().translate(_PUNCTUATION)).split()
