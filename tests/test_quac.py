"""QuAC: a question follows the answers that were given before it, and is scored against several references."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from raycodellm import evaluation
from raycodellm.evaluation import Places
from raycodellm.tasks.aryabumi2024 import quac


def asked(question: str, first: str, *others: str) -> dict[str, object]:
    answers = [{"text": text, "answer_start": 0} for text in (first, *others)]
    return {
        "question": question,
        "answers": answers,
        "orig_answer": answers[0],
        "followup": "y",
        "yesno": "x",
        "id": "1",
    }


RELEASE = {
    "data": [
        {
            "title": "Ada Lovelace",
            "section_title": "Work",
            "background": "A mathematician.",
            "paragraphs": [
                {
                    "context": "She wrote notes on the engine in 1843. CANNOTANSWER",
                    "qas": [
                        asked("What did she write?", "notes on the engine", "notes", "the notes on the engine"),
                        asked("Was she paid?", "CANNOTANSWER", "CANNOTANSWER", "in 1843"),
                    ],
                    "id": "0",
                }
            ],
        }
    ]
}


def test_the_official_file_gives_one_item_per_question_after_the_answers_given_before(tmp_path: Path) -> None:
    (tmp_path / "val_v0.2.json").write_text(json.dumps(RELEASE))
    task = evaluation.load_tasks(("quac",), 0, Places(None, str(tmp_path))).single["quac"]
    first, second = task.eval_docs
    assert "engine in 1843.\n" in first["prompt"] and "1843. CANNOT" not in first["prompt"]
    assert first["prompt"].endswith("\nQuestion: What did she write?\nAnswer:")
    assert second["prompt"] == first["prompt"] + " notes on the engine\nQuestion: Was she paid?\nAnswer:"
    assert task.process_results(second, ["CANNOTANSWER"]) == {"f1": 1.0, "em": 1.0}
    assert task.process_results(first, [" The notes on the engine!"]) == {"f1": 1.0, "em": 1.0}


@pytest.mark.parametrize(
    ("written", "references", "f1"),
    [
        ("red box", ["the red box"], 1.0),
        ("red", ["the red box"], 2 / 3),
        ("blue", ["the red box"], 0.0),
        ("", ["CANNOTANSWER", "CANNOTANSWER", "red"], 0.0),
        ("red", ["CANNOTANSWER", "red", "red"], 1.0),
        # Against each pair of three references: the first pair has no answer in common with "red".
        ("red", ["red", "blue", "green"], 2 / 3),
    ],
)
def test_a_score_is_the_mean_of_the_best_against_all_references_but_one(
    written: str, references: list[str], f1: float
) -> None:
    doc = {"references": references}
    assert quac.scores(doc, [written])["f1"] == pytest.approx(f1)
