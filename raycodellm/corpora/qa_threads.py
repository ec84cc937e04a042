"""Questions and answers, as the dumps of question sites are commonly converted to JSON lines, become plain text.

A document is the question (title, blank line, body) and below it its answers, the accepted one first, then by falling
score, in the record's order where scores are equal:

    Question: …

    Answer: …

    Answer: …

Understood, by field names: a question as `question`, `body` or an object with a title and a body, with or without a
`title`; `answers` as a list of texts, as a list of objects with a text (`text`, `body`, `answer`, `content`), a score
(`score`, `pm_score`, `upvotes`) and a mark (`selected`, `is_accepted`, `accepted`, or the question's
`accepted_answer_id`), or as one object of lists; pairs `response_j` (the better one) and `response_k`; one `answer`;
and records whose `text` is the whole thread already. Names of any case; `AcceptedAnswerId` is `accepted_answer_id`.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from html import unescape
from html.parser import HTMLParser
from typing import Any

from raycodellm.corpora.pairs import spoken


class NoQuestionError(ValueError):
    """The record is no question with an answer; the message is the reason that is counted."""


_TITLE = ("title", "questiontitle")
_BODY = ("body", "questionbody", "question", "questiontext", "content", "text")
_ANSWER_TEXT = ("text", "body", "answer", "answerbody", "answertext", "content")
_SCORE = ("score", "pmscore", "upvotes", "votes", "answerscore")
_ACCEPTED = ("selected", "isaccepted", "accepted")
_ANSWER_ID = ("answerid", "id", "aid")
_ACCEPTED_ID = ("acceptedanswerid", "acceptedid")
_ANSWERS = ("answers", "responses")
_BLANK_LINES = re.compile(r"\A(?:[^\S\n]*\n)+")
_BLOCK_TAG = re.compile(r"\s*<(p|pre|h[1-6]|ul|ol|blockquote|div|table|hr|a|em|strong|b|i|img|code|br|kbd|sub|sup)\b")


def question_document(record: Mapping[str, Any]) -> str:
    """The whole thread as one text; raises NoQuestionError."""
    fields = _folded(record)
    if isinstance(fields.get("text"), str) and not any(name in fields for name in (*_ANSWERS, "question", "responsej")):
        return fields["text"]
    question, answers = question_and_answers(record)
    return "\n\n".join([f"Question:{spoken(question)}", *(f"Answer:{spoken(answer)}" for answer in answers)])


def question_and_answers(record: Mapping[str, Any]) -> tuple[str, list[str]]:
    """(question, answers from the best on), at least one; raises NoQuestionError."""
    fields = _folded(record)
    asked = fields.get("question")
    if isinstance(asked, Mapping):
        fields = {**fields, **_folded(asked)}
        fields.pop("question")
    title, body = _first(fields, _TITLE), _first(fields, _BODY)
    texts = [to_text(part) for part in (title, body) if isinstance(part, str) and part.strip()]
    if not texts:
        raise NoQuestionError("no question and answers")
    answers = [to_text(answer) for answer in _ranked(fields)]
    answers = [answer for answer in answers if answer.strip()]
    if not answers:
        raise NoQuestionError("question without an answer")
    return "\n\n".join(dict.fromkeys(texts)), answers


def _folded(record: Mapping[str, Any]) -> dict[str, Any]:
    return {str(name).lower().replace("_", ""): value for name, value in record.items()}


def _first(fields: Mapping[str, Any], names: Sequence[str]) -> Any:
    return next((fields[name] for name in names if fields.get(name) is not None), None)


def _ranked(fields: Mapping[str, Any]) -> list[str]:
    given = _first(fields, _ANSWERS)
    if isinstance(given, Mapping):  # one object of lists
        columns = {name: value for name, value in given.items() if isinstance(value, (list, tuple))}
        given = [dict(zip(columns, row, strict=False)) for row in zip(*columns.values(), strict=False)]
    if isinstance(given, (list, tuple)):
        accepted = _first(fields, _ACCEPTED_ID)
        answers = [_answer(answer, accepted) for answer in given]
        return [text for _, _, text in sorted((a for a in answers if a), key=lambda a: (not a[0], -a[1]))]
    single = (fields.get("acceptedanswer"), fields.get("responsej"), fields.get("responsek"), fields.get("answer"))
    return [answer for answer in single if isinstance(answer, str)]


def _answer(answer: Any, accepted_id: Any) -> tuple[bool, float, str] | None:
    """(accepted, score, text)"""
    if isinstance(answer, str):
        return False, 0.0, answer
    fields = _folded(answer) if isinstance(answer, Mapping) else {}
    text = _first(fields, _ANSWER_TEXT)
    if not isinstance(text, str):
        return None
    score, number = _first(fields, _SCORE), _first(fields, _ANSWER_ID)
    accepted = _first(fields, _ACCEPTED) in (True, 1, "true", "True", "1")
    accepted = accepted or (accepted_id is not None and number is not None and str(accepted_id) == str(number))
    try:
        return accepted, float(score or 0), text
    except (TypeError, ValueError):
        return accepted, 0.0, text


def to_text(body: str) -> str:
    """HTML as text with fenced code. What does not begin with a tag is text already (Markdown may quote tags) and keeps
    the indentation of its first line.
    """
    if not _BLOCK_TAG.match(body):
        return _BLANK_LINES.sub("", body).rstrip()
    writer = _TextWriter()
    end = body.rfind(">") + 1  # no tag ends behind it, and the parser would look for an end at each bracket there
    writer.feed(body[:end])
    writer.close()
    writer.handle_data(unescape(body[end:]))
    return writer.text()


_BLOCKS = frozenset(("p", "div", "ul", "ol", "blockquote", "table", "hr", "pre", *(f"h{n}" for n in range(1, 7))))
_LINES = frozenset({"br", "tr", "li", "dt", "dd"})
_DROPPED = frozenset({"script", "style", "head"})


class _TextWriter(HTMLParser):
    """Blocks are parted by blank lines (in lists by line ends), items begin with a sign, code stands between fences."""

    def __init__(self) -> None:
        super().__init__(convert_charrefs=True)
        self._out: list[str] = []
        self._line_ends = 0
        """Due before what is written next."""
        self._sign = ""
        """Of a list item of which nothing is written yet."""
        self._lists: list[int | None] = []
        """Of each open list the number of its last item; None where items have no number."""
        self._code: list[str] | None = None
        self._dropped = 0

    def _break(self, line_ends: int) -> None:
        self._line_ends = max(self._line_ends, 1 if self._lists else line_ends)

    def _write(self, text: str) -> None:
        begins = not self._out or self._line_ends > 0
        text = text.lstrip(" ") if begins or self._out[-1].endswith(" ") else text
        if not text:
            return
        if begins and self._out:
            self._out[-1] = self._out[-1].rstrip(" ")
            self._out.append("\n" * self._line_ends)
        self._out += [self._sign, text] if self._sign else [text]
        self._line_ends, self._sign = 0, ""

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        if tag in _DROPPED:
            self._dropped += 1
        if self._code is not None:
            return
        if tag in _BLOCKS or tag in _LINES:
            self._break(2 if tag in _BLOCKS else 1)
        if tag == "pre":
            self._code = []
        elif tag in ("ul", "ol"):
            self._lists.append(0 if tag == "ol" else None)
        elif tag == "li":
            self._sign = self._item()
        elif tag == "code":
            self._write("`")
        elif tag == "img":
            self._write(dict(attrs).get("alt") or "")
        elif tag in ("td", "th"):
            self._write("\t" if self._out and not self._line_ends else "")

    def _item(self) -> str:
        indent = "  " * max(0, len(self._lists) - 1)
        if not self._lists or self._lists[-1] is None:
            return f"{indent}- "
        self._lists[-1] += 1
        return f"{indent}{self._lists[-1]}. "

    def handle_endtag(self, tag: str) -> None:
        if tag in _DROPPED:
            self._dropped = max(0, self._dropped - 1)
        elif tag == "pre" and self._code is not None:
            code, self._code = "".join(self._code).strip("\n"), None
            self._write(fenced(code) if code.strip() else "")
            self._break(2)
        elif self._code is None:
            if tag == "code":
                self._write("`")
            elif tag in ("ul", "ol") and self._lists:
                self._lists.pop()
            if tag in _BLOCKS:
                self._break(2)

    def handle_data(self, data: str) -> None:
        if self._code is not None:
            self._code.append(data)
        elif not self._dropped:
            self._write(re.sub(r"\s+", " ", data))

    def text(self) -> str:
        if self._code is not None:  # a block that was never closed
            self.handle_endtag("pre")
        return "".join(self._out).strip()


def fenced(code: str, language: str = "") -> str:
    """Code between fences that are longer than any in it."""
    longest = max((len(run) for run in re.findall(r"^ {0,3}(`{3,})", code, re.MULTILINE)), default=2)
    fence = "`" * max(3, longest + 1)
    return f"{fence}{language}\n{code}\n{fence}"
