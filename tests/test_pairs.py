"""Prompts hold all that belongs to them or count it; answers keep their indentation; weight 0 is not learnt."""

from __future__ import annotations

import ast
import json
from collections import Counter

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import given
from hypothesis import strategies as st
from reading import read, write

from raycodellm.config import Source
from raycodellm.corpora.formats.instruct import PromptResponse, pair_of
from raycodellm.corpora.formats.qa import question_document


def pair(**record: object) -> PromptResponse:
    return pair_of(record)


def user(*lines: str) -> str:
    return "User: " + "\n".join(lines) + "\nAssistant:"


@pytest.mark.parametrize(
    ("record", "prompt"),
    [
        ({"question": "How many?", "context": "CREATE TABLE", "answer": "3"}, user("How many?", "CREATE TABLE")),
        ({"instruction": "Who?", "context": "Ada did.", "response": "3"}, user("Who?", "Ada did.")),
        ({"instruction": "Add", "input": "1, 2", "context": ["a", "b"], "output": "3"}, user("Add", "1, 2", "a", "b")),
        ({"instruction": "Sum of 1, 2", "input": "2", "output": "3"}, user("Sum of 1, 2", "2")),
        ({"system": "In French.", "prompt": "Day?", "completion": "3"}, "System: In French.\n" + user("Day?")),
        ({"system_prompt": "In French.", "question": "Day?", "response": "3"}, "System: In French.\n" + user("Day?")),
        ({"system_prompt": "", "question": "Day?", "response": "3"}, user("Day?")),
        ({"question": "Day?", "context": b"Noon.", "response": "3"}, user("Day?", "Noon.")),
        ({"prompt": "Day?", "completion": "3", "context": "Noon."}, user("Day?", "Noon.")),
        (
            {"system": "Arr.", "instruction": "And?", "input": "", "output": "3", "history": [["Who?", "Bob."]]},
            "System: Arr.\nUser: Who?\nAssistant: Bob.\n" + user("And?"),
        ),
        (
            {"query": "And?", "response": "3", "history": [{"role": "user", "content": "Hm?"},
                                                           {"role": "assistant", "content": "  Yes."}]},
            "User: Hm?\nAssistant:  Yes.\n" + user("And?"),
        ),
        ({"query": "And?", "response": "3", "history": ["Hm?", "Yes."]}, "User: Hm?\nAssistant: Yes.\n" + user("And?")),
        ({"query": "And?", "response": "3", "history": [{"prompt": "Hm?", "response": "Yes."}]},
         "User: Hm?\nAssistant: Yes.\n" + user("And?")),
        ({"question": "Two?", "choices": ["one", "two"], "answer": "3"}, user("Two?", "A. one", "B. two")),
        ({"question": "Two?", "choices": ["(a) one", "(b) two"], "answer": "3"}, user("Two?", "(a) one", "(b) two")),
        ({"question": "Two?", "options": {"A": "one", "B": 2}, "answer": "3"}, user("Two?", "A. one", "B. 2")),
        ({"question": "Two?", "choices": {"text": ["one", "two"], "label": ["1", "2"]}, "answer": "3"},
         user("Two?", "1. one", "2. two")),
        ({"question": "Two?", "choices": [{"label": "A", "text": "one"}], "answer": "3"}, user("Two?", "A. one")),
        ({"problem": "Add.", "starter_code": "def add(a, b):\n    ", "solution": "3"},
         user("Add.", "def add(a, b):\n    ")),
        ({"problem": "Add.\ndef add():\nEnd", "starter_code": "def add():", "solution": "3"},
         user("Add.\ndef add():\nEnd")),
        ({"system": "Arr.", "context": "Sea.", "conversations": [{"from": "human", "value": "hi"},
                                                                 {"from": "gpt", "value": "3"}]},
         "System: Arr.\n" + user("hi", "Sea.")),
        ({"system": "Arr.", "messages": [{"role": "system", "content": "Arr."}, {"role": "user", "content": "hi"},
                                         {"role": "assistant", "content": "3"}]}, "System: Arr.\n" + user("hi")),
    ],
)  # fmt: skip
def test_what_belongs_to_a_prompt_is_in_it_and_not_counted(record, prompt):
    assert pair(**record) == PromptResponse(prompt, " 3")


@pytest.mark.parametrize(
    ("more", "counted"),
    [
        ({"hint": "think of two"}, "hint"),
        ({"tools": [{"name": "add", "description": "adds two numbers"}]}, "tools"),
        ({"context": {"sentences": ["Ada was here."]}}, "context"),
        ({"history": [["only a question"]]}, "history"),
        ({"choices": {"A": "one thing", "B": {"c": "two things"}}}, "choices"),
        ({"context": b"not \xff UTF-8"}, "context"),
        ({"背景": "三点半在桥边"}, "背景"),
        (
            {"id": "a-17", "category": "closed_qa", "score": 3.5, "tags": ["math", "easy"], "seen": True},
            "",
        ),
        ({"text": "Two?"}, ""),  # it stands in the prompt
    ],
)
def test_a_column_with_text_that_is_not_used_is_counted_by_its_name(more, counted):
    prompt, response, notes = pair(question="One more than one: Two?", answer="yes", **more)
    assert (prompt, response) == (user("One more than one: Two?"), " yes")
    assert notes == ((f"column {counted!r} not used",) if counted else ())


def test_columns_that_are_not_used_are_counted_in_every_format_and_settings_are_not(tmp_path):
    rows = [{"prompt": "1+1=", "completion": "2", "hint": "count up", "place": "a b", "picture": b"x y"}] * 3
    rows += [{"prompt": "1+1=", "completion": "2", "hint": None, "place": "c d", "picture": b"x y"}]
    path = write(tmp_path / "i.jsonl", "".join(json.dumps({**row, "picture": None}) + "\n" for row in rows))
    pq.write_table(pa.Table.from_pylist(rows), tmp_path / "i.parquet")
    for one in (path, str(tmp_path / "i.parquet")):
        documents, skips = read(Source(kind="instruct_text", path=one, license_field="place"))
        assert skips == {"column 'hint' not used": 3}
        assert [(d.text, d.response, d.notes, d.meta["place"]) for d in documents[::3]] == [
            ("1+1=", " 2", (), "a b"),
            ("1+1=", " 2", (), "c d"),
        ]


def turns(*weights: object, key: str = "weight") -> dict[str, object]:
    said = []
    for number, weight in enumerate(weights):
        said += [{"role": "user", "content": f"q{number}"}, {"role": "assistant", "content": f"a{number}", key: weight}]
    return {"messages": said}


@pytest.mark.parametrize(
    ("record", "response", "left_out"),
    [
        (turns(1, 0), " a0", 1),
        (turns(1, 0, 0.0, 1), " a3", 0),
        (turns(1, 1, 0, "0"), " a1", 2),
        (turns(None, None), " a1", 0),
        (turns(True, False, key="train"), " a0", 1),
    ],
)
def test_an_answer_of_weight_0_is_never_learnt(record, response, left_out):
    found = pair(**record)
    assert found.response == response and found.notes == ("answer of weight 0",) * left_out
    assert found.prompt.endswith(f"User: q{response[-1]}\nAssistant:")


def test_a_conversation_with_no_answer_to_learn_is_counted(tmp_path):
    path = write(tmp_path / "i.jsonl", json.dumps(turns(0, 0)) + "\n" + json.dumps(turns(1, 0)))
    documents, skips = read(Source(kind="instruct_text", path=path))
    assert len(documents) == 1
    assert skips == {"every answer has a weight of 0": 1, "answer of weight 0": 1}


BODY = "    y = x + 1\n    return y\n"


@pytest.mark.parametrize(
    "record",
    [
        {"messages": [{"role": "user", "content": "complete def f(x):"}, {"role": "assistant", "content": BODY}]},
        {"instruction": "complete", "output": BODY},
        {"instruction": "complete", "output": "\n\n" + BODY},
        {"prompt": "def f(x):\n", "completion": BODY},
    ],
)
def test_an_answer_keeps_the_indentation_of_its_first_line(tmp_path, record):
    (document,), skips = read(Source(kind="instruct_code", path=write(tmp_path / "i.jsonl", json.dumps(record))))
    assert document.response == BODY and not skips
    ast.parse("def f(x):\n" + document.response)


def test_threads_keep_the_indentation_of_answers_too():
    thread = {"question": "complete", "answers": ["\n" + BODY, "  \n "]}
    assert question_document(thread) == "Question: complete\n\nAnswer:" + BODY.rstrip()


COLUMNS = ["system", "history", "input", "context", "choices", "options", "starter_code", "messages", "hint"]
VALUES = st.recursive(
    st.none() | st.booleans() | st.integers(0, 9) | st.text("ab \n", max_size=6),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.sampled_from(["label", "text", "role"]), inner),
    max_leaves=6,
)


@given(st.dictionaries(st.sampled_from(COLUMNS), VALUES, max_size=4))
def test_whatever_stands_in_the_other_columns_a_record_gives_its_pair(more):
    found = pair(question="Q?", answer="A", **more)
    assert found.prompt.endswith("\nAssistant:") and "User: Q?\n" in found.prompt and found.response == " A"
    assert max(Counter(found.notes).values(), default=1) == 1
