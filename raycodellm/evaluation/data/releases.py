"""The names of official releases of well-known data sets, and how their columns differ from those of the hub's copy
that lm-eval's tasks read."""

from __future__ import annotations

import re
from collections.abc import Callable
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import pyarrow as pa

_FILES: dict[tuple[str, str | None], tuple[str, ...]] = {
    ("openai/openai_humaneval", None): ("HumanEval.jsonl.gz", "HumanEval.jsonl"),
    ("google-research-datasets/mbpp", "full"): ("mbpp.jsonl",),
    ("google-research-datasets/mbpp", "sanitized"): ("sanitized-mbpp.json", "mbpp_sanitized.jsonl"),
    ("LSDSem/story_cloze", "2016"): ("cloze_test_test__spring2016 - cloze_test_ALL_test.csv",),
    ("LSDSem/story_cloze", "2018"): ("cloze_test_val__winter2018-cloze_test_ALL_val - 1 - 1.csv",),
}
"""(data set, configuration) -> names of its official files."""


def release_files(path: str, config: str | None) -> tuple[str, ...]:
    return _FILES.get((path, config), ())


def in_hub_columns(path: str, table: pa.Table) -> pa.Table:
    """The table with the columns of the hub's data set `path`, where the table is of another well-known form of the
    same data; else the table itself."""
    for pattern, columns, change in _CHANGES:
        if re.search(pattern, path, re.I) and columns <= set(table.column_names):
            return change(table)
    return table


def _boolq(table: pa.Table) -> pa.Table:
    """BoolQ's own release says `answer: true` where SuperGLUE says `label: 1`."""
    import pyarrow as pa

    if "label" in table.column_names:
        return table
    return table.append_column("label", table.column("answer").cast(pa.int64()))


def _trivia_qa(table: pa.Table) -> pa.Table:
    """A file of prompts (`context`), answers and aliases, as evaluation harnesses keep TriviaQA."""
    import pyarrow as pa

    questions = [_question(text) for text in table.column("context").to_pylist()]
    answers = [
        {"value": answer, "aliases": list(dict.fromkeys([answer, *(aliases or ())]))}
        for answer, aliases in zip(table.column("answer").to_pylist(), table.column("aliases").to_pylist(), strict=True)
    ]
    return pa.table({"question": questions, "answer": pa.array(answers)})


def _question(prompt: str) -> str:
    return re.sub(r"^Question:\s*|\s*Answer:\s*$", "", prompt)


def _story_cloze(table: pa.Table) -> pa.Table:
    """The columns of the release's CSV files, `InputSentence1` or `RandomFifthSentenceQuiz1`."""
    names = {"InputStoryid": "story_id", "AnswerRightEnding": "answer_right_ending"}
    names |= {f"InputSentence{number}": f"input_sentence_{number}" for number in range(1, 5)}
    names |= {f"RandomFifthSentenceQuiz{number}": f"sentence_quiz{number}" for number in (1, 2)}
    return table.rename_columns([names.get(name, name) for name in table.column_names])


_CHANGES: tuple[tuple[str, frozenset[str], Callable[[pa.Table], pa.Table]], ...] = (
    (r"super_?glue|boolq", frozenset({"question", "passage", "answer"}), _boolq),
    (r"trivia_?qa", frozenset({"context", "answer", "aliases"}), _trivia_qa),
    (r"story_?cloze", frozenset({"InputSentence1", "RandomFifthSentenceQuiz1"}), _story_cloze),
)
"""(pattern of the data set's name, columns that the other form has, the change)."""
