"""Questions and answers, as the dumps of question sites are commonly converted to JSON lines.

A document is the question (title, blank line, body) and below it the answers: the accepted one first, then by falling
score, answers of equal score in the order of the record.

    Question: …

    Answer: …

    Answer: …

Field names are read without regard to case and underscores (`AcceptedAnswerId` is `accepted_answer_id`). Known are:

* the question as `question`, `body`, or an object with a title and a body; with or without `title`;
* `answers` as a list of texts; as a list of objects with a text (`text`, `body`, `answer`, `content`), a score
  (`score`, `pm_score`, `upvotes`) and a mark (`selected`, `is_accepted`, `accepted`, or the question's
  `accepted_answer_id`); as one object of lists; as the pair `response_j` (the better one) and `response_k`; as one
  `answer`;
* a record whose `text` is the whole thread.

For instruct kinds the question is the prompt and the best answer the response.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from raycodellm.config import Source
from raycodellm.corpora.documents import Document, SkipError, check_text
from raycodellm.corpora.formats.instruct import after_colon, finish_pair
from raycodellm.corpora.markdown import to_text
from raycodellm.corpora.registry import Format, RowReader

_TITLE = ("title", "questiontitle")
_BODY = ("body", "questionbody", "question", "questiontext", "content", "text")
_ANSWER_TEXT = ("text", "body", "answer", "answerbody", "answertext", "content")
_SCORE = ("score", "pmscore", "upvotes", "votes", "answerscore")
_ACCEPTED = ("selected", "isaccepted", "accepted")
_ANSWER_ID = ("answerid", "id", "aid")
_ACCEPTED_ID = ("acceptedanswerid", "acceptedid")
_ANSWERS = ("answers", "responses")


def question_document(record: Mapping[str, Any]) -> str:
    """The whole thread as one text. Raises SkipError."""
    fields = _fold_names(record)
    if isinstance(fields.get("text"), str) and not any(name in fields for name in (*_ANSWERS, "question", "responsej")):
        return fields["text"]
    question, answers = question_and_answers(record)
    return "\n\n".join([f"Question:{after_colon(question)}", *(f"Answer:{after_colon(answer)}" for answer in answers)])


def question_and_answers(record: Mapping[str, Any]) -> tuple[str, list[str]]:
    """(question, at least one answer, the best first). Raises SkipError."""
    fields = _fold_names(record)
    question = fields.get("question")
    if isinstance(question, Mapping):
        fields = {**fields, **_fold_names(question)}
        fields.pop("question")
    title, body = _first_value(fields, _TITLE), _first_value(fields, _BODY)
    texts = [to_text(part) for part in (title, body) if isinstance(part, str) and part.strip()]
    if not texts:
        raise SkipError("no question and answers")
    answers = [to_text(answer) for answer in _ranked_answers(fields)]
    answers = [answer for answer in answers if answer.strip()]
    if not answers:
        raise SkipError("question without an answer")
    return "\n\n".join(dict.fromkeys(texts)), answers


def _fold_names(record: Mapping[str, Any]) -> dict[str, Any]:
    """The record with its field names in lower case and without underscores."""
    return {str(name).lower().replace("_", ""): value for name, value in record.items()}


def _first_value(fields: Mapping[str, Any], names: Sequence[str]) -> Any:
    return next((fields[name] for name in names if fields.get(name) is not None), None)


def _ranked_answers(fields: Mapping[str, Any]) -> list[str]:
    """The answers, the best first."""
    raw_answers = _first_value(fields, _ANSWERS)
    if isinstance(raw_answers, Mapping):  # one object of lists
        columns = {name: value for name, value in raw_answers.items() if isinstance(value, (list, tuple))}
        raw_answers = [dict(zip(columns, row, strict=False)) for row in zip(*columns.values(), strict=False)]
    if isinstance(raw_answers, (list, tuple)):
        accepted = _first_value(fields, _ACCEPTED_ID)
        answers = [_answer(answer, accepted) for answer in raw_answers]
        return [text for _, _, text in sorted((a for a in answers if a), key=lambda a: (not a[0], -a[1]))]
    single = (fields.get("acceptedanswer"), fields.get("responsej"), fields.get("responsek"), fields.get("answer"))
    return [answer for answer in single if isinstance(answer, str)]


def _answer(answer: Any, accepted_id: Any) -> tuple[bool, float, str] | None:
    """(accepted, score, text)"""
    if isinstance(answer, str):
        return False, 0.0, answer
    fields = _fold_names(answer) if isinstance(answer, Mapping) else {}
    text = _first_value(fields, _ANSWER_TEXT)
    if not isinstance(text, str):
        return None
    score, number = _first_value(fields, _SCORE), _first_value(fields, _ANSWER_ID)
    accepted = _first_value(fields, _ACCEPTED) in (True, 1, "true", "True", "1")
    accepted = accepted or (accepted_id is not None and number is not None and str(accepted_id) == str(number))
    try:
        return accepted, float(score or 0), text
    except (TypeError, ValueError):
        return accepted, 0.0, text


def _to_document(source: Source, name: str, record: Mapping[str, Any]) -> Document:
    if not source.is_instruct:
        return Document(name, check_text(question_document(record)))
    question, answers = question_and_answers(record)
    return finish_pair(name, f"User:{after_colon(question)}\nAssistant:", answers[0], source)


FORMAT = Format(
    name="qa",
    rows=RowReader(
        _to_document,
        columns=lambda source: None,
        needs="questions and answers",
        identity=lambda source: {"qa": 2},
    ),
)
